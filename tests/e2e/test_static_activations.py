"""Scales of activations found with data: transformers loads them, and computes what our own arithmetic computes."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

import engine
from engine.numerics.activations import fake_quantize
from engine.running import evaluation, kept_statistics

SCHEMES = {"W8A8_STATIC": "int8:static", "W8A8_ASYM": "int8:static:asym", "FP8": "fp8:static", "NVFP4": "nvfp4"}
KNOWN = pytest.mark.parametrize("scheme", SCHEMES)
ARGUMENTS = {
    "W8A8_STATIC": {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": True, "dynamic": False},
    "W8A8_ASYM": {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False, "dynamic": False},
    "FP8": {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False},
    "NVFP4": {
        "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True, "dynamic": "local",
        "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn",
    },
}  # fmt: skip
STORAGE = {
    "W8A8_STATIC": "int-quantized",
    "W8A8_ASYM": "int-quantized",
    "FP8": "float-quantized",
    "NVFP4": "nvfp4-pack-quantized",
}
# What compressed-tensors 0.20.0 wrote of down_proj (128 rows, 256 columns) of a Llama of these sizes, for each scheme.
LISTINGS = {
    "W8A8_STATIC": {"input_scale": ("BF16", [1]), "weight": ("I8", [128, 256]), "weight_scale": ("BF16", [128, 1])},
    "W8A8_ASYM": {
        "input_scale": ("BF16", [1]), "input_zero_point": ("I8", [1]), "weight": ("I8", [128, 256]),
        "weight_scale": ("BF16", [128, 1]),
    },
    "FP8": {"input_scale": ("BF16", [1]), "weight": ("F8_E4M3", [128, 256]), "weight_scale": ("BF16", [1])},
    "NVFP4": {
        "input_global_scale": ("F32", [1]), "weight_global_scale": ("F32", [1]), "weight_packed": ("U8", [128, 128]),
        "weight_scale": ("F8_E4M3", [128, 16]),
    },
}  # fmt: skip
LINEAR = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
NAMES = [f"model.layers.{block}.{name}" for block in range(2) for name in LINEAR]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    disable_progress_bar()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks, queries of four heads over keys of two, with weights that leave the residual stream lively."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=512, max_position_embeddings=64, tie_word_embeddings=False,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.15)
    nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(5)
    return [torch.randint(0, 512, (4, 16), generator=chance) for _ in range(3)]


@pytest.fixture(scope="module", params=SCHEMES)
def made(
    request: pytest.FixtureRequest, llama: Path, batches: list[torch.Tensor], tmp_path_factory
) -> Iterator[tuple[str, Path]]:
    """The name of a scheme, and the folder that was quantized with it."""
    scheme, root = request.param, tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_statistics, "cache_folder", lambda: str(root / "cache"))
        recipe = engine.recipe(scheme.replace("_ASYM", "_STATIC"))
        recipe = dataclasses.replace(recipe, activations=SCHEMES[scheme])
        report = engine.quantize_to(llama, root / "q", recipe, data=[{"input_ids": ids} for ids in batches], measure=0)
        ranges = {seen.name: (seen.low, seen.high) for seen in report.activities}
        (root / "ranges.json").write_text(json.dumps(ranges))
        yield scheme, root / "q"


def load(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def stored(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What stands beside each layer's weight for its input, as the safetensors library reads it."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in load_file(folder / "model.safetensors").items():
        module, _, part = name.rpartition(".")
        if part.startswith("input_"):
            found.setdefault(module, {})[part] = value
    return found


def decoded(folder: Path, to: Path, scheme: str) -> nn.Module:
    """The decoded weights in a float model of transformers, with our arithmetic before every quantized layer."""
    engine.dequantize(folder, to)
    model = load(to)
    for name, values in stored(folder).items():
        quantize = lambda module, given, values=values: (fake_quantize(given[0], SCHEMES[scheme], values),)  # noqa: E731
        model.get_submodule(name).register_forward_pre_hook(quantize)
    return model


@torch.no_grad()
def test_transformers_computes_what_we_compute(made, llama: Path, batches: list[torch.Tensor], tmp_path: Path) -> None:
    scheme, folder = made
    theirs = load(folder)(batches[0]).logits
    assert torch.equal(theirs, decoded(folder, tmp_path / "f", scheme)(batches[0]).logits)
    original = load(llama)(batches[0]).logits
    noise = 10 * torch.log10(original.float().square().sum() / (theirs - original).float().square().sum())
    assert noise > {"W8A8_STATIC": 15, "W8A8_ASYM": 15, "FP8": 10, "NVFP4": 2}[scheme]


@torch.no_grad()
def test_evaluation_sees_the_logits_that_transformers_gives(
    made, llama: Path, batches: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = made
    seen: list[torch.Tensor] = []
    logits = evaluation.logits_of
    monkeypatch.setattr(evaluation, "logits_of", lambda output: seen.append(logits(output).clone()) or seen[-1])
    found = engine.evaluate(folder, [{"input_ids": batches[1]}], original=llama)
    original, quantized = load(llama)(batches[1]).logits.float(), load(folder)(batches[1]).logits.float()
    # Quantized layers multiply as torch does; the float ones (here the head) in float32, which rounds a last bit otherwise.
    torch.testing.assert_close(seen[1], quantized, rtol=2**-7, atol=2**-6)
    torch.testing.assert_close(seen[0], original, rtol=2**-6, atol=2**-4)
    targets = batches[1][:, 1:].reshape(-1)
    losses = [nn.functional.cross_entropy(given[:, :-1].reshape(-1, 512), targets) for given in (original, quantized)]
    assert found.original is not None and found.original.perplexity is not None and found.quantized.perplexity is not None
    assert math.isclose(found.original.perplexity, losses[0].exp(), rel_tol=2e-3)
    assert math.isclose(found.quantized.perplexity, losses[1].exp(), rel_tol=2e-3)


def test_tensors_are_those_that_compressed_tensors_writes(made) -> None:
    scheme, folder = made
    with safe_open(folder / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        listing = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    for block in range(2):
        module = f"model.layers.{block}.mlp.down_proj."
        assert {n.removeprefix(module): what for n, what in listing.items() if n.startswith(module)} == LISTINGS[scheme]
    parts = LISTINGS[scheme].keys()
    assert {name for name in listing if "_proj." in name} == {f"{name}.{part}" for name in NAMES for part in parts}
    rest = {name for name in listing if "_proj." not in name}
    norms = {f"model.layers.{n}.{norm}_layernorm.weight" for n in range(2) for norm in ("input", "post_attention")}
    assert rest == {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} | norms


def test_the_configuration_is_that_of_compressed_tensors(made) -> None:
    scheme, folder = made
    found = json.loads((folder / "config.json").read_text())["quantization_config"]
    (group,) = found["config_groups"].values()
    assert (found["quantization_status"], found["quant_method"]) == ("compressed", "compressed-tensors")
    assert found["format"] == group["format"] == STORAGE[scheme]
    assert (group["targets"], found["ignore"]) == (["Linear"], ["lm_head"])
    given = QuantizationArgs(**group["input_activations"]).model_dump(exclude={"observer"})
    assert given == QuantizationArgs(**ARGUMENTS[scheme]).model_dump(exclude={"observer"})


@torch.no_grad()
def test_scales_are_those_of_the_float_models_inputs(made, llama: Path, batches: list[torch.Tensor]) -> None:
    scheme, folder = made
    model, lows, highs = load(llama), dict.fromkeys(NAMES, math.inf), dict.fromkeys(NAMES, -math.inf)
    for name in NAMES:

        def look(module: nn.Module, given: tuple[torch.Tensor], name: str = name) -> None:
            lows[name] = min(lows[name], given[0].min().item())
            highs[name] = max(highs[name], given[0].max().item())

        model.get_submodule(name).register_forward_pre_hook(look)
    for ids in batches:
        model(ids)
    seen = json.loads((folder.parent / "ranges.json").read_text())
    arguments, beside = QuantizationArgs(**ARGUMENTS[scheme]), stored(folder)
    assert beside.keys() == set(NAMES)
    for name in NAMES:
        # Products of bfloat16 may be summed in another order, which moves an extreme by a few of its last bits.
        assert seen[name] == pytest.approx((lows[name], highs[name]), rel=2**-6)
        low, high = (torch.tensor(end, dtype=torch.bfloat16) for end in seen[name])
        if scheme == "NVFP4":
            expected = {"input_global_scale": generate_gparam(low.float(), high.float())}  # not rounded to bfloat16
        else:
            scale, zero = calculate_qparams(low, high, arguments)
            expected = {"input_scale": scale} | ({"input_zero_point": zero} if scheme == "W8A8_ASYM" else {})
        assert beside[name].keys() == expected.keys()
        assert {part: value.item() for part, value in beside[name].items()} == {p: v.item() for p, v in expected.items()}


def test_it_opens_exports_and_decodes(made, llama: Path, tmp_path: Path) -> None:
    _, folder = made
    summary = engine.open_model(folder)
    assert summary.quantized is not None and summary.quantized.readable
    assert {layer.name for layer in summary.layers if layer.scheme} == set(NAMES)
    engine.export(folder, tmp_path / "one.safetensors", format="safetensors")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "one.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in before)
    engine.dequantize(tmp_path / "one.safetensors", tmp_path / "one_float.safetensors")
    engine.dequantize(folder, tmp_path / "float")
    once, twice = load_file(tmp_path / "float" / "model.safetensors"), load_file(tmp_path / "one_float.safetensors")
    assert once.keys() == twice.keys() == load_file(llama / "model.safetensors").keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert "quantization_config" not in json.loads((tmp_path / "float" / "config.json").read_text())
