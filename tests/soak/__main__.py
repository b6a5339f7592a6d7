"""``make soak``: everything that goes wrong is tried in full, and one table says what came of it.

python -m tests.soak [--mutations 10000] [--seed 1] [--kills 200] [--gigabytes 26] [--without giant]
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak import giant, hostile

COLUMNS = ("tried", "named", "crashed", "hung", "executed", "lost")


@dataclass(slots=True)
class Row:
    """``named``: told by one sentence. ``lost``: something old, finished or chosen was gone, or something torn stayed."""

    name: str
    tried: int
    named: int = 0
    crashed: int = 0
    hung: int = 0
    executed: int = 0
    lost: int = 0
    note: str = ""

    @property
    def wrong(self) -> int:
        return self.crashed + self.hung + self.executed + self.lost


def files(options: argparse.Namespace) -> list[Row]:
    """Hostile files and random changes of sound ones. What is refused by no or a bad sentence counts as crashed."""
    found = hostile.run(options.mutations, options.seed)
    rows = [
        Row(
            name, of.total(), of["named"], of["crashed"] + of["defect"], of["hung"], of["executed"], 0, f"{of['opened']:,} opened"
        )
        for name, of in found.counted.items()
    ]
    rows[-1].note += f"; the slowest case of all took {found.slowest[0]:.2f} s of the processor: {found.slowest[1]}"
    print(*found.wrong, sep="\n", file=sys.stderr)
    return rows


def faults(_options: argparse.Namespace) -> list[Row]:
    """Every call of the system fails in turn, disks fill, models change: each test is one kind of fault, at every place."""
    text = pytest("-k", "faults and not kills", "tests/engine")
    passed, failed = (sum(map(int, re.findall(rf"(\d+) {word}", text))) for word in ("passed", "failed|error"))
    return [Row("kinds of faults", passed + failed, passed, lost=failed, note="calls that fail, full disks, changing models")]


def kills(options: argparse.Namespace) -> list[Row]:
    """``kill -9`` of a run; a quarter of them while names change."""
    from tests.engine.faults import make_model

    with tempfile.TemporaryDirectory() as folder:
        model, place = make_model(Path(folder) / "model", layers=8), Path(folder) / "place"
        place.mkdir()
        words = [str(model), str(place), str(options.seed), str(options.kills), str(options.kills // 4)]
        done = subprocess.run([sys.executable, "-m", "tests.engine.killing", *words], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
        return [Row("runs killed", options.kills, crashed=1)]
    told = json.loads(done.stdout)
    print(*told["wrong"], sep="\n", file=sys.stderr)
    found = told["found"]
    words = ", ".join(f"{found.get(what, 0)} {what}" for what in ("old", "absent", "whole"))
    return [Row("runs killed", options.kills, lost=len(told["wrong"]), note=f"the destination afterwards: {words}")]


def windows(_options: argparse.Namespace) -> list[Row]:
    """The engine ends under a window by a signal or for want of memory."""
    text = pytest("-s", "tests/gui/test_engine_kills.py")
    found = re.search(r"engine ended at (\d+) points: (.*)", text)
    if found is None:
        print(text[-3000:], file=sys.stderr)
        return [Row("engines killed", 50, lost=1)]
    return [Row("engines killed", int(found[1]), int(found[1]), note=found[2])]


def giants(options: argparse.Namespace) -> list[Row]:
    """A checkpoint far larger than the address space."""
    folder = Path(tempfile.mkdtemp(prefix="mono-quant-giant-"))
    try:
        return [Row("giant", 1, note=giant.run(options.gigabytes, 2_000_000_000, folder))]
    except RuntimeError as error:
        return [Row("giant", 1, crashed=1, note=str(error)[-300:])]
    finally:
        shutil.rmtree(folder)


def pytest(*words: str) -> str:
    """What it printed."""
    environment = os.environ | {"MONO_QUANT_SOAK": "1", "QT_QPA_PLATFORM": "offscreen"}
    return subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, env=environment).stdout


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "files": files, "faults": faults, "kills": kills, "windows": windows, "giant": giants,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--gigabytes", type=float, default=26)
    parser.add_argument("--without", nargs="*", default=[], choices=PARTS)
    options = parser.parse_args()
    rows: list[Row] = []
    for name, part in PARTS.items():
        if name not in options.without:
            started = time.perf_counter()
            rows += part(options)
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"| {time.strftime('%d %B %Y')}, {os.cpu_count()} cores, {platform.machine()} | {' | '.join(COLUMNS)} | |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for row in rows:
        print(f"| {row.name} | {' | '.join(f'{getattr(row, column):,}' for column in COLUMNS)} | {row.note} |")
    return any(row.wrong for row in rows)


if __name__ == "__main__":
    sys.exit(main())
