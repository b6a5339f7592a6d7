"""The engine beside other quantization tools on the same checkpoint: file to quantized file, in turn, on one machine.

    python tests/bench/peers.py --scripts DIR --venvs DIR --model FOLDER [--rounds 3] [--rows int8,int4sym,int4asym]
                                [--sides ours,cpp:stats,copy,torchao,...]
    python tests/bench/peers.py --scripts DIR --venvs DIR --hqq [--rounds 3]

``--scripts`` holds ``harness.py``, ``weight_only_child.py`` (the tools) and ``limit/stream.py`` (the limit: ``torch``,
``cpp`` and ``copy``; ``:stats`` adds SQNR and histogram), with ``limit/libkern.so`` built as the first line of
``limit/kern.cpp`` says. ``--venvs`` holds the environments: ``core`` (torch, torchao, optimum-quanto, hqq, bitsandbytes,
compressed-tensors, transformers, safetensors) and ``llmc`` (llmcompressor). FOLDER holds one bfloat16
``model.safetensors`` and a ``config.json``, such as ``make_model.py`` makes.

Every run is a fresh process; each round begins with another side. Seconds are without imports; ours have the kernels
loaded before, and include fsync and verification. GB/s are of the whole input file, ns of the quantized linear weights.
Peak memory is resident, mapped files included; anonymous memory stands beside it. ``out`` shows what each wrote: 4-bit codes
are a byte each in some. ``--hqq`` compares half-quadratic quantization, 4 bits in groups of 64, of one weight: theirs in
memory, ours from file to file (the layer alone in brackets), each with one run before the timed one.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SCHEMES = {"int8": "int8:channel", "int4sym": "int4:g128", "int4asym": "int4:g128:asym"}
LIMITS = ("torch", "cpp", "copy")
SIDES = "ours,cpp,cpp:stats,torch:stats,copy,torchao,quanto,bnb,hqq-rtn,ct-prims,llmc-oneshot,llmc-modelfree"
# What a tool cannot do, or calls by the same name; not run.
UNLIKE = {
    "int8": (),
    "int4sym": ("quanto", "quanto-hf", "numpy-raw", "torch-ao-dynamic"),
    "int4asym": (*LIMITS, "bnb", "numpy-raw", "torch-ao-dynamic"),
}
NOTES = {
    ("int8", "hqq-rtn"): "asymmetric",
    ("int4sym", "bnb"): "nf4",
    ("int4sym", "hqq-rtn"): "asymmetric",
}
# Imports that a script would otherwise make inside a timed stage.
AUTO = "from transformers import AutoModelForCausalLM, LlamaForCausalLM"
EARLY = {"cpp": "import numpy", "torchao-hf": AUTO, "quanto-hf": AUTO, "llmc-oneshot": AUTO}
AFTER = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"

ENGINE = """
import json, sys, time
import engine
from engine import numerics
from engine.quantizing import pipeline
numerics.warm_up()
started = time.perf_counter()
report = engine.quantize_to(sys.argv[1], sys.argv[2], sys.argv[3], format="safetensors")
seconds, parameters = time.perf_counter() - started, sum(layer.parameters for layer in report.layers)
print("STAGES " + json.dumps({"seconds": seconds, "parameters": parameters, "out_bytes": report.bytes_after}))
"""
WEIGHT = """
import sys, torch
from safetensors.torch import save_file
torch.manual_seed(0)
w = torch.randn(2048, 5632).mul_(0.02); w.view(-1)[::2003] *= 8
save_file({"layer.weight": w.bfloat16()}, sys.argv[1])
"""
QUALITY = """
def told(seconds, weight, decoded, **more):
    w, e = weight.double(), weight.double() - decoded.double().view(weight.shape)
    row = {"seconds": seconds, "sqnr": (10 * torch.log10((w * w).sum() / (e * e).sum())).item()}
    print("STAGES " + json.dumps(row | {"error": e.abs().pow(0.7).mean().item(), "parameters": w.numel()} | more))
"""
HQQ_THEIRS = f"""
import json, sys, time, torch
from hqq.core.quantize import Quantizer
from safetensors.torch import load_file
{QUALITY}
torch.set_grad_enabled(False); torch.set_num_threads(2)
w = load_file(sys.argv[1])["layer.weight"]
for _ in range(2):
    started = time.perf_counter()
    q, meta = Quantizer.quantize(w, nbits=4, group_size=64, axis=1, optimize=True, device="cpu")
    seconds = time.perf_counter() - started
told(seconds, w, Quantizer.dequantize(q, dict(meta, compute_dtype=torch.float32)))
"""
HQQ_OURS = f"""
import json, sys, time, torch
import engine
from engine import numerics
from engine.quantizing import pipeline
{QUALITY}
numerics.warm_up()
recipe = engine.Recipe(default=engine.parse_scheme("int4:g64:floatzero"), algorithm="hqq", builtin=False)
for turn in range(2):
    out = sys.argv[2] + str(turn) + ".safetensors"
    started = time.perf_counter()
    report = engine.quantize_to(sys.argv[1], out, recipe)
    seconds = time.perf_counter() - started
weight, decoded = (engine.load_tensors(path)["layer.weight"] for path in (sys.argv[1], out))
told(seconds, weight, decoded, layer=report.layers[0].seconds)
"""
Row = dict  # of harness.once: wall, rss_mb, anon_mb, rc, stages, tail


def linear_parameters(file: Path) -> int:
    """Weights that every side quantizes: the matrices of the decoder's layers."""
    with open(file, "rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    shapes = [entry["shape"] for name, entry in header.items() if ".layers." in name]
    return sum(shape[0] * shape[1] for shape in shapes if len(shape) == 2)


def command(side: str, scheme: str, options: argparse.Namespace, scratch: Path) -> list[str]:
    """What runs one side in a fresh process, writing below ``scratch``."""
    name, _, more = side.partition(":")
    out = scratch if name.startswith("llmc") else scratch / "out.safetensors"
    if name == "ours":
        return [sys.executable, "-c", ENGINE, str(options.model), str(out), SCHEMES[scheme]]
    venv = "llmc" if name.startswith("llmc") else "core"
    script = options.scripts / ("limit/stream.py" if name in LIMITS else "weight_only_child.py")
    early = ["-c", f"{EARLY[name]}\n{AFTER}"] if name in EARLY else []
    words = [name, scheme, str(options.model), str(out), *([more] if more else [])]
    return [str(options.venvs / venv / "bin" / "python"), "-W", "ignore", *early, str(script), *words]


def seconds(row: Row) -> float:
    """Time without imports: all stages but the first; not the sums and sizes told with them."""
    told = row["stages"]
    if "seconds" in told:
        return told["seconds"]
    return sum(told[stage] for stage in ("load", "quantize", "save", "all", "stream") if stage in told)


def in_turn(sides: list[str], rounds: int, warm: int, once: Callable[[str], Row]) -> dict[str, list[Row]]:
    """The rows of every side, round by round; who fails, says so and is left out from then on."""
    rows: dict[str, list[Row]] = {side: [] for side in sides}
    for turn in range(-warm, rounds):
        start = turn % len(sides)
        for side in sides[start:] + sides[:start]:
            if side not in rows:
                continue
            os.sync()
            row = once(side)
            if row["rc"] or not row["stages"]:
                print(f"  {side} failed: {row['tail'].strip()[-400:]}", flush=True)
                del rows[side]
            elif turn >= 0:
                rows[side].append(row)
    return rows


def median(rows: list[Row], value: Callable[[Row], float]) -> float:
    return statistics.median(value(row) for row in rows)


def compare(scheme: str, options: argparse.Namespace, once: Callable[..., Row]) -> None:
    file: Path = options.model / "model.safetensors"
    count, size = linear_parameters(file), file.stat().st_size
    sides = [side for side in options.sides.split(",") if side.split(":")[0] not in UNLIKE[scheme]]

    def fresh(side: str) -> Row:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            return once(command(side, scheme, options, Path(folder)), timeout=options.timeout)

    rows = in_turn(sides, options.rounds, options.warm, fresh)
    base = median(rows["ours"], seconds) if rows.get("ours") else float("nan")
    print(f"{scheme}: {count / 1e6:.0f} M linear weights, {size / 1e6:.0f} MB, medians of {options.rounds}")
    for side in sorted(rows, key=lambda side: median(rows[side], seconds)):
        mine, taken = rows[side], median(rows[side], seconds)
        told = mine[0]["stages"]
        note = NOTES.get((scheme, side), "")
        if told.get("parameters", count) != count:
            note = f"quantized {told['parameters'] / 1e6:.1f} M weights instead"
        print(
            f"  {side:15} {taken:7.3f} s (least {min(map(seconds, mine)):7.3f})  {size / taken / 1e9:6.2f} GB/s  "
            f"{taken / count * 1e9:7.2f} ns/parameter  {median(mine, lambda row: row['rss_mb']):5.0f} MB "
            f"(anonymous {median(mine, lambda row: row['anon_mb']):5.0f})  out {told['out_bytes'] / 1e6:5.0f} MB  "
            f"ratio {taken / base:6.2f}  {note}".rstrip(),
            flush=True,
        )


def compare_hqq(options: argparse.Namespace, once: Callable[..., Row]) -> None:
    theirs = str(options.venvs / "core" / "bin" / "python")
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        file = str(Path(folder) / "weight.safetensors")
        made = once([theirs, "-W", "ignore", "-c", WEIGHT, file])
        if made["rc"]:
            sys.exit(made["tail"])

        def fresh(side: str) -> Row:
            with tempfile.TemporaryDirectory(dir=folder) as below:
                start = [theirs, "-W", "ignore", "-c", HQQ_THEIRS] if side == "hqq" else [sys.executable, "-c", HQQ_OURS]
                return once([*start, file, str(Path(below) / "out")], timeout=options.timeout)

        rows = in_turn(["ours", "hqq"], options.rounds, 0, fresh)
    print(f"hqq: 2048 x 5632, int4 in groups of 64, medians of {options.rounds}")
    taken = {side: median(mine, seconds) for side, mine in rows.items()}
    for side, mine in rows.items():
        told = mine[0]["stages"]
        layer = median(mine, lambda row: row["stages"].get("layer", seconds(row)))
        print(
            f"  {side:5} {taken[side]:7.3f} s  {taken[side] / told['parameters'] * 1e9:7.2f} ns/parameter "
            f"({layer / told['parameters'] * 1e9:7.2f})  SQNR {told['sqnr']:6.3f} dB  mean |error|^0.7 {told['error']:.5e}  "
            f"ratio {taken[side] / taken.get('ours', float('nan')):6.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the engine with other quantization tools.")
    parser.add_argument("--scripts", type=Path, required=True, help="folder of the scripts that run the tools")
    parser.add_argument("--venvs", type=Path, required=True, help="folder of their virtual environments")
    parser.add_argument("--model", type=Path, help="folder with one bfloat16 model.safetensors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="rounds before them that are not counted")
    parser.add_argument("--rows", default=",".join(SCHEMES))
    parser.add_argument("--sides", default=SIDES)
    parser.add_argument("--hqq", action="store_true", help="half-quadratic quantization of one weight instead")
    parser.add_argument("--scratch", type=Path, help="where to write; beside the model, unless given")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one process may take")
    options = parser.parse_args()
    if unknown := set(options.rows.split(",")) - set(SCHEMES):
        parser.error(f"rows are {', '.join(SCHEMES)}, not {', '.join(sorted(unknown))}")
    options.scripts, options.venvs = options.scripts.absolute(), options.venvs.absolute()
    sys.path.insert(0, str(options.scripts))
    once: Callable[..., Row] = importlib.import_module("harness").once
    if options.hqq:
        compare_hqq(options, once)
        return
    if not options.model or not (options.model / "model.safetensors").exists():
        parser.error("--model must name a folder with a model.safetensors")
    options.model = options.model.absolute()
    options.scratch = options.scratch or options.model.parent
    for scheme in options.rows.split(","):
        compare(scheme, options, once)


if __name__ == "__main__":
    main()
