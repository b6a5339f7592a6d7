"""NF4, FP4, ternary, binary and the searches for a range: hand-worked vectors, published levels, closed forms."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import engine
from tests.engine.oracle import DTYPES

Quantized = Callable[..., tuple[dict[str, Tensor], Tensor]]

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "formats.json").read_text())
# QLoRA (Dettmers et al. 2023), appendix E.
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FLOATS = ["BF16", "F16", "F32"]


@pytest.fixture
def quantized(make_file: Callable[..., Path], tmp_path: Path) -> Quantized:
    """Quantize one weight: its stored tensors by suffix, and what the engine decodes."""

    def run(weight: Tensor, scheme: str, algorithm: str = "rtn") -> tuple[dict[str, Tensor], Tensor]:
        recipe = engine.Recipe(default=engine.parse_scheme(scheme), algorithm=algorithm, builtin=False)
        engine.quantize_to(make_file({"layer.weight": weight}), tmp_path / "out.safetensors", recipe, overwrite=True)
        stored = load_file(tmp_path / "out.safetensors")
        decoded = engine.load_tensors(tmp_path / "out.safetensors")["layer.weight"]
        return {name.removeprefix("layer.weight"): value for name, value in stored.items()}, decoded

    return run


def nibbles(packed: Tensor) -> Tensor:
    """Codes of the even columns in the low halves, of the odd ones in the high halves."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2).long()


def by_group(weight: Tensor, size: int) -> Tensor:
    return weight.unflatten(-1, (-1, size))


def sqnr(weight: Tensor, decoded: Tensor) -> float:
    return float(10 * torch.log10(weight.double().square().sum() / (weight.double() - decoded.double()).square().sum()))


def normal_quantiles(count: int = 2**18) -> Tensor:
    """A Gaussian without chance: its quantiles in the middle of ``count`` equal shares."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float().view(256, -1)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["scheme"] for case in GOLDEN])
def test_hand_worked_vectors(case: dict, quantized: Quantized) -> None:
    stored, decoded = quantized(torch.tensor(case["weight"]).float(), case["scheme"])
    for suffix, expected in case["stored"].items():
        found = stored[suffix]
        found = found.view(torch.uint8) if found.dtype.itemsize == 1 else found
        assert found.tolist() == expected, suffix
    assert torch.equal(decoded, torch.tensor(case["decoded"]).to(decoded.dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_nf4_takes_the_nearest_published_level(dtype: str, gaussian: Tensor, quantized: Quantized) -> None:
    weight = gaussian.to(DTYPES[dtype])
    stored, decoded = quantized(weight, "nf4")
    groups = by_group(weight, 64)
    assert torch.equal(stored["_scale"][groups.any(-1)], groups.abs().amax(-1)[groups.any(-1)])
    quotient = torch.where(groups.any(-1, keepdim=True), groups.float() / groups.abs().amax(-1, keepdim=True).float(), 0)
    codes = (quotient.unsqueeze(-1) - NF4).abs().argmin(-1).flatten(1)  # the first of equals is the lower level
    assert torch.equal(nibbles(stored["_packed"]), codes)
    assert torch.equal(decoded, (NF4[codes] * stored["_scale"].float().repeat_interleave(64, 1)).to(weight.dtype))


def test_nf4_levels_come_back_as_themselves(quantized: Quantized) -> None:
    for size in (1.0, 0.03125, 3.0):
        stored, decoded = quantized((NF4 * size).view(1, 16), "nf4:g16")
        assert nibbles(stored["_packed"]).tolist() == [list(range(16))]
        assert torch.equal(decoded, (NF4 * size).view(1, 16))


@pytest.mark.parametrize("dtype", FLOATS)
def test_fp4_rounds_the_quotient_half_to_even(dtype: str, gaussian: Tensor, quantized: Quantized) -> None:
    weight = gaussian.to(DTYPES[dtype])
    stored, decoded = quantized(weight, "fp4:g32")
    groups = by_group(weight, 32)
    some = groups.any(-1)
    assert torch.equal(stored["_scale"][some], (groups.abs().amax(-1) / 6)[some])
    quotient = (groups.float() / stored["_scale"].float().unsqueeze(-1)).flatten(1)
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    low = torch.searchsorted(middles, quotient.abs())
    magnitude = torch.where(low % 2 == 0, low, torch.searchsorted(middles, quotient.abs(), right=True))
    codes = nibbles(stored["_packed"])
    assert torch.equal(codes & 7, magnitude)
    assert torch.equal((codes >> 3).bool()[magnitude > 0], (weight < 0)[magnitude > 0])
    values = E2M1[magnitude] * weight.float().sign() * stored["_scale"].float().repeat_interleave(32, 1)
    assert torch.equal(decoded, values.to(weight.dtype))


@pytest.mark.parametrize("scheme", ["nf4:g64:double", "fp4:g32:double"])
def test_double_quantization_stores_scales_as_fp8_around_their_mean(scheme: str, gaussian: Tensor, quantized: Quantized) -> None:
    size = int(scheme.split(":g")[1].split(":")[0])
    stored, decoded = quantized(gaussian, scheme)
    scales = by_group(gaussian, size).abs().amax(-1).flatten() / (6 if scheme.startswith("fp4") else 1)
    mean, steps = stored["_scale_mean"], stored["_scale_scale"]
    assert mean.item() == pytest.approx(float(scales.double().mean()), rel=1e-6)
    blocks = torch.split(scales.double() - float(scales.double().mean()), 256)
    assert torch.allclose(steps.double(), torch.stack([block.abs().max() / 448 for block in blocks]), rtol=1e-5)
    every_step = steps.repeat_interleave(256)[: len(scales)]
    assert stored["_scale"].shape == (96, 256 // size) and stored["_scale"].dtype == torch.float8_e4m3fn
    codes = ((scales - mean) / every_step).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert torch.equal(stored["_scale"].flatten().view(torch.uint8), codes.view(torch.uint8))
    scale = (codes.float() * every_step + mean).view(96, -1).repeat_interleave(size, 1)
    levels = NF4 if scheme.startswith("nf4") else torch.cat([E2M1, -E2M1])
    # A reader cannot tell the model's dtype from these tensors.
    assert torch.equal(decoded, (levels[nibbles(stored["_packed"])] * scale).to(torch.bfloat16))
    # Nearest for the scale that a reader computes, but for ties that one rounding more or less decides.
    distances = ((gaussian / scale).unsqueeze(-1) - levels).abs()
    chosen = distances.gather(-1, nibbles(stored["_packed"]).unsqueeze(-1)).squeeze(-1)
    assert (chosen <= distances.amin(-1) + 1e-6).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "scheme", ["ternary:tensor", "ternary:channel", "ternary:g32", "binary:tensor", "binary:channel", "binary"]
)
def test_ternary_and_binary_in_plain_python(scheme: str, dtype: str, gaussian: Tensor, quantized: Quantized) -> None:
    weight = gaussian[:12, :128].contiguous().to(DTYPES[dtype])
    stored, decoded = quantized(weight, scheme)
    size = 32 if scheme.endswith("g32") else 128
    pieces = weight.view(1, -1) if scheme.endswith("tensor") else by_group(weight, size).flatten(0, 1)
    means = pieces.double().abs().mean(1)
    scale = stored["_scale"].flatten()
    assert scale.dtype == weight.dtype
    assert torch.allclose(scale.double()[means > 0], means[means > 0], rtol=max(torch.finfo(weight.dtype).eps, 1e-6), atol=0)
    every = scale.view(-1, 1) if scheme.endswith("tensor") else scale.view(12, -1).repeat_interleave(size, 1)
    rows = []
    for row in stored["_packed"].tolist():
        if scheme.startswith("ternary"):
            rows.append([byte // 3**k % 3 - 1 for byte in row for k in range(5)][:128])
        else:
            rows.append([2 * (byte >> k & 1) - 1 for byte in row for k in range(8)][:128])
    codes = torch.tensor(rows)
    if scheme.startswith("ternary"):
        assert torch.equal(codes, (weight.float() / every.float()).round().clamp(-1, 1).nan_to_num().long())
    else:
        assert torch.equal(codes, torch.where(weight >= 0, 1, -1))
    assert torch.equal(decoded, (codes * every.float()).to(weight.dtype))


@pytest.mark.parametrize("zero", ["asym", "floatzero"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_uniform_noise_reaches_the_textbook_sqnr(bits: int, zero: str, quantized: Quantized) -> None:
    """Over [-1, 1] with the step 2 / (2^b - 1): (1/3) / (step^2 / 12)."""
    weight = torch.rand(256, 512, generator=torch.Generator().manual_seed(5)) * 2 - 1
    weight[0, 0], weight[0, 1] = 1.0, -1.0
    theory = 10 * math.log10((1 / 3) / ((2 / (2**bits - 1)) ** 2 / 12))
    assert sqnr(weight, quantized(weight, f"int{bits}:tensor:{zero}")[1]) == pytest.approx(theory, abs=0.1)


@pytest.mark.parametrize(("bits", "published"), [(2, 9.25), (3, 14.27), (4, 19.38)])
def test_mse_search_finds_maxs_optimal_uniform_quantizer(bits: int, published: float, quantized: Quantized) -> None:
    """Max 1960, table II. A float zero point puts the levels around zero as there; an integer one puts one on zero."""
    weight = normal_quantiles()
    decoded = quantized(weight, f"int{bits}:tensor:floatzero", "mse:norm=2:smallest=0.05:steps=400")[1]
    assert sqnr(weight, decoded) == pytest.approx(published, abs=0.03)


@pytest.mark.parametrize("bits", range(2, 7))
def test_mse_search_finds_the_optimum_of_the_symmetric_grid(bits: int, quantized: Quantized) -> None:
    """Levels k * s, k = -2^(b-1) .. 2^(b-1) - 1: the integral of the squared error of a Gaussian, at its best s."""
    step = torch.linspace(0.005, 2, 4000, dtype=torch.float64).view(-1, 1)
    levels = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) * step
    inner = (levels[:, 1:] + levels[:, :-1]) / 2
    edges = torch.nn.functional.pad(inner, (1, 1), value=40.0) * torch.ones(2**bits + 1).index_fill(0, torch.tensor([0]), -1)
    density, share = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(edges)
    first, second = -density.diff(dim=1), share.diff(dim=1) - (edges * density).diff(dim=1)
    best = float((second - 2 * levels * first + levels.square() * share.diff(dim=1)).sum(1).min())
    for search in ("grid", "golden"):
        decoded = quantized(normal_quantiles(), f"int{bits}:tensor", f"mse:search={search}:norm=2:smallest=0.05:steps=400")[1]
        assert sqnr(normal_quantiles(), decoded) == pytest.approx(-10 * math.log10(best), abs=0.03), search


@pytest.mark.parametrize("norm", [2.0, 2.4])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_mse_grid_search_is_a_search_of_its_grid(bits: int, norm: float, gaussian: Tensor, quantized: Quantized) -> None:
    decoded = quantized(gaussian, f"int{bits}:g64", f"mse:steps=40:smallest=0.3:norm={norm}")[1]
    groups = by_group(gaussian, 64)
    errors = []
    for ratio in np.linspace(1, 0.3, 40, dtype=np.float32).tolist():
        scale = groups.abs().amax(-1, keepdim=True) * ratio / ((2**bits - 1) / 2)
        codes = (groups / scale).nan_to_num().round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        errors.append((groups - codes * scale).abs().double().pow(norm).sum(-1))
    best = torch.stack(errors).amin(0)
    found = by_group(gaussian - decoded, 64).abs().double().pow(norm).sum(-1)
    assert torch.allclose(found, best, rtol=1e-5, atol=0)


@pytest.mark.parametrize("share", [99.9, 99.0, 90.0])
def test_percentile_ranges_are_numpys(share: float, gaussian: Tensor, quantized: Quantized) -> None:
    weight = gaussian[7:].contiguous()
    groups = by_group(weight, 64).double().numpy()
    scale = np.percentile(np.abs(groups), share, axis=-1) / 7.5
    found = quantized(weight, "int4:g64", f"percentile:share={share}")[0]["_scale"]
    np.testing.assert_allclose(found.double().numpy(), scale, rtol=1e-5)
    low, high = np.percentile(groups, [50 - share / 2, 50 + share / 2], axis=-1)
    found = quantized(weight, "int4:g64:asym", f"percentile:share={share}")[0]["_scale"]
    np.testing.assert_allclose(found.double().numpy(), (np.maximum(high, 0) - np.minimum(low, 0)) / 15, rtol=1e-5)


def test_doubly_quantized_scales_are_never_zero(make_file: Callable[..., Path], tmp_path: Path) -> None:
    """Scales far below the mean: their difference from it rounds to all of it."""
    weight = torch.cat([torch.zeros(20, 64), 12 * torch.ones(20, 64)])
    (report,) = engine.quantize_to(make_file({"layer.weight": weight}), tmp_path / "out.safetensors", "fp4:channel:double").layers
    decoded = engine.load_tensors(tmp_path / "out.safetensors")["layer.weight"].double()
    assert torch.isfinite(decoded).all() and report.note
    assert report.mse == pytest.approx(float((weight.double() - decoded).square().mean()), rel=1e-3)


def test_blocks_larger_than_the_weight_are_the_weight(make_file: Callable[..., Path], tmp_path: Path) -> None:
    source = make_file({"layer.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))})
    results = []
    for scheme in ("int8:b999999999x999999999", "int8:b64x64"):
        engine.quantize_to(source, tmp_path / "out.safetensors", scheme, overwrite=True)
        results.append(load_file(tmp_path / "out.safetensors")["layer.weight_packed"])
    assert torch.equal(*results)
