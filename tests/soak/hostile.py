"""Every hostile file and thousands of mutations, in processes that may die: one table of what came of them.

python -m tests.soak.hostile [--mutations 10000] [--seed 1]; ``python -m tests.soak`` has other faults too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.corpus.case import Case

KINDS = ("opened", "named", "defect", "crashed", "hung", "executed")
TOGETHER = 500
"""Cases that one process tries."""
LONG = 0.5
"""Seconds of the processor from which on a case is timed again: a process's first ones also load what they need, once."""


def every(mutated: int, seed: int) -> Iterator:
    from tests.corpus import cases
    from tests.corpus.mutations import mutations

    yield from cases()
    yield from mutations(mutated, seed)


def child(mutated: int, seed: int, first: int) -> None:
    """Try cases from a number on; each is told of before and after."""
    for number, case in enumerate(islice(every(mutated, seed), first, first + TOGETHER), first):
        print(json.dumps({"number": number, "name": case.name}), flush=True)
        kind, seconds = _tried(case)
        if seconds > LONG:
            seconds = min(seconds, _tried(case)[1])
        print(json.dumps({"number": number, "kind": kind, "seconds": round(seconds, 3)}), flush=True)


def _tried(case: Case) -> tuple[str, float]:
    """What came of a case, and seconds of the processor."""
    from tests.corpus.judge import open_in_python

    with tempfile.TemporaryDirectory() as folder:
        path = case.make(Path(folder))
        started = time.process_time()
        try:
            kind = "opened" if open_in_python(case, path).sentence is None else "named"
        except AssertionError as error:
            kind = "executed" if "ran code" in str(error) else "defect"
            traceback.print_exc()
        except Exception:
            kind = "defect"
            traceback.print_exc()
        return kind, time.process_time() - started


@dataclass(slots=True)
class Found:
    """``counted`` by what was tried; ``slowest``: seconds of the processor and name of the case that took longest."""

    counted: dict[str, Counter[str]] = field(default_factory=lambda: {"hostile files": Counter(), "random changes": Counter()})
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


def run(mutations: int, seed: int) -> Found:
    """All of them, in processes that try some each; the one after a crash goes on behind it."""
    found, number = Found(), 0
    while True:
        command = [sys.executable, "-m", "tests.soak.hostile", "--mutations", str(mutations), "--seed", str(seed)]
        done = subprocess.run([*command, "--from", str(number)], capture_output=True, text=True)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        names = {line["number"]: line["name"] for line in said if "name" in line}
        kinds = {line["number"]: line["kind"] for line in said if "kind" in line}
        for unanswered in names.keys() - kinds.keys():  # the process ended in the middle of it
            kinds[unanswered] = "hung" if "Timeout" in done.stderr else "crashed"
        for tried, kind in kinds.items():
            found.counted["random changes" if names[tried].startswith("mutation ") else "hostile files"][kind] += 1
            if kind not in ("opened", "named"):
                found.wrong.append(f"{kind}: {names[tried]}")
        times = [(line["seconds"], names[line["number"]]) for line in said if "seconds" in line]
        found.slowest = max([found.slowest, *times])
        if found.wrong and done.stderr:
            print(done.stderr[-3000:], file=sys.stderr)
        if not names:
            return found
        number = max(names) + 1
        print(f"{number:,} tried, {len(found.wrong)} of them wrong", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="first", type=int)
    options = parser.parse_args()
    if options.first is not None:
        child(options.mutations, options.seed, options.first)
        return 0
    found = run(options.mutations, options.seed)
    print(f"{'':15}{'tried':>8}" + "".join(f"{kind:>10}" for kind in KINDS))
    for name, counts in found.counted.items():
        print(f"{name:15}{counts.total():>8}" + "".join(f"{counts[kind]:>10}" for kind in KINDS))
    print(f"slowest: {found.slowest[0]:.2f} s of the processor, {found.slowest[1]}")
    print(*found.wrong, sep="\n")
    return bool(found.wrong)


if __name__ == "__main__":
    sys.exit(main())
