"""llm-compressor's GPTQ on what ours is given: its time on a decoder layer, and the layer objective that it reaches.

    python tests/bench/gptq_peer.py layer FOLDER                               # a model of one layer, for `time`
    python tests/bench/gptq_peer.py tokens TOKENS.npy                          # 128 x 512 token ids, for `time`
    python tests/bench/gptq_peer.py time FOLDER TOKENS.npy OUT.json [--save FOLDER]
    python tests/bench/gptq_peer.py hessians FOLDER TEXT OUT_H.safetensors OUT_W.safetensors
    python tests/bench/gptq_peer.py objective H.safetensors W.safetensors OUT.safetensors OUT.json [--bits 4] [--group 128]

``time`` and ``objective`` run in an environment with llmcompressor 0.14, datasets and transformers; the others need torch and
transformers alone. A Hessian here is ``H = X^T X`` (float32 [columns, columns]; X: every token's input to the layer), which
llm-compressor scales by 2 / samples; no result depends on that factor. Hessians and weights go by the module's name.

The objective is ``tr((W - W') H (W - W')^T)`` in float64: the squared error of the layer's outputs over all tokens. Orders:

    rtn     no GPTQ: each weight to the nearest, with the scales that all but `group` use
    none    columns as they stand
    static  columns by falling diagonal of H, groups of neighbours: their default (`weight`)
    group   columns sorted first, groups of neighbours in the sorted matrix (`dynamic`, `desc_act`). 0.14 refuses it; as 0.9
            did, scales are found on the sorted weight and columns taken in turn, by 0.14's ``quantize_weight``

Scales are found and results stored in the dtype of the weights file, as llm-compressor does in the model's.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

HIDDEN, INTERMEDIATE, VOCABULARY = 2048, 5632, 1024
SAMPLES, LENGTH = 128, 512
WINDOWS, WINDOW = 64, 256
BLOCK, DAMPENING = 128, 0.01
ORDERS = ("rtn", "none", "static", "group")
PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch", "datasets")


def make_layer(folder: str | Path, layers: int = 1) -> None:
    """A Llama of ``layers`` decoder layers in bfloat16, with random weights, as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def make_tokens(path: str | Path, samples: int = SAMPLES, length: int = LENGTH) -> None:
    """Random token ids, int64 [samples, length]."""
    np.save(path, np.random.default_rng(0).integers(0, VOCABULARY, (samples, length)))


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


class Stages:
    """Seconds inside llm-compressor's own stages, by wrapping the calls that it makes; the hessian is part of the capture."""

    def __init__(self) -> None:
        self.seconds = {"capture": 0.0, "hessian": 0.0, "solve": 0.0, "propagate": 0.0}

    def install(self) -> None:
        pipeline: Any = importlib.import_module("llmcompressor.pipelines.sequential.pipeline")
        base: Any = importlib.import_module("llmcompressor.modifiers.gptq.base")
        pipeline._get_batches = self._passes(pipeline._get_batches)
        base.accumulate_hessian = self._call("hessian", base.accumulate_hessian)
        callbacks = pipeline.LifecycleCallbacks
        callbacks.sequential_epoch_end = self._call("solve", callbacks.sequential_epoch_end)

    def _call(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*words, **named)
            finally:
                self.seconds[stage] += time.perf_counter() - started

        return timed

    def _passes(self, batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The loop over batches, of which each pass over the data has one; it is told apart by the text it shows."""

        def timed(activations: Any, count: int, names: list[str], text: str, *more: Any) -> Iterator[Any]:
            started = time.perf_counter()
            yield from batches(activations, count, names, text, *more)
            self.seconds["propagate" if text.endswith("Propagating") else "capture"] += time.perf_counter() - started

        return timed


def _no_tokenizer() -> Any:
    """Stands where llm-compressor wants one: the data are token ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({"<unk>": 0, "<pad>": 1}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", unk_token="<unk>")


def run_time(options: argparse.Namespace) -> dict[str, Any]:
    """GPTQ W4A16 with their defaults. ``oneshot`` is without imports and loading; ``save`` writes compressed-tensors."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM

    llmcompressor = importlib.import_module("llmcompressor")
    modifier = importlib.import_module("llmcompressor.modifiers.gptq").GPTQModifier
    ids = np.load(options.tokens)
    data = importlib.import_module("datasets").Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()}
    )
    seconds, stages = {}, Stages()
    stages.install()
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    seconds["load"] = time.perf_counter() - started
    started = time.perf_counter()
    llmcompressor.oneshot(
        model=model,
        processor=_no_tokenizer(),
        dataset=data,
        recipe=modifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
        max_seq_length=ids.shape[1],
        num_calibration_samples=ids.shape[0],
    )
    seconds["oneshot"] = time.perf_counter() - started
    if options.save:
        started = time.perf_counter()
        model.save_pretrained(options.save, save_compressed=True)
        seconds["save"] = time.perf_counter() - started
    return {
        "seconds": seconds,
        "stages": stages.seconds,
        "tokens": list(ids.shape),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def run_hessians(options: argparse.Namespace) -> dict[str, Any]:
    """Hessian and weight of every Linear of the decoder layers, over ``windows`` consecutive windows of the text.

    The model runs in float32; sums are kept in float64 and stored in float32.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(options.model)(options.text.read_text(), add_special_tokens=False)["input_ids"]
    if len(ids) < options.windows * options.window:
        raise SystemExit(f"{options.text} has {len(ids)} tokens, fewer than {options.windows} windows of {options.window}.")
    sums: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}

    def watch(name: str, columns: int) -> Callable[..., None]:
        sums[name] = torch.zeros(columns, columns, dtype=torch.float64)

        def add(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, columns).double()
            sums[name].addmm_(rows.T, rows)

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            weights[name] = module.weight.detach().clone()
            module.register_forward_pre_hook(watch(name, module.in_features))
    batch = torch.tensor(ids[: options.windows * options.window]).view(options.windows, options.window)
    with torch.inference_mode():
        for row in batch:
            model(row[None], use_cache=False)
    save_file({name: total.float() for name, total in sums.items()}, options.hessians)
    save_file(weights, options.weights)
    return {"layers": len(sums), "tokens": batch.numel()}


class Layer:
    """One weight [rows, columns] with its Hessian, quantized in groups of ``group`` columns."""

    def __init__(self, weight: "torch.Tensor", hessian: "torch.Tensor", bits: int, group: int) -> None:
        self.weight, self.hessian, self.bits, self.group = weight, hessian, bits, group

    def objective(self, decoded: "torch.Tensor") -> float:
        """tr((W - W') H (W - W')^T) in float64."""
        error = self.weight.double() - decoded.double()
        return ((error @ self.hessian.double()) * error).sum().item()

    def decoded(self, order: str) -> tuple["torch.Tensor", bool]:
        """The weight as stored, and whether the Hessian could not be inverted, so that they rounded to nearest."""
        import torch
        from compressed_tensors.quantization import fake_quantize

        if order == "group":
            permutation = torch.argsort(self.hessian.diagonal(), descending=True)
            apart = self.hessian[permutation][:, permutation]
            found, fallback = Layer(self.weight[:, permutation], apart, self.bits, self.group).decoded("none")
            return found[:, torch.argsort(permutation)], fallback
        arguments = self._arguments("static" if order == "static" else None)
        scale, zero = self._scales(arguments)
        if order == "rtn":
            return fake_quantize(self.weight, scale, zero, arguments), False
        quantize_weight = importlib.import_module("llmcompressor.modifiers.gptq.gptq_quantize").quantize_weight
        # It works in place, on a batch of weights.
        found, _losses, fallback = quantize_weight(
            self.weight.float().clone()[None],
            self.hessian.clone()[None],
            scale[None],
            zero[None],
            None,
            arguments,
            blocksize=BLOCK,
            percdamp=DAMPENING,
        )
        return found[0].to(self.weight.dtype), bool(fallback[0])

    def _arguments(self, order: str | None) -> Any:
        from compressed_tensors.quantization import QuantizationArgs

        words: dict[str, Any] = {"num_bits": self.bits, "strategy": "group", "group_size": self.group, "actorder": order}
        return QuantizationArgs(type="int", symmetric=True, **words)  # pyright: ignore[reportArgumentType]

    def _scales(self, arguments: Any) -> tuple["torch.Tensor", "torch.Tensor"]:
        observers = importlib.import_module("llmcompressor.observers")
        observer = observers.Observer.load_from_registry("memoryless_minmax", base_name="weight", args=arguments)
        observer(self.weight)
        found = observer.get_qparams()
        return found["scale"], found["zero_point"]


def run_objective(options: argparse.Namespace) -> dict[str, Any]:
    """Every order on every layer; decoded weights are written as ``LAYER.ORDER``."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    importlib.import_module("llmcompressor.modifiers.gptq.gptq_quantize")  # now, so that no layer's seconds hold it
    layers: dict[str, dict[str, Any]] = {}
    decoded: dict[str, torch.Tensor] = {}
    with safe_open(options.hessians, "pt") as hessians, safe_open(options.weights, "pt") as weights, torch.inference_mode():
        for name in hessians.keys():  # noqa: SIM118 - not a mapping
            layer = Layer(weights.get_tensor(name), hessians.get_tensor(name).float(), options.bits, options.group)
            told = {"shape": list(layer.weight.shape), "energy": layer.objective(torch.zeros_like(layer.weight))}
            told |= {"objective": {}, "seconds": {}, "fell_back": []}
            for order in ORDERS:
                started = time.perf_counter()
                found, fallback = layer.decoded(order)
                told["seconds"][order] = time.perf_counter() - started
                told["objective"][order] = layer.objective(found)
                told["fell_back"] += [order] if fallback else []
                decoded[f"{name}.{order}"] = found.contiguous()
            layers[name] = told
    save_file(decoded, options.decoded)
    settings = {"bits": options.bits, "group": options.group, "symmetric": True, "block": BLOCK, "dampening": DAMPENING}
    total = {order: sum(told["objective"][order] for told in layers.values()) for order in ORDERS}
    return {"settings": settings, "hessian": "X^T X", "total": total, "layers": layers, "versions": versions()}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Measure llm-compressor's GPTQ.")
    modes = made.add_subparsers(dest="mode", required=True)

    def mode(name: str, *paths: str) -> argparse.ArgumentParser:
        found = modes.add_parser(name)
        for path in paths:
            found.add_argument(path, type=Path)
        return found

    mode("layer", "model").add_argument("--layers", type=int, default=1)
    mode("tokens", "tokens")
    mode("time", "model", "tokens", "out").add_argument("--save", type=Path, help="write the quantized model there, and time it")
    hessians = mode("hessians", "model", "text", "hessians", "weights")
    hessians.add_argument("--windows", type=int, default=WINDOWS)
    hessians.add_argument("--window", type=int, default=WINDOW, help="tokens of a window")
    objective = mode("objective", "hessians", "weights", "decoded", "out")
    objective.add_argument("--bits", type=int, default=4)
    objective.add_argument("--group", type=int, default=128)
    return made


def main() -> None:
    options = parser().parse_args()
    if options.mode == "layer":
        make_layer(options.model, options.layers)
    elif options.mode == "tokens":
        make_tokens(options.tokens)
    else:
        with contextlib.redirect_stdout(sys.stderr):  # llm-compressor logs to stdout, where the JSON goes
            told = {"time": run_time, "hessians": run_hessians, "objective": run_objective}[options.mode](options)
        text = json.dumps(told, indent=2)
        if "out" in options:
            options.out.write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
