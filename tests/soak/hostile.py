"""Every hostile file and thousands of mutations, in processes that may die: one table of what came of them.

python -m tests.soak.hostile [--mutations 10000] [--seed 1]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

KINDS = ("opened", "named", "defect", "crashed", "hung", "executed")
TOGETHER = 500
"""Cases that one process tries."""


def every(mutated: int, seed: int) -> Iterator:
    from tests.corpus import cases
    from tests.corpus.mutations import mutations

    yield from cases()
    yield from mutations(mutated, seed)


def child(mutated: int, seed: int, first: int) -> None:
    """Try cases from a number on; each is told of before and after."""
    from tests.corpus.judge import open_in_python

    for number, case in enumerate(islice(every(mutated, seed), first, first + TOGETHER), first):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"number": number, "name": case.name}), flush=True)
            try:
                verdict = open_in_python(case, case.make(Path(folder)))
                kind = "opened" if verdict.sentence is None else "named"
            except AssertionError as error:
                kind = "executed" if "ran code" in str(error) else "defect"
                traceback.print_exc()
            except Exception:
                kind = "defect"
                traceback.print_exc()
            print(json.dumps({"number": number, "kind": kind}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="first", type=int)
    options = parser.parse_args()
    if options.first is not None:
        child(options.mutations, options.seed, options.first)
        return 0
    counted: dict[str, Counter[str]] = {"corpus": Counter(), "mutations": Counter()}
    number, wrong = 0, list[str]()
    while True:
        command = [sys.executable, "-m", "tests.soak.hostile", "--mutations", str(options.mutations), "--seed", str(options.seed)]
        done = subprocess.run([*command, "--from", str(number)], capture_output=True, text=True)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        names = {line["number"]: line["name"] for line in said if "name" in line}
        kinds = {line["number"]: line["kind"] for line in said if "kind" in line}
        for unanswered in names.keys() - kinds.keys():  # the process ended in the middle of it
            kinds[unanswered] = "hung" if "Timeout" in done.stderr else "crashed"
        for tried, kind in kinds.items():
            counted["mutations" if names[tried].startswith("mutation ") else "corpus"][kind] += 1
            if kind not in ("opened", "named"):
                wrong.append(f"{kind}: {names[tried]}")
        if wrong and done.stderr:
            print(done.stderr[-3000:], file=sys.stderr)
        if not names:
            break
        number = max(names) + 1
        print(f"{number:,} tried, {len(wrong)} of them wrong", file=sys.stderr, flush=True)
    print(f"{'':10}{'tried':>8}" + "".join(f"{kind:>10}" for kind in KINDS))
    for name, counts in counted.items():
        print(f"{name:10}{counts.total():>8}" + "".join(f"{counts[kind]:>10}" for kind in KINDS))
    print(*wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
