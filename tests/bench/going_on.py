"""What going on, taking over, making durable and knowing the contents cost, beside an ordinary run (``make bench``)."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import make_model

import engine
from engine.errors import Paused
from engine.numerics import checksum

ROUNDS = 3


class AtTheEnd(engine.Monitor):
    """Pauses before the last tensor."""

    def __init__(self, tensors: int) -> None:
        self._left = tensors

    def paused(self) -> bool:
        self._left -= 1
        return self._left <= 0


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(model: Path, out: Path, algorithm: str) -> None:
    recipe = engine.Recipe(engine.parse_scheme("int4:g128"), algorithm=algorithm)
    summary = engine.open_model(model)
    names = [line.layer.name for line in engine.plan(summary, recipe).layers if not line.kept]
    mended = engine.Recipe(recipe.default, algorithm, rules=(engine.Rule(engine.parse_scheme("int8:channel"), match=names[0]),))
    found: dict[str, list[float]] = {"whole": [], "resumed": [], "taken over": [], "fsync": []}

    def run(chosen: engine.Recipe = recipe, **more) -> engine.RunReport:
        return engine.quantize_to(summary, out, chosen, format="safetensors", overwrite=True, **more)

    first = engine.quantize_to(summary, out.with_name("first.safetensors"), recipe, format="safetensors", overwrite=True).run
    real, spent = os.fsync, 0.0

    def timed(descriptor: int) -> None:
        nonlocal spent
        spent += seconds(lambda: real(descriptor))

    for _ in range(ROUNDS):
        spent, os.fsync = 0.0, timed
        found["whole"].append(seconds(run))
        found["fsync"].append(spent)
        os.fsync = real
        out.unlink()
        try:
            run(monitor=AtTheEnd(len(summary.layers)))
        except Paused:
            found["resumed"].append(seconds(lambda: run(resume=True)))
        found["taken over"].append(seconds(lambda: run(mended, reuse=first)))
    whole, resumed, taken, fsync = (statistics.median(found[name]) for name in found)
    print(
        f"{algorithm:4}: a run {whole:5.2f} s; going on before its last tensor {resumed / whole:.2f} of that; "
        f"one of {len(names)} layers changed, the rest taken over {taken / whole:.2f}; fsync {fsync / whole:.2f}"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_model.make(Path(folder) / "model", 2)
        for algorithm in ("rtn", "hqq"):
            compare(Path(folder) / "model", Path(folder) / "out.safetensors", algorithm)
        raw = memoryview(bytes(1 << 21))
        checksum.piece(0, raw)
        best = min(seconds(lambda: checksum.piece(0, raw)) for _ in range(100))
        print(f"checksum of what is read: {len(raw) / best / 1e9:.1f} GB/s on one core")


if __name__ == "__main__":
    main()
