"""The kernels and the torch reference do the same work; both against closed forms and bit-exact libraries."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.measure.tally import Tally, bin_scale
from engine.numerics import KINDS, affine, grids, kernels, reference
from engine.numerics.grids import Grid
from engine.numerics.scales import Scales, table
from engine.schemes.scaled import packed_bytes
from tests.engine.oracle import DTYPES

BACKENDS = pytest.mark.parametrize("backend", [kernels, reference], ids=["numba", "torch"])

GRIDS = {f"int{bits}": grids.integer(bits) for bits in range(2, 9)} | {
    "restricted": grids.integer(4, True), "ternary": grids.ternary(), "binary": grids.binary(),
    "nf4": grids.codebook(grids.NF4), "e4m3": grids.small_float(*grids.E4M3), "e5m2": grids.small_float(*grids.E5M2),
    "e3m2": grids.small_float(*grids.E3M2), "e2m3": grids.small_float(*grids.E2M3), "e2m1": grids.small_float(*grids.E2M1),
}  # fmt: skip

chunks = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 9),
        "cols": st.integers(1, 70),
        "dtype": st.sampled_from(["BF16", "F16", "F32", "F64"]),
        "group": st.integers(1, 70),
        "symmetric": st.booleans(),
        "exponent": st.integers(-8, 3),
        "seed": st.integers(0, 2**31),
    }
)


def stored(rows: int, cols: int, dtype: str, exponent: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """A random weight of a dtype, and its bytes."""
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    weight = weight.to(DTYPES[dtype])
    return weight, weight.contiguous().view(torch.uint8).numpy().reshape(-1).copy()


def parameters_of(low: np.ndarray, high: np.ndarray, grid: Grid, symmetric: bool, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of each range on a grid."""
    if not symmetric and grid.form == grids.INTEGER and grid.bits:
        return affine.asymmetric(low, high, grid.bits, dtype)[:2]
    amax = np.maximum(np.maximum(-low, high), 0)
    scale, _ = affine.symmetric(amax, float(grid.high), float(grid.high), dtype)
    return scale, np.zeros_like(scale)


@given(case=chunks, grid=st.sampled_from(list(GRIDS)))
@settings(max_examples=300, deadline=None)
def test_kernels_and_reference_agree_to_the_byte(case: dict, grid: str) -> None:
    rows, cols, dtype, grid = case["rows"], case["cols"], case["dtype"], GRIDS[grid]
    group = min(case["group"], cols)
    _, raw = stored(rows, cols, dtype, case["exponent"], case["seed"])
    groups, kind = -(-cols // group), KINDS[dtype]
    scale_dtype = dtype if dtype in ("BF16", "F16") else "F32"
    to = KINDS[scale_dtype]
    row_bytes = packed_bytes(grid.bits, cols) + 2
    results = []
    for backend in (kernels, reference):
        low, high = np.empty(rows * groups, np.float32), np.empty(rows * groups, np.float32)
        assert backend.row_ranges(raw, rows, cols, kind, group, low, high) == -1
        scale, zero = parameters_of(low, high, grid, case["symmetric"], scale_dtype)
        out, tally = np.ones(rows * row_bytes, np.uint8), Tally()
        limit = float(max(high.max(), -low.min(), 0))
        backend.encode_rows(
            raw, rows, cols, kind, group, scale, zero, grid, to, to, row_bytes, out, bin_scale(limit), tally.sums, tally.counts,
            tally.joint,
        )  # fmt: skip
        size = 4 if scale_dtype == "F32" else 2
        decoded = np.empty(rows * cols * size, np.uint8)
        backend.decode_rows(out, rows, cols, row_bytes, grid, group, Scales.of(scale), zero, to, decoded)
        results.append((low, high, out, decoded, tally))
    (low1, high1, out1, decoded1, tally1), (low2, high2, out2, decoded2, tally2) = results
    np.testing.assert_array_equal(low1, low2)
    np.testing.assert_array_equal(high1, high2)
    np.testing.assert_array_equal(out1, out2)
    np.testing.assert_array_equal(decoded1, decoded2)
    np.testing.assert_array_equal(tally1.counts.sum(1), tally2.counts.sum(1))
    np.testing.assert_allclose(tally1.sums, tally2.sums, rtol=1e-4)


def stored_scales(scale: np.ndarray, held: str, seed: int) -> Scales:
    """Scales near these in one of the ways in which they are stored, every third seed with subnormal ones among them."""
    if held == "table":
        values = np.linspace(1, 2.5, 256, dtype=np.float32)
        return table(np.searchsorted(values, scale * 1.25).astype(np.uint8), values, 1.25)
    if held == "F16" and seed % 3 == 0:
        scale = np.where(np.arange(scale.size) % 2, scale, scale * np.float32(2.0**-20))
    return Scales(KINDS[held], np.frombuffer(affine.to_bytes(affine.round_to(scale, held), held), np.uint8).copy())


@pytest.mark.parametrize(
    "given, expected",
    [
        (Scales(KINDS["BF16"], np.array([0x3F80, 0xC020], np.uint16).view(np.uint8)), [1, -2.5]),
        (Scales(KINDS["F16"], np.array([0x3C00, 0x0001], np.uint16).view(np.uint8)), [1, 2.0**-24]),
        (Scales.of(np.array([1, 3], np.float32)), [1, 3]),
        (table(np.array([2, 0], np.uint8), np.arange(256, dtype=np.float32) + 1, 2), [1.5, 0.5]),
    ],
)
def test_scales_are_read_as_they_are_stored(given: Scales, expected: list[float]) -> None:
    np.testing.assert_array_equal(given.floats(), np.array(expected, np.float32))
    np.testing.assert_array_equal(given.part(slice(1, 2)).floats(), np.array(expected[1:], np.float32))


@given(
    grid=st.sampled_from(list(GRIDS)), rows=st.integers(1, 5), cols=st.integers(1, 300) | st.sampled_from([32, 64, 96, 256]),
    group=st.sampled_from([1, 7, 16, 32, 48, 64, 300]), vectors=st.integers(1, 3), kind=st.sampled_from(list(KINDS.values())[:3]),
    held=st.sampled_from(["F32", "BF16", "F16", "table"]), seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_stored_bytes_are_decoded_and_multiplied_as_the_reference_does(
    grid: str, rows: int, cols: int, group: int, vectors: int, kind: int, held: str, seed: int
) -> None:
    rng, chosen, group = np.random.default_rng(seed), GRIDS[grid], min(group, cols)
    chosen = chosen._replace(flip=0x80 if chosen.bits == 8 and seed % 2 else 0)
    row_bytes = packed_bytes(chosen.bits, cols) + int(rng.integers(0, 3))
    packed = rng.integers(0, 256 if chosen.bits else 243, rows * row_bytes).astype(np.uint8)
    widest = 1 if grid == "e5m2" else 2  # encoders see to it that no code decodes to infinity, in float16 too
    scale = rng.uniform(0.5, widest, rows * -(-cols // group)).astype(np.float32)
    zero = rng.uniform(-3, 3, scale.size).astype(np.float32)
    zero = zero if chosen.form == grids.INTEGER else zero[:0]
    given = (packed, rows, cols, row_bytes, chosen, group, stored_scales(scale, held, seed), zero)
    decoded = [np.empty(rows * cols * (4 if kind == KINDS["F32"] else 2), np.uint8) for _ in range(2)]
    kernels.decode_rows(*given, kind, decoded[0])
    reference.decode_rows(*given, kind, decoded[1])
    weight = torch.from_numpy(decoded[1]).view([torch.bfloat16, torch.float16, torch.float32][kind]).view(rows, cols)
    nan = torch.isnan(weight).flatten().repeat_interleave(weight.itemsize).numpy()  # of whatever bits
    np.testing.assert_array_equal(decoded[0][~nan], decoded[1][~nan])
    assert torch.from_numpy(decoded[0]).view(weight.dtype)[torch.isnan(weight).flatten()].isnan().all()
    x = rng.standard_normal((vectors, cols)).astype(np.float32)
    if seed % 4 == 0:
        x[0, int(rng.integers(cols))] = rng.choice([np.nan, np.inf])
    # A code and its zero point may be put together before they are rounded, so that what they cancel to is less exact.
    reach = np.abs(weight.double().numpy()) + 2 * 2.0 ** max(chosen.bits, 2) * (chosen.form == grids.INTEGER)
    with np.errstate(invalid="ignore"):
        expected = weight.double().numpy() @ x.T.astype(np.float64)
        most = (cols * np.abs(weight.double().numpy()) + reach) @ np.abs(x.T.astype(np.float64))
    out = np.full((rows, vectors), 7, np.float32)
    kernels.multiply_rows(*given, kind, x, out)
    np.testing.assert_array_equal(np.isfinite(out), np.isfinite(expected))
    finite = np.isfinite(expected)
    assert (np.abs(out[finite] - expected[finite]) <= 2.0**-24 * most[finite] + 1e-30).all()


@given(case=chunks, power=st.sampled_from([0.7, 1.0, 2.0, 2.4]), grid=st.sampled_from(["int3", "e2m1", "nf4"]))
@settings(max_examples=100, deadline=None)
def test_what_searches_look_at_agrees_with_the_reference(case: dict, power: float, grid: str) -> None:
    rows, cols, dtype, chosen = case["rows"], case["cols"], case["dtype"], GRIDS[grid]
    group = min(case["group"], cols)
    weight, raw = stored(rows, cols, dtype, case["exponent"], case["seed"])
    groups, kind = -(-cols // group), KINDS[dtype]
    chunk = (raw, rows, cols, kind, group)
    low, high = np.empty(rows * groups, np.float32), np.empty(rows * groups, np.float32)
    kernels.row_ranges(*chunk, low, high)
    scale, zero = parameters_of(low, high, chosen, case["symmetric"], "F32")
    found = []
    for backend in (kernels, reference):
        errors, means, first, last = np.zeros(scale.size), np.empty_like(scale), np.empty_like(scale), np.empty_like(scale)
        backend.error_rows(*chunk, scale, zero, chosen, 2, 2, power, errors)
        backend.mean_rows(*chunk, means)
        backend.quantile_rows(*chunk, False, 0.1, 0.97, first, last)
        counts = np.zeros(65536, np.int64)
        backend.key_rows(raw, rows, cols, kind, False, -1, counts)
        found.append((errors, means, first, last, counts))
    for mine, plain, tolerance in zip(*found, (1e-3, 1e-5, 1e-5, 1e-5, 0), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=tolerance, atol=1e-30)
    block = weight[:, :group].double().numpy()
    np.testing.assert_allclose(found[0][1][::groups], np.abs(block).mean(1), rtol=1e-5)
    np.testing.assert_allclose(found[0][2][::groups], np.percentile(block, 10, axis=1), rtol=1e-5)


@given(seed=st.integers(0, 2**31), bits=st.integers(2, 5), whole=st.booleans(), group=st.sampled_from([8, 24, 64]))
@settings(max_examples=40, deadline=None)
def test_half_quadratic_search_agrees_with_the_reference(seed: int, bits: int, whole: bool, group: int) -> None:
    """Up to groups in which a rounding difference tips one weight over; their objective is then as good."""
    _, raw = stored(6, 64, "F32", -2, seed)
    chunk = (raw, 6, 64, KINDS["F32"], group)
    groups = -(-64 // group)
    low, high = np.empty(6 * groups, np.float32), np.empty(6 * groups, np.float32)
    kernels.row_ranges(*chunk, low, high)
    scale, zero, _ = affine.asymmetric(low, high, bits, "F32", whole=whole)
    grid, objectives, moved = grids.integer(bits), [], []
    for backend in (kernels, reference):
        steps, found, errors = scale.copy(), zero.copy(), np.zeros(zero.size)
        backend.half_quadratic_rows(*chunk, steps, found, grid, whole, 20, 0.7, 10.0, 1.01)
        reference.error_rows(*chunk, steps, found, grid, 2, 2, 0.7, errors)
        objectives.append(errors)
        moved.append(steps if whole else found)
    np.testing.assert_allclose(objectives[0], objectives[1], rtol=0.05)
    assert np.isclose(*moved, rtol=1e-3, atol=1e-3).mean() > 0.8


@given(power=st.floats(0.1, 8), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_powers_are_numpys(power: float, seed: int) -> None:
    values = (10 ** np.random.default_rng(seed).uniform(-3, 1, 100)).astype(np.float32)
    out, work = np.empty_like(values), np.empty(100, np.int32)
    kernels._powers(values, 100, np.float32(power), work, out)
    np.testing.assert_allclose(out, values.astype(np.float64) ** np.float32(power), rtol=1e-4)


@given(rows=st.integers(1, 6), cols=st.integers(1, 100), bits=st.integers(2, 8), seed=st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_packing_is_what_compressed_tensors_packs_and_unpacks_to_itself(rows: int, cols: int, bits: int, seed: int) -> None:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, cols)).astype(np.uint8)
    signed = torch.from_numpy(codes.astype(np.int16) - 2 ** (bits - 1)).to(torch.int8)
    expected = pack_to_int32(signed, bits).numpy()
    for backend in (kernels, reference):
        packed = np.zeros((rows, expected.shape[1] * 4), np.uint8)
        backend.pack_rows(codes, bits, packed)
        np.testing.assert_array_equal(packed.view(np.int32), expected)
        back = np.empty_like(codes)
        backend.unpack_rows(packed, bits, back)
        np.testing.assert_array_equal(back, codes)


def test_every_float16_survives_loading_and_storing() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    finite = np.isfinite(halves.view(np.float16))
    values = np.empty(65536, np.float32)
    kernels.load_row(halves.view(np.uint8), 0, 65536, KINDS["F16"], values)
    expected = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(values[finite].view(np.uint32), expected[finite].view(np.uint32))
    assert not np.isfinite(values[~finite]).any()
    raw = np.zeros(finite.sum() * 2, np.uint8)
    kernels.store_row(expected[finite].copy(), int(finite.sum()), KINDS["F16"], 0, raw)
    np.testing.assert_array_equal(raw.view(np.uint16), halves[finite])


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_rounding_is_torchs_cast(dtype: str, torch_dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    values = (rng.standard_normal(20000) * 10.0 ** rng.integers(-9, 4, 20000)).astype(np.float32)
    expected = torch.from_numpy(values).to(torch_dtype).float().numpy()
    rounded = values.copy()
    kernels.round_row(rounded, rounded.size, KINDS[dtype])
    np.testing.assert_array_equal(rounded, expected)
    np.testing.assert_array_equal(affine.round_to(values, dtype), expected)


@BACKENDS
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_ranges_find_the_first_value_that_is_not_finite(backend, dtype: str, bad: float) -> None:
    weight = torch.ones(4, 33, dtype=DTYPES[dtype])
    weight[2, 5] = bad
    weight[3, 1] = bad
    raw = weight.view(torch.uint8).numpy().reshape(-1)
    low, high = np.empty(12, np.float32), np.empty(12, np.float32)
    assert backend.row_ranges(raw, 4, 33, KINDS[dtype], 11, low, high) == 2 * 33 + 5


@BACKENDS
def test_histogram_is_numpys_up_to_values_on_an_edge(backend) -> None:
    weight, raw = stored(8, 500, "F32", 0, 3)
    limit = float(weight.abs().max())
    tally = Tally()
    backend.count_rows(raw, 8, 500, KINDS["F32"], bin_scale(limit), tally.counts[0])
    counts = np.asarray(tally.histogram(limit).float_counts)
    assert counts.sum() == weight.numel()
    values = weight.double().numpy().ravel()
    expected, edges = np.histogram(values, 256, (-limit, limit))
    near = sum(int((np.abs(values - edge) < 1e-6 * limit).sum()) for edge in edges)
    assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= near


def test_uniform_input_reaches_the_textbook_sqnr() -> None:
    """Uniform in [-1, 1] with step 2/(2^b - 1): 10 log10((1/3) / (step^2 / 12)) dB."""
    weight = torch.rand(64, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float() * 2 - 1
    weight[:, 0], weight[:, 1] = 1.0, -1.0
    raw = weight.view(torch.uint8).numpy().reshape(-1)
    for bits in range(2, 9):
        low, high = np.empty(64, np.float32), np.empty(64, np.float32)
        kernels.row_ranges(raw, 64, 4096, KINDS["F32"], 4096, low, high)
        scale, zero, _ = affine.asymmetric(low, high, bits, "F32")
        out, tally = np.zeros(64 * 512 * bits, np.uint8), Tally()
        kernels.encode_rows(
            raw, 64, 4096, 2, 4096, scale, zero, grids.integer(bits), 2, 2, 512 * bits, out, bin_scale(1.0), tally.sums,
            tally.counts, tally.joint,
        )  # fmt: skip
        step = 2 / (2**bits - 1)
        theory = 10 * np.log10((1 / 3) / (step**2 / 12))
        assert 10 * np.log10(tally.signal / tally.noise) == pytest.approx(theory, abs=0.1)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_parameters_stay_finite_and_positive_at_every_extreme(dtype: str, symmetric: bool) -> None:
    largest = affine.LARGEST[dtype]
    low = np.float32([0, 0, -largest, -largest, -1e-45, 0, 5])
    high = np.float32([0, 1e-45, largest, 0, 0, largest, 5])
    for bits in range(2, 9):
        if symmetric:
            scale, _ = affine.symmetric(np.maximum(-low, high), 2.0 ** (bits - 1) - 0.5, 2.0 ** (bits - 1), dtype)
            zero = np.zeros_like(scale)
        else:
            scale, zero, _ = affine.asymmetric(low, high, bits, dtype)
        assert np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(zero).all()
        for code in (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1):
            assert np.isfinite(affine.round_to((np.float32(code) - zero) * scale, dtype)).all()


def test_warming_up_loads_every_kernel_a_run_uses(language_model: Path, tmp_path: Path) -> None:
    """One type signature each: another would be compiled or loaded in the middle of a run."""
    code = (
        "import engine, sys\n"
        "from engine import numerics\n"
        "numerics.warm_up()\n"
        "kernels = [getattr(numerics.backend(), name) for name in ('row_ranges', 'encode_rows', 'count_rows')]\n"
        "before = [len(kernel.signatures) for kernel in kernels]\n"
        "engine.quantize_to(sys.argv[1], sys.argv[2], 'W4A16_ASYM')\n"
        "engine.layer_histogram(sys.argv[1], 'lm_head')\n"
        "print(before == [len(kernel.signatures) for kernel in kernels] == [1, 1, 1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, language_model, tmp_path / "o"], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


SPECIFICATION = {
    # Open Compute Project: 8-bit Floating Point Specification 1.0 and Microscaling Formats 1.0, tables of the element types.
    "E4M3": {"largest": 448.0, "least normal": 2.0**-6, "least": 2.0**-9, "finite": 254},
    "E5M2": {"largest": 57344.0, "least normal": 2.0**-14, "least": 2.0**-16, "finite": 248},
    "E3M2": {"largest": 28.0, "least normal": 0.25, "least": 0.0625, "finite": 64},
    "E2M3": {"largest": 7.5, "least normal": 1.0, "least": 0.125, "finite": 64},
    "E2M1": {"largest": 6.0, "least normal": 1.0, "least": 0.5, "finite": 16},
}


@pytest.mark.parametrize("name", SPECIFICATION)
def test_small_floats_are_those_of_the_specification(name: str) -> None:
    grid, facts = grids.small_float(*getattr(grids, name)), SPECIFICATION[name]
    values = grid.values[np.isfinite(grid.values)]
    assert values.max() == facts["largest"] == grid.high
    assert values[values > 0].min() == facts["least"] and grid.normal == facts["least normal"]
    assert values.size == facts["finite"]


@pytest.mark.parametrize(("name", "dtype"), [("E4M3", torch.float8_e4m3fn), ("E5M2", torch.float8_e5m2)])
def test_every_code_and_every_rounding_is_torchs(name: str, dtype: torch.dtype) -> None:
    grid = grids.small_float(*getattr(grids, name))
    theirs = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(grid.values[finite], theirs[finite])
    spread = 10.0 ** np.random.default_rng(0).uniform(-8, 4.7, 40000) * np.random.default_rng(1).choice([-1, 1], 40000)
    middles = (theirs[finite][1:] + theirs[finite][:-1]) / 2
    values = np.clip(np.concatenate([spread, middles, [0.0, -0.0]]), -grid.high, grid.high).astype(np.float32)
    expected = torch.from_numpy(values).to(dtype).view(torch.uint8).numpy()
    for backend in (kernels, reference):
        out, tally, one = np.zeros(values.size, np.uint8), Tally(), np.ones(1, np.float32)
        backend.encode_rows(
            values.view(np.uint8).copy(), 1, values.size, 2, values.size, one, one * 0, grid, 2, 2, values.size, out,
            bin_scale(1.0), tally.sums, tally.counts, tally.joint,
        )  # fmt: skip
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("backend", [kernels, reference])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_column_sums_are_numpys(backend, dtype: torch.dtype) -> None:
    values = (torch.randn(37, 19, generator=torch.Generator().manual_seed(1)) * 50).to(dtype)
    wide = values.double().numpy()
    low, high = np.full(19, np.inf, np.float32), np.full(19, -np.inf, np.float32)
    total, magnitude = np.zeros(19), np.zeros(19)
    kind = KINDS[{torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[dtype]]
    for part in (values[:5], values[5:]):  # sums go on where they stood
        assert backend.column_sums(part.reshape(-1).view(torch.uint8).numpy(), *part.shape, kind, low, high, total, magnitude)
    np.testing.assert_array_equal(low, wide.min(0))
    np.testing.assert_array_equal(high, wide.max(0))
    np.testing.assert_allclose(total, wide.sum(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(magnitude, np.abs(wide).sum(0), rtol=1e-12)


@pytest.mark.parametrize("backend", [kernels, reference])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_column_sums_say_when_a_value_is_not_finite(backend, bad: float) -> None:
    values = np.ones((3, 4), np.float32)
    values[1, 2] = bad
    low, high = np.full(4, np.inf, np.float32), np.full(4, -np.inf, np.float32)
    assert not backend.column_sums(values.reshape(-1).view(np.uint8), 3, 4, KINDS["F32"], low, high, np.zeros(4), np.zeros(4))


@pytest.mark.parametrize("backend", [kernels, reference])
def test_compare_is_numpys(backend) -> None:
    draw = np.random.default_rng(2)
    values, others = (draw.normal(size=1003).astype(np.float32) for _ in range(2))
    wide = values.astype(np.float64), others.astype(np.float64)
    found = backend.compare(values, others)
    expected = (wide[0] ** 2).sum(), ((wide[0] - wide[1]) ** 2).sum(), np.abs(wide[0] - wide[1]).max()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
