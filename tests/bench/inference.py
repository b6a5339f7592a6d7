"""Quantized modules beside torch.nn.Linear, 2048 to 5632: time and memory at 1 and 128 rows.

    python tests/bench/inference.py [--seconds 1.0] [--threads 2]

Six modules of each kind are called in turn, so that weights do not stay in the cache. Times are medians per call; ``x`` is how
many times faster than ``nn.Linear`` in float32 and in bfloat16, timed just before. Memory is what a module holds afterwards (a
kernel's copy included), as so many times less. ``+`` is followed by what is done to activations; the last column is the product
that was chosen.
"""

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import engine
from engine.nn import QuantizedLinear, quantized_module
from engine.nn.choice import BUCKETS
from engine.readers import open_path

IN, OUT, MODULES = 2048, 5632, 6
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCHEMES = (
    "int8:channel", "int8:channel:asym", "int8:channel+int8:token", "int4:g128", "int4:g128:asym", "int4:g32", "int3:g32",
    "fp8:channel", "nf4:g64", "mxfp4", "nvfp4", "ternary", "mxfp6",
)  # fmt: skip


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
    name, _, activations = scheme.partition("+")
    recipe = dataclasses.replace(engine.recipe(name), activations=activations or "none")
    made = []
    for _ in range(MODULES):
        model = torch.nn.Sequential(linear(dtype))
        save_file(model.state_dict(), folder / "model.safetensors")
        engine.quantize_to(folder / "model.safetensors", folder / "out.safetensors", recipe, overwrite=True)
        made.append(quantized_module(model, open_path(folder / "out.safetensors"))[0])
    return made


def chosen(module: torch.nn.Module, x: torch.Tensor) -> str:
    """The product that a quantized module has chosen for x."""
    if not isinstance(module, QuantizedLinear):
        return ""
    kernel = module._choice.chosen.get((x.dtype, sum(len(x) > most for most in BUCKETS)))
    return kernel.name if kernel else "decoded"


def compare(folder: Path, seconds: float) -> None:
    """Every scheme in both types, against fp32 and bf16 layers that are timed just before it."""
    kinds = {name: [linear(dtype) for _ in range(MODULES)] for name, dtype in TYPES.items()}
    for scheme in SCHEMES:
        for name, dtype in TYPES.items():
            modules = quantized(scheme, dtype, folder)
            for rows in (1, 128):
                x = {n: torch.randn(rows, IN).to(dtype) for n, dtype in TYPES.items()}
                base = {n: measure(calls(layers, x[n]), seconds / 2) for n, layers in kinds.items()}
                took = measure(calls(modules, x[name]), seconds)
                held = modules[0].nbytes
                faster = f"x{base['fp32'] / took:5.2f} fp32, x{base['bf16'] / took:5.2f} bf16"
                memory = f"{OUT * IN * 4 / held:5.2f}x less than fp32, {OUT * IN * 2 / held:5.2f}x than bf16"
                words = f"{name} {scheme:24s} rows {rows:4d} {took:8.3f} ms  {faster}   {memory}"
                print(f"{words}   {chosen(modules[0], x[name])}", flush=True)


def calls(modules: list, x: torch.Tensor) -> list[Callable[[], object]]:
    return [functools.partial(module, x) for module in modules]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options.seconds)


if __name__ == "__main__":
    main()
