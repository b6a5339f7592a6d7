"""``make bench``: the engine beside a careful plain-torch pass, on a 0.77 B-parameter checkpoint.

Both sides run in fresh processes, in turn; seconds exclude imports; medians and ratios are printed. Ours includes what the
other leaves out: bit-exact bfloat16 arithmetic, NaN checks, the histogram of quantized weights, fsync and verification.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import make_model  # noqa: E402
from many import many_tensors  # noqa: E402

ENGINE = """
import json, sys, time
import engine
from engine import numerics
from engine.quantizing import pipeline
loading = time.perf_counter()
numerics.warm_up()
loading = time.perf_counter() - loading
started = time.perf_counter()
scheme, _, algorithm = sys.argv[3].partition("/")
recipe = engine.Recipe(engine.parse_scheme(scheme), algorithm=algorithm or "rtn")
report = engine.quantize_to(sys.argv[1], sys.argv[2], recipe, format="safetensors")
print(json.dumps({{"seconds": time.perf_counter() - started, "peak": report.peak_memory_bytes, "loading": loading}}))
"""


def measured(command: list[str]) -> dict:
    """Run one side; its own JSON, with the peak memory of its process tree where it does not say."""
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"QT_QPA_PLATFORM": "offscreen"})
    peak = 0
    while watcher.poll() is None:
        try:
            status = Path(f"/proc/{watcher.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))])
        except OSError:
            pass
        time.sleep(0.01)
    assert watcher.stdout
    text = watcher.stdout.read()
    if watcher.returncode:
        sys.exit(f"{command[:4]} failed")
    return {"peak": peak} | json.loads(text.strip().splitlines()[-1])


def versus(model: Path, scheme: str, yardstick: str, rounds: int, scratch: Path) -> None:
    ours: list[dict] = []
    theirs: list[dict] = []
    for turn in range(-1, rounds):  # the first round warms caches and is not counted
        for side in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
            out = scratch / "out.safetensors"
            out.unlink(missing_ok=True)
            os.sync()
            if side == "ours":
                row = measured([sys.executable, "-c", ENGINE.format(), str(model), str(out), scheme])
            else:
                row = measured([sys.executable, str(HERE / "torch_stream.py"), yardstick, str(model), str(out)])
            if turn >= 0:
                (ours if side == "ours" else theirs).append(row)
    mine, other = (statistics.median(row["seconds"] for row in rows) for rows in (ours, theirs))
    memory, other_memory = (statistics.median(row["peak"] for row in rows) / 1e6 for rows in (ours, theirs))
    loading = statistics.median(row["loading"] for row in ours)
    print(
        f"{scheme:14} engine {mine:5.2f} s {memory:4.0f} MB   torch in chunks {other:5.2f} s {other_memory:4.0f} MB   "
        f"ratio {mine / other:4.2f}  (medians of {rounds}; kernels loaded before in {loading:.2f} s)",
        flush=True,
    )


FORMATS = (
    "int8:channel", "int4:g128", "int4:g128:asym", "int3:g64", "int8:b128x128", "fp8_e4m3:channel", "fp8_e4m3:b128x128",
    "mxfp8", "mxfp6", "mxfp4", "nvfp4", "nf4:g64", "nf4:g64:double", "ternary:g128", "binary:g128",
    "int4:g64:floatzero/hqq", "int4:g128/mse", "int4:g128/mse:search=golden:steps=12",
)  # fmt: skip
COPY = """
import json, os, shutil, sys, time
started = time.perf_counter()
shutil.copyfile(os.path.join(sys.argv[1], "model.safetensors"), sys.argv[2])
os.fsync(os.open(sys.argv[2], os.O_RDWR))
print(json.dumps({"seconds": time.perf_counter() - started}))
"""


def formats(model: Path, rounds: int, scratch: Path) -> None:
    """Quantize, measure and write in every format, beside a plain copy of the same file."""
    size = (model / "model.safetensors").stat().st_size
    weights = make_model.linear_weights(16)
    seconds: dict[str, list[float]] = {name: [] for name in ("copy", *FORMATS)}
    for turn in range(-1, rounds):
        for name, rows in seconds.items():
            out = scratch / "out.safetensors"
            out.unlink(missing_ok=True)
            os.sync()
            code = [COPY] if name == "copy" else [ENGINE.format()]
            row = measured([sys.executable, "-c", *code, str(model), str(out), name])
            if turn >= 0:
                rows.append(row["seconds"])
    copying = statistics.median(seconds["copy"])
    for name, rows in seconds.items():
        middle = statistics.median(rows)
        print(
            f"{name:24} {middle:6.2f} s   {size / middle / 1e9:5.2f} GB/s   {middle / weights * 1e9:6.2f} ns per parameter   "
            f"{middle / copying:5.2f} times a copy",
            flush=True,
        )


def growth(scratch: Path) -> None:
    """Seconds and memory at three sizes of the same shapes."""
    for layers in (8, 16, 32):
        sparse_model(scratch / "sparse.safetensors", layers)
        arguments = [str(scratch / "sparse.safetensors"), str(scratch / "o.safetensors"), "int4:g128"]
        rows = [measured([sys.executable, "-c", ENGINE.format(), *arguments]) for _ in range(3) if not _remove(arguments[1])]
        row = sorted(rows, key=lambda row: row["seconds"])[1]
        weights = make_model.linear_weights(layers)
        print(
            f"growth         {weights / 1e9:4.2f} B weights   {row['seconds']:5.2f} s   "
            f"{row['seconds'] / weights * 1e9:5.2f} ns per parameter   {row['peak'] / 1e6:.0f} MB",
            flush=True,
        )
        _remove(arguments[1])


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def sparse_model(path: Path, layers: int) -> None:
    """The same shapes without data: takes no disk."""
    header, position = {}, 0
    for name, shape in make_model.shapes(layers).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + position)


def timed(command: list[str], rounds: int) -> float:
    """Median seconds of a whole process."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the engine with a plain-torch pass.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", action="store_true", help="every format and algorithm, beside a copy of the file")
    parser.add_argument("--model", type=Path, default=Path("build/bench/llama"), help="made if it is not there")
    options = parser.parse_args()
    if not (options.model / "config.json").exists():
        print(f"Making {options.model} (1.54 GB)", flush=True)
        make_model.make(options.model, 16)
    with tempfile.TemporaryDirectory(dir=options.model.parent) as folder:
        scratch = Path(folder)
        if options.formats:
            formats(options.model, options.rounds, scratch)
            return
        versus(options.model, "int8:channel", "int8", options.rounds, scratch)
        versus(options.model, "int4:g128", "int4", options.rounds, scratch)
        growth(scratch)
        many_tensors(scratch / "many.safetensors")
        cli = [sys.executable, "-m", "engine"]
        path = str(scratch / "many.safetensors")
        print(f"inspect        90,000 tensors {timed([*cli, 'inspect', path, '--json'], options.rounds):.2f} s, whole process")


if __name__ == "__main__":
    main()
