"""Checkpoints that are already quantized: recognized, and never decoded wrongly."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import engine
from tests.engine.test_readers import refusal


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}, "compressed-tensors"),
    ],
)
def test_quantized_checkpoints_are_recognized_by_configuration(config: dict, method: str, tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    model = engine.open_model(tmp_path)
    assert model.quantized and model.quantized.method == method
    assert "already quantized" in engine.plan(model, "W4A16").errors[0].message


@pytest.mark.parametrize(
    ("names", "method"),
    [
        ({"a.qweight": torch.int32, "a.qzeros": torch.int32, "a.g_idx": torch.int32}, "gptq"),
        ({"a.qweight": torch.int32, "a.qzeros": torch.int32, "a.scales": torch.float16}, "awq"),
        ({"a.weight": torch.uint8, "a.weight.absmax": torch.float32, "a.weight.quant_map": torch.float32}, "bitsandbytes"),
        ({"a.weight_packed": torch.int32, "a.weight_scale": torch.bfloat16}, "compressed-tensors"),
        ({"a.weight": torch.float8_e4m3fn, "a.weight_scale_inv": torch.float32}, "fp8"),
        ({"a.weight": torch.int8, "a.SCB": torch.float32}, "bitsandbytes"),
    ],
)
def test_quantized_checkpoints_are_recognized_by_tensors(names: dict, method: str, make_file: Callable[..., Path]) -> None:
    path = make_file({name: torch.zeros(8, 8).to(dtype) for name, dtype in names.items()})
    model = engine.open_model(path)
    assert model.quantized and model.quantized.method == method


def artifact(folder: Path, tensors: dict, groups: object, **more: object) -> Path:
    """A compressed-tensors folder made by hand."""
    save_file(tensors, folder / "model.safetensors")
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups} | more
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return folder


def group(targets: list, bits: int = 4, strategy: str = "channel", **more: object) -> dict:
    return {"targets": targets, "weights": {"type": "int", "num_bits": bits, "strategy": strategy, "symmetric": True} | more}


def packed(bits: int, rows: int = 64, cols: int = 128) -> dict:
    return {
        "l.weight_packed": torch.zeros(rows, cols * bits // 32, dtype=torch.int32),
        "l.weight_scale": torch.ones(rows, 1), "l.weight_shape": torch.tensor([rows, cols]),
    }  # fmt: skip


def test_targets_are_matched_by_name_then_pattern_then_class(tmp_path: Path) -> None:
    groups = {"a": group(["Linear"], 4), "b": group(["re:^l$"], 8)}
    (layer,) = engine.open_model(artifact(tmp_path, packed(8), groups)).layers
    assert layer.scheme == "int8:channel"
    (layer,) = engine.open_model(artifact(tmp_path, packed(4), groups | {"c": group(["l"], 4)})).layers
    assert layer.scheme == "int4:channel"


@pytest.mark.parametrize(
    "change",
    [
        {"l.weight_shape": torch.tensor([64, 1 << 20])}, {"l.weight_shape": torch.tensor([64, 1 << 50])},
        {"l.weight_shape": torch.tensor([64, -1])}, {"l.weight_shape": torch.tensor([64])},
        {"l.weight_shape": torch.tensor([64, 128], dtype=torch.int32)}, {"l.weight_scale": torch.ones(3, 5)},
        {"l.weight_scale": torch.ones(64, 1, dtype=torch.int32)}, {"l.weight_zero_point": torch.zeros(8, 1, dtype=torch.int32)},
        {"l.weight_packed": torch.zeros(64, 15, dtype=torch.int32)},
    ],
)  # fmt: skip
def test_stored_shapes_that_lie_are_refused_before_any_arithmetic(change: dict, tmp_path: Path) -> None:
    message = refusal(artifact(tmp_path, packed(4) | change, {"a": group(["Linear"])}))
    assert "damaged" in message and message.startswith("l:")


@pytest.mark.parametrize(
    "groups", [["x"], {"a": "x"}, {"a": {"targets": 5}}, {"a": group(["re:("])}, {"a": {"targets": ["Linear"], "weights": 3}}]
)
def test_a_malformed_configuration_is_one_sentence(groups: object, tmp_path: Path) -> None:
    assert "quantization_config" in refusal(artifact(tmp_path, packed(4), groups))


def test_reordered_columns_are_not_decoded_wrongly(tmp_path: Path) -> None:
    for tensors, more in (
        (packed(4) | {"l.weight_g_idx": torch.zeros(128, dtype=torch.int32)}, {}),
        (packed(4), {"actorder": "group"}),
    ):
        model = engine.open_model(artifact(tmp_path, tensors, {"a": group(["Linear"], **more)}))
        assert model.quantized and not model.quantized.readable
        with pytest.raises(engine.InputError, match="cannot be decoded"):
            engine.load_tensors(model)


@pytest.mark.parametrize("metadata", [{"mono_quant.axes": "{bad"}, {"quantization_config": "[" * 100_000}])
def test_broken_metadata(metadata: dict, tmp_path: Path) -> None:
    group_a = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": group(["Linear"])}}
    save_file(packed(4), tmp_path / "x.safetensors", metadata={"quantization_config": json.dumps(group_a)} | metadata)
    assert "not valid JSON" in refusal(tmp_path / "x.safetensors")


INT4 = {"type": "int", "num_bits": 4, "strategy": "channel", "symmetric": True}
FP8 = {"type": "float", "num_bits": 8, "strategy": "channel", "symmetric": True}
NVFP4 = {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16, "symmetric": True}


@pytest.mark.parametrize(
    ("weights", "codes", "other"),
    [
        (INT4, {"_packed": torch.zeros(4, 8, dtype=torch.uint8)}, {"_shape": torch.tensor([4, 64])}),
        (INT4, {"": torch.zeros(4, 64).to(torch.float8_e4m3fn)}, {}),
        (FP8, {"": torch.zeros(4, 64, dtype=torch.int8)}, {}),
        (FP8, {"": torch.zeros(4, 64).to(torch.float8_e5m2)}, {}),
        (NVFP4, {"": torch.zeros(4, 64).to(torch.float8_e4m3fn)}, {}),
        (FP8 | {"strategy": "block", "block_structure": [True, 10**12]}, {"": torch.zeros(4, 64).to(torch.float8_e4m3fn)}, {}),
        (FP8 | {"num_bits": [8]}, {"": torch.zeros(4, 64).to(torch.float8_e4m3fn)}, {}),
    ],
)
def test_codes_of_another_type_than_the_configuration_says_are_refused(
    weights: dict, codes: dict, other: dict, tmp_path: Path
) -> None:
    """The arithmetic reads as many bytes as type and shape promise: they are checked before."""
    tensors = {f"a.weight{end}": value for end, value in (codes | other).items()} | {"a.weight_scale": torch.ones(4, 1)}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"g": {"targets": ["Linear"], "weights": weights}},
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"quantization_config": json.dumps(config)})
    with pytest.raises(engine.InputError):
        engine.load_tensors(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "more", [{"transform_config": {"config_groups": {"h": {}}}}, {"sparsity_config": {"format": "sparse-24-bitmask"}}]
)
def test_transforms_and_sparsity_are_not_decoded_wrongly(more: dict, tmp_path: Path) -> None:
    model = engine.open_model(artifact(tmp_path, packed(4), {"a": group(["Linear"])}, **more))
    assert model.quantized and not model.quantized.readable and "transforms or sparsity" in model.quantized.detail


def test_quantized_weights_that_no_group_targets(tmp_path: Path) -> None:
    assert "l: its tensors are quantized, but no group" in refusal(artifact(tmp_path, packed(4), {"a": group(["other"])}))


def test_integers_cannot_be_unpacked_without_their_shape(tmp_path: Path) -> None:
    tensors = packed(4)
    del tensors["l.weight_shape"]
    assert "the tensor with its shape is missing" in refusal(artifact(tmp_path, tensors, {"a": group(["Linear"])}))


def test_a_pattern_that_takes_forever_is_told_when_it_is_opened(tmp_path: Path) -> None:
    name = "a" * 300 + "!"
    tensors = {tensor.replace("l.", f"{name}.", 1): value for tensor, value in packed(4).items()}
    message = refusal(artifact(tmp_path, tensors, {"a": group(["re:(a|a)*$"])}))
    assert message.startswith("The quantization_config cannot be used") and "takes too long" in message


def single(path: Path, tensors: dict, weights: dict, **metadata: str) -> Path:
    """One file that says itself what it is."""
    config = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    config |= {"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}
    save_file(tensors, path, metadata={"quantization_config": json.dumps(config)} | metadata)
    return path


def test_an_output_axis_that_a_weight_does_not_have(tmp_path: Path) -> None:
    axes = {"mono_quant.axes": json.dumps({"l": 2})}
    assert "output axis 2 is not one of its shape [64, 128]" in refusal(
        single(tmp_path / "x.safetensors", packed(4), INT4, **axes)
    )


def test_fused_experts_are_decoded_slice_by_slice(tmp_path: Path) -> None:
    """One scale for each of three matrices: codes times 1, 2 and 4."""
    codes = torch.arange(3 * 4 * 8, dtype=torch.int8).reshape(3, 4, 8)
    tensors = {"block.experts.gate_up_proj": codes, "block.experts.gate_up_proj_scale": torch.tensor([1.0, 2.0, 4.0])}
    loaded = engine.load_tensors(single(tmp_path / "x.safetensors", tensors, INT4 | {"num_bits": 8, "strategy": "tensor"}))
    assert torch.equal(loaded["block.experts.gate_up_proj"], codes * torch.tensor([1.0, 2.0, 4.0])[:, None, None])


def test_a_part_of_another_size_is_told(tmp_path: Path) -> None:
    tensors = {
        "l.weight_packed": torch.zeros(4, 32, dtype=torch.uint8), "l.weight_scale": torch.zeros(4, 4).to(torch.float8_e4m3fn),
        "l.weight_global_scale": torch.ones(2),
    }  # fmt: skip
    path = single(tmp_path / "x.safetensors", tensors, NVFP4)
    assert "l: its global scale F32 [2] does not fit" in refusal(path)


@pytest.mark.parametrize(("model_type", "axis"), [("gpt_oss", 2), ("qwen3_moe", 1)])
def test_fused_experts_lie_as_their_architecture_stores_them(model_type: str, axis: int, tmp_path: Path) -> None:
    save_file({"layers.0.mlp.experts.down_proj": torch.zeros(2, 8, 16)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (layer,) = engine.open_model(tmp_path).layers
    assert (layer.kind, layer.axis) == ("experts", axis)


def test_a_format_that_is_not_known_is_not_decoded(tmp_path: Path) -> None:
    model = engine.open_model(artifact(tmp_path, packed(4), {"a": group(["Linear"])}, format="marlin-24"))
    assert model.quantized and not model.quantized.readable and "a format not decoded here" in model.quantized.detail


def test_names_that_are_no_regular_expressions_reopen(make_file, tmp_path: Path) -> None:
    source = make_file({"block(0.weight": torch.randn(32, 32), "c.weight": torch.randn(16, 16, 3, 3)})
    engine.quantize_to(source, tmp_path / "out.safetensors", "int8:channel")
    assert set(engine.load_tensors(tmp_path / "out.safetensors")) == {"block(0.weight", "c.weight"}
