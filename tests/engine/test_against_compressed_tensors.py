"""Whole files against compressed-tensors: codes, scales, zero points and decoded values, to the bit."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32
from safetensors.torch import load_file

import engine
from tests.engine.oracle import DTYPES, reference

CASES = list(itertools.product(range(2, 9), [("tensor", None), ("channel", None), ("group", 64), ("group", 128)], [True, False]))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_every_integer_scheme_writes_the_same_bytes(
    dtype: str, gaussian: torch.Tensor, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    weight = gaussian.to(DTYPES[dtype])
    source = make_file({"layer.weight": weight})
    for bits, (strategy, group), symmetric in CASES:
        name = f"int{bits}:{f'g{group}' if group else strategy}" + ("" if symmetric else ":asym")
        engine.quantize_to(source, tmp_path / "out.safetensors", name, overwrite=True)
        stored = load_file(tmp_path / "out.safetensors")
        codes, scale, zero, decoded = reference(weight, bits, strategy, group, symmetric)
        assert torch.equal(stored["layer.weight_packed"], pack_to_int32(codes, bits)), name
        assert torch.equal(stored["layer.weight_scale"], scale), name
        assert stored["layer.weight_shape"].tolist() == [96, 256]
        if not symmetric:
            expected = zero if strategy == "tensor" else pack_to_int32(zero, bits, packed_dim=0)
            assert torch.equal(stored["layer.weight_zero_point"], expected), name
        assert torch.equal(engine.load_tensors(tmp_path / "out.safetensors")["layer.weight"], decoded), name


def test_sqnr_is_measured_on_what_a_reader_decodes(
    gaussian: torch.Tensor, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    weight = gaussian.to(torch.bfloat16)
    source = make_file({"layer.weight": weight})
    for bits, strategy, group in ((4, "group", 128), (8, "channel", None)):
        name = f"int{bits}:{f'g{group}' if group else strategy}"
        (report,) = engine.quantize_to(source, tmp_path / "out.safetensors", name, overwrite=True).layers
        decoded = reference(weight, bits, strategy, group, True)[3].double()
        error = weight.double() - decoded
        assert report.sqnr_db == pytest.approx(
            float(10 * torch.log10(weight.double().square().sum() / error.square().sum())), abs=1e-4
        )
        assert report.mse == pytest.approx(float(error.square().mean()), rel=1e-5)
        assert report.max_error == pytest.approx(float(error.abs().max()), rel=1e-6)


def test_plain_int8_has_the_weights_own_shape(make_file: Callable[..., Path], tmp_path: Path) -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    engine.quantize_to(make_file({"conv.weight": weight}), tmp_path / "out.safetensors", "int8:channel")
    stored = load_file(tmp_path / "out.safetensors")
    codes, scale, _, decoded = reference(weight.flatten(1), 8, "channel", None, True)
    assert torch.equal(stored["conv.weight"], codes.view(weight.shape))
    assert torch.equal(stored["conv.weight_scale"], scale)
    assert torch.equal(engine.load_tensors(tmp_path / "out.safetensors")["conv.weight"], decoded.view(weight.shape))


def test_transposed_convolutions_are_scaled_along_their_output_axis(make_file: Callable[..., Path], tmp_path: Path) -> None:
    weight = torch.randn(6, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[:, 4] *= 100  # one loud output channel must not spoil the others
    source = make_file({"up.weight": weight, "up.bias": torch.zeros(10)})
    engine.quantize_to(source, tmp_path / "out.safetensors", "int6:channel")
    moved = weight.movedim(1, 0).flatten(1)
    expected = reference(moved, 6, "channel", None, True)[3].view(10, 6, 3, 3).movedim(0, 1)
    assert torch.equal(engine.load_tensors(tmp_path / "out.safetensors")["up.weight"], expected)
