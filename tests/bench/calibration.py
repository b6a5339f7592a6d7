"""Quantizing with data: quality on the samples, what gathering costs beside the plain forward, memory beside the plan's,
and GPTQ of one decoder layer beside llm-compressor's.

    python tests/bench/calibration.py                   # perplexity, accuracy, gathering, memory
    python tests/bench/calibration.py --llmc VENV       # GPTQ beside llm-compressor 0.14, whose environment VENV is

Each timed run is a process of its own; seconds exclude imports and loading; medians and ratios are printed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SAMPLES = HERE.parent.parent / "assets" / "samples"
sys.path.insert(0, str(HERE))

import gptq_peer  # noqa: E402

LANGUAGE, DIGITS = SAMPLES / "docstring_lm", SAMPLES / "digits_cnn"
RECIPES = ("rtn", "mse", "awq", "gptq", "awq+gptq")

TIMED = """
import dataclasses, json, resource, sys, time
import numpy as np, psutil, torch
import engine
from engine import numerics
from engine.allocator import give_back_freed_memory, keep_freed_memory
from engine.records.calibration import DataSpec
folder, tokens, what, out = sys.argv[1:5]
keep_freed_memory()  # as the command line and the window's engine do
numerics.warm_up()
model = engine.load_runnable(folder)
batches = list(torch.from_numpy(np.load(tokens)).long().split(1))
from engine.calibration.data import open_data
data = open_data(batches, model.inputs, DataSpec(samples=0, batch=1))
with torch.no_grad():
    model.module(batches[0][:1])
recipe = dataclasses.replace(engine.recipe("W4A16"), algorithm="gptq")
give_back_freed_memory()
before = psutil.Process().memory_info().rss
started = time.perf_counter()
found = {}
if what == "forward":
    with torch.no_grad():
        for batch in batches:
            model.module(batch, use_cache=False)
elif what == "gather":
    engine.calibrate(model, data)
else:
    plan = engine.plan(model.summary, recipe)
    report = engine.quantize_to(plan, out, data=data, runnable=model, measure=0, overwrite=True)
    from engine.planning import budget
    needed = budget.calibrating(plan, sum(batch.numel() for batch in batches))
    found = {"estimate": needed, "layers": {layer.name: layer.objective for layer in report.layers}}
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(found | {"seconds": seconds, "before": before, "peak": peak}))
"""


def run(code: str, *arguments: str) -> dict:
    """One process; the JSON of its last line."""
    made = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(made.stdout.strip().splitlines()[-1])


def perplexities(scratch: Path) -> None:
    """Float, and int3 and int4 in groups of 128, calibrated on other text than is judged."""
    import dataclasses

    import engine

    calibration = engine.DataSpec(str(LANGUAGE / "calibration.txt"), samples=64, length=256)
    judged = engine.DataSpec(str(LANGUAGE / "evaluation.txt"), samples=0, length=256)
    with engine.load_runnable(LANGUAGE) as model:
        print(f"perplexity     float {engine.evaluate(model, judged).quantized.perplexity:.3f}")
        for scheme in ("int4:g128", "int3:g128"):
            for algorithm in RECIPES:
                recipe = dataclasses.replace(engine.recipe(scheme), algorithm=algorithm)
                out = scratch / f"{scheme}-{algorithm}".replace(":", "-")
                engine.quantize_to(model, out, recipe, data=calibration, measure=0)
                found = engine.evaluate(out, judged, original=model)
                kl = found.kl_divergence or 0.0
                print(
                    f"perplexity     {scheme:10} {algorithm:10} {found.quantized.perplexity:.3f}   KL {kl:.4f} nats", flush=True
                )


def accuracies(scratch: Path) -> None:
    """The sample convolutional network: W8A8 static, and int4 weights by range search."""
    import dataclasses
    import hashlib

    import engine

    factory = engine.Factory(str(DIGITS / "factory.py"), "create_model")
    trusted = [hashlib.sha256((DIGITS / "factory.py").read_bytes()).hexdigest()]
    judged = engine.DataSpec(str(DIGITS / "evaluation.npz"), samples=0)
    with engine.load_runnable(DIGITS / "model.safetensors", factory=factory, trusted=trusted) as model:
        for scheme, algorithm, activations in (("int8:channel", "rtn", "int8:static"), ("int4:channel", "mse", "none")):
            recipe = dataclasses.replace(engine.recipe(scheme), algorithm=algorithm, activations=activations)
            out = scratch / f"{scheme.replace(':', '-')}.safetensors"
            data = engine.DataSpec(str(DIGITS / "calibration.npz"), samples=0)
            engine.quantize_to(model, out, recipe, data=data, format="safetensors", measure=0)
            found = engine.evaluate(out, judged, original=model)
            assert found.original
            print(
                f"accuracy       {scheme} {algorithm}, activations {activations}: float {found.original.accuracy:.4f}, "
                f"quantized {found.quantized.accuracy:.4f}"
            )


def gathering(folder: Path, tokens: Path, rounds: int) -> None:
    """Ranges and means of every layer beside the plain forward of the same data."""
    rows: dict[str, list[float]] = {"forward": [], "gather": []}
    for _ in range(rounds):
        for what, found in rows.items():
            found.append(run(TIMED, str(folder), str(tokens), what, "")["seconds"])
    plain, gathered = (statistics.median(rows[what]) for what in rows)
    print(
        f"gathering      {gathered:.1f} s, plain forward {plain:.1f} s: {gathered / plain:.2f} times (medians of {rounds})",
        flush=True,
    )


def gptq(folder: Path, tokens: Path, rounds: int, venv: Path | None, scratch: Path) -> None:
    """GPTQ int4 g128 of one decoder layer, both sides in turn."""
    ours: list[dict] = []
    theirs: list[float] = []
    for _ in range(rounds):
        ours.append(run(TIMED, str(folder), str(tokens), "gptq", str(scratch / "ours")))
        if venv:
            command = [str(venv / "bin" / "python"), str(HERE / "gptq_peer.py"), "time", str(folder), str(tokens)]
            subprocess.run(
                [*command, str(scratch / "time.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
            )
            theirs.append(json.loads((scratch / "time.json").read_text())["seconds"]["oneshot"])
    row = ours[-1]
    needed, used = row["estimate"], row["peak"] - row["before"]
    print(f"memory         planned {needed / 1e6:.0f} MB beside the model, used {used / 1e6:.0f} MB: {used / needed:.2f} times")
    mine = statistics.median(r["seconds"] for r in ours)
    beside = f", llm-compressor {statistics.median(theirs):.1f} s: {statistics.median(theirs) / mine:.2f} times" if theirs else ""
    print(f"gptq           one layer (2048/5632), 128 x 512 tokens: {mine:.1f} s{beside} (medians of {rounds})", flush=True)


def objectives(venv: Path, scratch: Path) -> None:
    """Layer objectives on one and the same Hessian, summed over the sample language model's layers."""
    import dataclasses

    import engine

    files = [str(scratch / name) for name in ("h.safetensors", "w.safetensors", "o.safetensors", "o.json")]
    text = str(LANGUAGE / "calibration.txt")
    peer = str(HERE / "gptq_peer.py")
    subprocess.run([sys.executable, peer, "hessians", str(LANGUAGE), text, *files[:2]], check=True, stdout=subprocess.DEVNULL)
    for bits in (4, 3):
        command = [str(venv / "bin" / "python"), peer, "objective", *files, "--bits", str(bits)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        theirs = json.loads(Path(files[3]).read_text())["layers"]
        mine = on_hessians(
            files[0], files[1], dataclasses.replace(engine.recipe(f"int{bits}:g128"), algorithm="gptq", builtin=False)
        )
        ratios = [mine[name] / theirs[name]["objective"]["static"] for name in mine]
        total, other = sum(mine.values()), sum(theirs[name]["objective"]["static"] for name in mine)
        print(
            f"objective      int{bits}:g128 ours / llm-compressor's: {total / other:.3f} in total, worst layer {max(ratios):.3f}"
        )


def on_hessians(hessians: str, weights: str, recipe) -> dict[str, float]:
    """Our GPTQ on given weights and second moments: the objective of every layer."""
    from safetensors.torch import load_file

    from engine import chunks
    from engine.algorithms import chain
    from engine.calibration.moments import Moments
    from engine.planning import planner
    from engine.quantizing.rounding import WeightRounding
    from engine.readers import open_path

    found, values = {}, load_file(weights)
    seconds = load_file(hessians)
    solver = chain(recipe.algorithm).solver
    lines = {line.layer.name: line for line in planner.plan(open_path(weights), recipe, "safetensors").layers}
    with chunks.Workers() as workers:
        for name, weight in values.items():
            weight = weight.float()
            rounding = WeightRounding(lines[name], float(weight.abs().max()), workers, lambda: None)
            tensors = {"counts": [1], "second": seconds[name][None].float()}
            inputs = Moments(1, weight.shape[1], second=False)
            inputs.counts, inputs._second = tensors["counts"], tensors["second"]
            found[name] = solver.algorithm.solve(rounding, weight, inputs, solver.options).after
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llmc", type=Path, metavar="VENV", help="environment with llmcompressor 0.14 and datasets")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if not options.llmc:
            perplexities(scratch)
            accuracies(scratch)
        layer, tokens = scratch / "layer", scratch / "tokens.npy"
        gptq_peer.make_layer(layer)
        gptq_peer.make_tokens(tokens)
        gathering(layer, tokens, options.rounds)
        gptq(layer, tokens, options.rounds, options.llmc, scratch)
        if options.llmc:
            objectives(options.llmc, scratch)


if __name__ == "__main__":
    main()
