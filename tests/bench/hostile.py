"""``make bench``: what care costs. Validation on open, a certificate beside reading the file, fsync, going on after a pause.

Medians; ratios say more than seconds, since both sides run on the same machine in turn.
"""

import contextlib
import gc
import json
import os
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MONO_QUANT_RUNS", str(Path(__file__).parents[2] / "build" / "bench-runs"))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from safetensors.torch import save_file

import engine
from engine.readers.header import read_header

TENSORS = 10_000


def median(call: Callable[[], object], times: int = 5) -> float:
    """Seconds."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def spent(call: Callable[[], object], times: int = 5) -> float:
    """Seconds of the processor, of work on one thread: other programs do not count."""
    found = []
    for _ in range(times):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return statistics.median(found)


def many(path: Path, count: int = TENSORS) -> Path:
    header = {
        f"model.layers.{n // 9}.mlp.experts.{n % 9}.w.weight": {
            "dtype": "U8", "shape": [2, 2], "data_offsets": [4 * n, 4 * n + 4],
        }
        for n in range(count)
    }  # fmt: skip
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * count))
    return path


def opening(folder: Path) -> None:
    path = many(folder / "many.safetensors")
    raw = path.read_bytes()
    text = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    gc.disable()  # as open_model does
    parsed, checked = spent(lambda: json.loads(text)), spent(lambda: read_header(str(path)))
    gc.enable()
    whole = spent(lambda: engine.open_model(path))
    print(
        f"open {TENSORS:,} tensors: JSON alone {1000 * parsed:.0f} ms, parsed and validated {1000 * checked:.0f} ms "
        f"(validation {1000 * (checked - parsed):.0f} ms), open_model {1000 * whole:.0f} ms"
    )


def certificate(folder: Path) -> None:
    weights = {f"layers.{n}.weight": (torch.randn(4096, 4096) * 0.05).bfloat16() for n in range(8)}
    source, out = folder / "model.safetensors", folder / "out.safetensors"
    save_file(weights, source)
    engine.quantize_to(source, out, "int4:g128", record=False)

    def read() -> None:
        for path in (source, out):
            with open(path, "rb") as file:
                while file.read(1 << 24):
                    pass

    reading, certifying = median(read), median(lambda: engine.certify(out, source, forward=False), 3)
    size = source.stat().st_size + out.stat().st_size
    ratio = certifying / reading
    print(f"certify {size / 1e6:.0f} MB: {certifying:.2f} s, reading both files {reading:.2f} s (cached): {ratio:.1f} ×")
    fsync = os.fsync
    synced = median(lambda: engine.quantize_to(source, out, "int4:g128", record=False, overwrite=True), 3)
    os.fsync = lambda _descriptor: None  # type: ignore[assignment]
    try:
        loose = median(lambda: engine.quantize_to(source, out, "int4:g128", record=False, overwrite=True), 3)
    finally:
        os.fsync = fsync
    print(f"quantize with fsync {synced:.2f} s, without {loose:.2f} s: {synced / loose:.2f} ×")


class _Half(engine.Monitor):
    """Pauses after half of the layers."""

    def __init__(self, layers: int) -> None:
        self.left = layers

    def layer_done(self, report: engine.LayerReport) -> None:
        self.left -= 1

    def paused(self) -> bool:
        return self.left <= 0


def going_on(folder: Path) -> None:
    source, out = folder / "model.safetensors", folder / "resumed.safetensors"
    whole = median(lambda: engine.quantize_to(source, out, "int4:g128", record=False, overwrite=True), 3)
    out.unlink()
    started = time.perf_counter()
    with contextlib.suppress(engine.Paused):
        engine.quantize_to(source, out, "int4:g128", record=False, monitor=_Half(4))
    engine.quantize_to(source, out, "int4:g128", record=False, resume=True)
    both = time.perf_counter() - started
    print(f"paused in the middle and gone on {both:.2f} s, in one go {whole:.2f} s: {both / whole:.2f} ×")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        opening(Path(folder))
        certificate(Path(folder))
        going_on(Path(folder))


if __name__ == "__main__":
    main()
