"""Quantized modules beside torch.nn.Linear, 2048 to 5632: time and memory at 1 and 128 rows.

    python tests/bench/inference.py [--seconds 1.0] [--threads 2]

Six modules of each kind are called in turn, so that weights do not stay in the cache. Times are medians per call; ``x`` is how
many times faster than the float module of that type. Memory is what a module holds afterwards (a kernel's copy included),
as so many times less than float32 and bfloat16.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import engine
from engine.nn import quantized_module
from engine.readers import open_path

IN, OUT, MODULES = 2048, 5632, 6
SCHEMES = ("int8:channel", "int4:g128", "int4:g128:asym", "int4:g32", "int3:g32", "fp8:channel", "nf4:g64", "mxfp4", "ternary")


def measure(calls: list[Callable[[], object]], seconds: float) -> float:
    """Milliseconds of one call, the median over rounds of all of them."""
    for call in calls:
        call()
    times, started = [], time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 3:
        begin = time.perf_counter()
        for call in calls:
            call()
        times.append((time.perf_counter() - begin) / len(calls) * 1e3)
    return statistics.median(times)


def linear(dtype: torch.dtype) -> torch.nn.Linear:
    made = torch.nn.Linear(IN, OUT, bias=False)
    torch.nn.init.normal_(made.weight, std=0.02)
    return made.to(dtype)


def quantized(scheme: str, dtype: torch.dtype, folder: Path) -> list[torch.nn.Module]:
    made = []
    for _ in range(MODULES):
        model = torch.nn.Sequential(linear(dtype))
        save_file(model.state_dict(), folder / "model.safetensors")
        engine.quantize_to(folder / "model.safetensors", folder / "out.safetensors", scheme, overwrite=True)
        made.append(quantized_module(model, open_path(folder / "out.safetensors"))[0])
    return made


def compare(dtype: torch.dtype, folder: Path, seconds: float) -> None:
    floats = [linear(dtype) for _ in range(MODULES)]
    base: dict[int, float] = {}
    for scheme in ("float", *SCHEMES):
        modules = floats if scheme == "float" else quantized(scheme, dtype, folder)
        for rows in (1, 128):
            x = torch.randn(rows, IN).to(dtype)
            took = measure([lambda m=module, x=x: m(x) for module in modules], seconds)
            base.setdefault(rows, took)
            held = OUT * IN * dtype.itemsize if scheme == "float" else modules[0].nbytes
            memory = f"{OUT * IN * 4 / held:5.2f}x less than fp32, {OUT * IN * 2 / held:5.2f}x than bf16"
            name = str(dtype).removeprefix("torch.")
            print(f"{name:9s} {scheme:16s} rows {rows:4d} {took:8.3f} ms  x{base[rows] / took:5.2f}   {memory}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float32, torch.bfloat16):
            compare(dtype, Path(folder), options.seconds)


if __name__ == "__main__":
    main()
