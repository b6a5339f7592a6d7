"""A checkpoint far larger than memory, quantized file to file and certified by processes that may have 2 GB of address space.

The checkpoint is a sparse file: its zeros take no disk, and are read, quantized, written and checked like any other weights.
"""

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, COLUMNS = 13_824, 5_120
"""The shape of a projection in a model of 13 B parameters, 142 MB in bfloat16."""
BLOCK = 4 << 20


def make(folder: Path, gigabytes: float) -> Path:
    """``giant.safetensors`` of about so many GB, with some noise at the start of every tensor."""
    size = 2 * ROWS * COLUMNS
    count = max(1, round(gigabytes * 1e9 / size))
    header = {
        f"model.layers.{n}.mlp.up_proj.weight": {
            "dtype": "BF16", "shape": [ROWS, COLUMNS], "data_offsets": [n * size, (n + 1) * size],
        }
        for n in range(count)
    }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "giant.safetensors"
    noise = bytes(b & 0xBF if place % 2 else b for place, b in enumerate(os.urandom(BLOCK // 4)))  # no NaN, no infinity
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for n in range(count):
            file.seek(8 + len(text) + n * size)
            file.write(noise)
        file.truncate(8 + len(text) + count * size)
    return path


def limited(arguments: list[str], limit: int) -> tuple[dict, float]:
    """The JSON of a command that runs in a process of its own, and its seconds. Raises RuntimeError with what it said."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "engine", *arguments, "--json"], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
    return json.loads(done.stdout), time.perf_counter() - started


def run(gigabytes: float, limit: int, folder: Path) -> str:
    """What came of it, in one line. Raises RuntimeError."""
    path, output = make(folder, gigabytes), folder / "out.safetensors"
    quantized, seconds = limited(["quantize", str(path), "--scheme", "int4:g128", "-o", str(output), "--no-record"], limit)
    certified, checking = limited(["certify", str(output), "--against", str(path)], limit)
    if not certified["certified"]:
        raise RuntimeError(f"not certified: {certified}")
    return (
        f"{path.stat().st_size / 1e9:.1f} GB of bfloat16 to {output.stat().st_size / 1e9:.1f} GB of int4 in {seconds:.0f} s at "
        f"{quantized['peak_memory_bytes'] / 1e6:.0f} MB of memory, certified in {checking:.0f} s; "
        f"both in {limit / 1e9:.0f} GB of address space"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=26)
    parser.add_argument("--limit", type=float, default=2, help="GB of address space of each process")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mono-quant-giant-"))
    try:
        print(run(options.gigabytes, int(options.limit * 1e9), folder))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
