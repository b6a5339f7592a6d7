"""Kills a run at seeded points and looks at what is left: ``python -m tests.engine.killing MODEL PLACE SEED COUNT WINDOW``.

A process that has everything imported forks for every kill, so that one costs milliseconds. Points are calls of the system, among
them every read; the last WINDOW kills lie between the last fsync and the end: where names change. Prints one JSON document.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
from engine.history import Ledger
from tests.engine.faults import contents, hidden

CALLS = (
    "pwrite", "preadv", "pread", "fsync", "fdatasync", "replace", "rename", "mkdir", "truncate", "write", "unlink", "rmdir",
    "open", "close", "scandir",
)  # fmt: skip
FORMS = {"out.safetensors": "safetensors", "out": "compressed-tensors"}


class Point:
    """Counts calls; at the ``at``-th the process kills itself, before or after the call is made."""

    def __init__(self, at: int, after: bool) -> None:
        self.count, self.at, self.after = 0, at, after
        self.names: list[str] = []

    @contextlib.contextmanager
    def set(self):
        real = {name: getattr(os, name) for name in CALLS}
        for name, function in real.items():
            setattr(os, name, self._wrapped(name, function))
        try:
            yield self
        finally:
            for name, function in real.items():
                setattr(os, name, function)

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            self.names.append(name)
            mine = self.count == self.at
            if mine and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*arguments, **named)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call


class Case:
    """One kind of run: its destination, with or without something old in it, recorded or not."""

    def __init__(self, model: Path, place: Path, target: str, old: bool, recorded: bool) -> None:
        self.model, self.folder, self.target, self.recorded = model, place / f"{target}-{old:d}-{recorded:d}", target, recorded
        self.folder.mkdir()
        self.path = self.folder / target
        self.old: dict[str, bytes] | None = None
        self._kept = place / f"kept-{self.folder.name}"
        self.run("int8:channel")
        self.before = contents(self.path) if old else None
        os.rename(self.path, self._kept)
        self.reset()
        point = Point(0, False)
        with point.set():
            self.run()
        self.whole, self.calls = contents(self.path), point.count
        last = max(place for place, name in enumerate(point.names) if name in ("replace", "rename") and place)
        self.window = next(n for n in range(last, 0, -1) if point.names[n - 1] in ("pwrite", "preadv"))
        if not engine.certify(self.path, model, forward=False).certified:
            sys.exit("what a whole run writes is not certified")

    def run(self, scheme: str = "int4:g64", resume: bool = False) -> None:
        engine.quantize_to(
            self.model, self.path, scheme, format=FORMS[self.target], overwrite=True, record=self.recorded, resume=resume
        )

    def reset(self) -> None:
        for path in list(self.folder.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.before is not None:
            (shutil.copytree if self._kept.is_dir() else shutil.copyfile)(self._kept, self.path)

    def kill(self, point: Point) -> bool:
        """Whether the process came to the point."""
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException), point.set():
                self.run()
            os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    def what(self) -> str:
        """What is at the destination: one of old, absent, whole; anything else is torn."""
        found = contents(self.path)
        known = {"absent": None, "old": self.before, "whole": self.whole}
        return next((name for name, value in known.items() if found == value), "TORN")

    def next_start(self, resume: bool) -> str:
        """What is wrong after the next start; empty when nothing is."""
        if self.recorded:
            with Ledger(os.environ["MONO_QUANT_RUNS"]) as ledger:
                ledger.take_over()
                if ledger.set_aside or any(run.state in ("running", "queued") for run in ledger.find()):
                    return "the ledger is damaged, or believes that a dead run lives"
        if resume or self.recorded:
            self.run(resume=resume)
            wrong = "" if self.what() == "whole" else "other bytes"
        else:
            engine.quantize_to(self.model, self.folder / "next.safetensors", "fp16", format="safetensors", record=False)
            wrong = "" if self.what() in ("whole", "old" if self.before is not None else "absent") else "the old one is away"
        return wrong or ("something temporary is left" if hidden(self.folder) else "")


def main() -> None:
    model, place, seed, count, window = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6])
    os.environ["MONO_QUANT_RUNS"] = str(place / "runs")
    chance = random.Random(seed)
    cases = [Case(model, place, *kind) for kind in (
        ("out.safetensors", False, False), ("out.safetensors", True, True), ("out", False, True), ("out", True, False),
    )]  # fmt: skip
    found: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(count):
        case = cases[number % len(cases)]
        first = case.window if number >= count - window else 1
        at, after, resume = chance.randint(first, case.calls), chance.random() < 0.5, chance.random() < 0.5
        case.reset()
        found["killed" if case.kill(Point(at, after)) else "came to its end"] += 1
        what = case.what()
        found[what] += 1
        trouble = case.next_start(resume) if what != "TORN" else "torn"
        if trouble:
            wrong.append(f"{case.folder.name}, call {at} of {case.calls}, after={after}, resume={resume}: {trouble}")
    print(json.dumps({"found": found, "wrong": wrong, "calls": [case.calls for case in cases]}))


if __name__ == "__main__":
    main()
