"""FP8, MX and NVFP4 files against compressed-tensors, torch's casts and the OCP MX v1.0 element tables, to the byte."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compressed_tensors import compressors
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam, maybe_pad_tensor_for_block_quant
from safetensors.torch import load_file
from torch import Tensor

import engine
from tests.engine.oracle import DTYPES

Stored = dict[str, Tensor]
Quantized = Callable[[Tensor, str], tuple[Stored, Tensor]]
FP8 = {"type": "float", "num_bits": 8, "symmetric": True}
NV = {"group_size": 16, "scale_dtype": torch.float8_e4m3fn}
MX = {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}
LIBRARY = {
    "fp8": (compressors.NaiveQuantizationCompressor, FP8 | {"strategy": "channel"}),
    "fp8:tensor": (compressors.NaiveQuantizationCompressor, FP8 | {"strategy": "tensor"}),
    "fp8_e4m3:g64": (compressors.NaiveQuantizationCompressor, FP8 | {"strategy": "group", "group_size": 64}),
    "fp8_e4m3:b128x128": (compressors.NaiveQuantizationCompressor, FP8 | {"strategy": "block", "block_structure": [128, 128]}),
    "mxfp4": (compressors.MXFP4PackedCompressor, FP8 | MX | {"num_bits": 4}),
    "mxfp6": (compressors.MXFP6PackedCompressor, FP8 | MX | {"num_bits": 6}),
    "mxfp8": (compressors.MXFP8QuantizationCompressor, FP8 | MX),
    "nvfp4": (compressors.NVFP4PackedCompressor, NV | {"type": "float", "num_bits": 4, "strategy": "tensor_group"}),
}
SIZES = {"ordinary": 0.05, "loud": 10.0, "huge": 1e37, "small": 1e-6, "tiny": 1e-30, "denormal": 1e-40}
CASES = [(d, s) for d in ("BF16", "F16", "F32") for s in SIZES if d != "F16" or s in ("ordinary", "loud")]
# What OCP MX v1.0 says: exponent and mantissa bits, bias, exponent of the largest element, largest, least.
ELEMENTS = {
    "mxfp8": (4, 3, 7, 8, 448.0, 2.0**-9),
    "mxfp8_e5m2": (5, 2, 15, 15, 57344.0, 2.0**-16),
    "mxfp6_e2m3": (2, 3, 1, 2, 7.5, 0.125),
    "mxfp6_e3m2": (3, 2, 3, 4, 28.0, 0.0625),
    "mxfp4": (2, 1, 1, 2, 6.0, 0.5),
}


def weights(dtype: str, size: str) -> Tensor:
    """Random, with an outlier, a zero row, zero groups, a constant row, and rows of other magnitudes."""
    weight = torch.randn(160, 384, generator=torch.Generator().manual_seed(11))
    weight[3, 7], weight[5], weight[6], weight[7, 32:96] = 8.0 if size == "huge" else 60.0, 0.0, 0.25, 0.0
    weight[8] *= 2.0 ** torch.linspace(-10, 0, 384)
    weight[9] *= 1e-3
    return (weight.double() * SIZES[size]).to(DTYPES[dtype]) + 0.0  # -0.0 has its own test


def ranges(weight: Tensor, args: QuantizationArgs) -> tuple[Tensor, Tensor]:
    """Least and greatest value of everything that shares a scale."""
    if args.strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if args.strategy == "block":
        height, width = args.block_structure
        blocks = maybe_pad_tensor_for_block_quant(weight, (height, width)).unflatten(1, (-1, width)).unflatten(0, (-1, height))
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    grouped = weight.unflatten(-1, (-1, args.group_size or weight.shape[1]))
    return grouped.amin(-1), grouped.amax(-1)


def library(weight: Tensor, scheme: str) -> tuple[Stored, Tensor]:
    """What compressed-tensors stores for a weight, by suffix, and what it decodes."""
    compressor, arguments = LIBRARY[scheme]
    args = QuantizationArgs(**arguments)
    description = QuantizationScheme(targets=["Linear"], weights=args)
    shared = {"global_scale": generate_gparam(weight.min(), weight.max())} if scheme == "nvfp4" else {}
    scale, _ = calculate_qparams(*ranges(weight, args), args, **shared)
    state = {"weight": weight, "weight_scale": scale} | {f"weight_{name}": value for name, value in shared.items()}
    state = compressor.compress(state, description)
    stored = {name.removeprefix("weight"): value for name, value in state.items()}
    return stored, compressor.decompress(state, description)["weight"]


def magnitudes(scheme: str) -> Tensor:
    """All finite magnitudes of an element format in code order, from its definition."""
    exponent_bits, mantissa_bits, bias, _, largest, _ = ELEMENTS[scheme]
    exponent, mantissa = torch.arange(2**exponent_bits).view(-1, 1), torch.arange(2**mantissa_bits).double()
    values = ((exponent > 0) + mantissa / 2**mantissa_bits) * 2.0 ** (exponent.clamp(min=1) - bias)
    return values[values <= largest]


def nearest(values: Tensor, grid: Tensor) -> Tensor:
    """Codes (sign above magnitude) of the nearest grid values, ties to the even code, beyond the grid its end."""
    middles = (grid[1:] + grid[:-1]) / 2
    low, high = (torch.searchsorted(middles, values.double().abs(), right=right) for right in (False, True))
    return torch.where(low % 2 == 0, low, high) + torch.signbit(values) * len(grid)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Codes of each row as bytes, least significant bits first."""
    stream = (codes.unsqueeze(-1) >> torch.arange(bits) & 1).flatten(1)
    return (stream.unflatten(1, (-1, 8)) << torch.arange(8)).sum(-1).to(torch.uint8)


def shared_exponents(weight: Tensor, scheme: str) -> Tensor:
    """E8M0 codes: the exponent of each group's maximum, one more from the middle of largest element and next power on."""
    emax, largest = ELEMENTS[scheme][3:5]
    mantissa, exponent = torch.frexp(weight.double().abs().unflatten(-1, (-1, 32)).amax(-1))
    bump = (2 * mantissa >= (largest / 2**emax + 2) / 2).int()
    return torch.where(mantissa == 0, 0, exponent - 1 + bump - emax + 127).clamp(0, 254).to(torch.uint8)


def assert_same(stored: Stored, expected: Stored, label: str) -> None:
    for suffix, value in expected.items():
        found = stored[suffix]
        same = torch.equal(found.view(torch.uint8), value.contiguous().view(torch.uint8))
        assert same and found.dtype == value.dtype, f"{label} {suffix}"


@pytest.fixture
def quantized(make_file: Callable[..., Path], tmp_path: Path) -> Quantized:
    """Quantize one weight: its stored tensors by suffix, and what the engine decodes."""

    def run(weight: Tensor, scheme: str) -> tuple[Stored, Tensor]:
        recipe = engine.Recipe(default=engine.parse_scheme(scheme), builtin=False)
        engine.quantize_to(make_file({"layer.weight": weight}), tmp_path / "out.safetensors", recipe, overwrite=True)
        stored = {n.removeprefix("layer.weight"): value for n, value in load_file(tmp_path / "out.safetensors").items()}
        return stored, engine.load_tensors(tmp_path / "out.safetensors")["layer.weight"]

    return run


@pytest.mark.parametrize(("dtype", "size"), CASES)
def test_library_formats_are_compressed_tensors_to_the_byte(dtype: str, size: str, quantized: Quantized) -> None:
    weight = weights(dtype, size)
    for name in LIBRARY:
        if size == "denormal" and not name.startswith("mx"):  # its scales underflow
            continue
        same = weight.float() if (dtype, name[:2]) == ("F16", "mx") else weight  # in F16 its MX scales underflow
        (expected, decoded), (stored, back) = library(same, name), quantized(weight, name)
        assert_same(stored, expected, name)
        assert torch.equal(back, decoded), name


def test_negative_zero_is_zero(quantized: Quantized) -> None:
    weight = weights("F32", "ordinary")
    weight[0, 1::2] = -0.0
    weight[1, 1:16] = -1e-12
    for name in LIBRARY:
        decoded = quantized(weight, name)[1]
        assert not decoded[0, 1::2].any() and not decoded[1, 1:16].any(), name
    for name in ("mxfp4", "mxfp6", "nvfp4"):  # its FP8 has 0x80 or, where there is a zero point, 0x00
        assert_same(quantized(weight, name)[0], library(weight, name)[0], name)


@pytest.mark.parametrize(("dtype", "size"), [("F16", "small"), ("BF16", "denormal"), ("F32", "denormal"), ("F32", "ordinary")])
def test_where_the_librarys_scales_underflow_nothing_is_worse(dtype: str, size: str, quantized: Quantized) -> None:
    """It then takes an epsilon, for which all weights of the group are zeros or nearly so."""
    weight = weights(dtype, size)
    weight[8, :64] *= 2.0**-20
    for name in LIBRARY:
        expected, found = (weight.double() - back.double() for back in (library(weight, name)[1], quantized(weight, name)[1]))
        assert found.square().sum() <= expected.square().sum(), name


@pytest.mark.parametrize(("dtype", "size"), [case for case in CASES if case[1] != "denormal" and case != ("F16", "ordinary")])
def test_fp8_e5m2_is_torchs_cast_of_the_quotient(dtype: str, size: str, quantized: Quantized) -> None:
    weight = weights(dtype, size)
    for name, source in (("tensor", "fp8:tensor"), ("channel", "fp8"), ("g64", "fp8_e4m3:g64")):
        scale = ranges(weight.abs(), QuantizationArgs(**LIBRARY[source][1]))[1] / 57344
        scale[scale == 0] = torch.finfo(scale.dtype).eps
        every = scale.view(-1, scale.shape[-1]).repeat_interleave(384 // scale.shape[-1], 1)
        codes = (weight / every).clamp(-57344, 57344).to(torch.float8_e5m2)
        stored, decoded = quantized(weight, f"fp8_e5m2:{name}")
        assert_same(stored, {"": codes, "_scale": scale}, name)
        assert torch.equal(decoded, codes.to(weight.dtype) * every), name


@pytest.mark.parametrize("size", ["ordinary", "huge", "tiny"])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_the_other_mx_formats_follow_the_same_rule(dtype: str, size: str, quantized: Quantized) -> None:
    weight = weights(dtype, size)
    for name in ("mxfp8_e5m2", "mxfp6_e3m2"):
        scale = shared_exponents(weight, name)
        every = scale.view(torch.float8_e8m0fnu).double().repeat_interleave(32, 1)
        codes = nearest(weight.double() / every, magnitudes(name))
        elements = torch.cat([magnitudes(name), -magnitudes(name)])
        expected = {"_packed": packed(codes, 6), "_scale": scale}
        if name == "mxfp8_e5m2":
            expected = {"": (weight.double() / every).clamp(-57344, 57344).to(torch.float8_e5m2), "_scale": scale}
        stored, decoded = quantized(weight, name)
        assert_same(stored, expected, name)
        assert torch.equal(decoded, (elements[codes] * every).to(torch.bfloat16)), name


@pytest.mark.parametrize("scheme", ELEMENTS)
def test_every_element_and_every_middle_rounds_as_the_ocp_tables_say(scheme: str, quantized: Quantized) -> None:
    """Each group holds an element that makes its scale one, so that the weights are the elements themselves."""
    grid = magnitudes(scheme)
    assert (grid[-1], grid[1]) == ELEMENTS[scheme][4:]
    top = grid[-2] if scheme == "mxfp8" else grid[-1]  # compressed-tensors doubles the scale from 448 on
    values = torch.cat([grid[1:], (grid[1:] + grid[:-1]) / 2])
    values = torch.cat([values[values <= top], -values[values <= top]])
    values = torch.nn.functional.pad(values, (0, -len(values) % 31)).view(-1, 31)
    weight = torch.nn.functional.pad(values, (1, 0), value=float(top)).float()
    codes = nearest(weight, grid)
    stored, decoded = quantized(weight, scheme)
    assert stored["_scale"].eq(127).all()
    if scheme.startswith("mxfp8"):
        torch_type = torch.float8_e5m2 if scheme.endswith("e5m2") else torch.float8_e4m3fn
        assert torch.equal(stored[""].view(torch.uint8), weight.to(torch_type).view(torch.uint8))
    else:
        bits = 6 if scheme.startswith("mxfp6") else 4
        assert torch.equal(stored["_packed"], packed(codes, bits))
    assert torch.equal(decoded.double(), torch.cat([grid, -grid])[codes])


@pytest.mark.parametrize(("scheme", "torch_type"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_every_fp8_value_is_its_own_code(scheme: str, torch_type: torch.dtype, quantized: Quantized) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch_type)
    finite = every[every.float().isfinite() & (every.view(torch.uint8) != 0x80)].view(1, -1)  # the sign of -0.0 is free
    for dtype in DTYPES.values():
        stored, decoded = quantized(finite.to(dtype), f"{scheme}:tensor")
        assert stored["_scale"].tolist() == [1.0] and torch.equal(stored[""].view(torch.uint8), finite.view(torch.uint8))
        assert torch.equal(decoded.double(), finite.double())
