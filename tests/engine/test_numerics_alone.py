"""Kernels that no format needs by itself, and what chooses between ways to multiply: against torch, numpy and whole numbers."""

import itertools
import sys

import numpy as np
import pytest
import torch

from engine import numerics
from engine.measure.tally import Tally, bin_scale
from engine.numerics import KINDS, checksum, grids, kernels, products, reference
from engine.numerics.activations import fake_quantize, int8_codes
from engine.numerics.scales import Scales

BACKENDS = pytest.mark.parametrize("backend", [kernels, reference], ids=["numba", "torch"])
F32 = KINDS["F32"]


def raw(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1).view(np.uint8).copy()


@BACKENDS
def test_rounding_to_a_grid_is_torchs_cast(backend) -> None:
    values = np.random.default_rng(5).normal(0, 100, 999).clip(-448, 448).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn)
    codes, found = np.empty(999, np.uint8), values.copy()
    backend.to_grid(found, grids.small_float(*grids.E4M3), codes)
    np.testing.assert_array_equal(codes, expected.view(torch.uint8).numpy())
    np.testing.assert_array_equal(found, expected.float().numpy())


@BACKENDS
@pytest.mark.parametrize(("to", "dtype", "limit"), [("F16", torch.float16, 65504.0), ("BF16", torch.bfloat16, 3.3895e38)])
def test_casting_saturates_and_counts_what_it_clips(backend, to: str, dtype: torch.dtype, limit: float) -> None:
    values = np.random.default_rng(6).normal(0, 3e4, (5, 77)).astype(np.float32)
    out, tally = np.empty(5 * 77 * 2, np.uint8), Tally()
    backend.cast_rows(
        raw(values), 5, 77, F32, KINDS[to], np.float32(limit), bin_scale(2e5), out, tally.sums, tally.counts,
    )  # fmt: skip
    expected = torch.from_numpy(values.clip(-limit, limit)).to(dtype)
    assert torch.equal(torch.from_numpy(out).view(dtype), expected.flatten())
    assert tally.sums[3] == (np.abs(values) > limit).sum() and tally.counts[2].sum() == tally.sums[3]
    error = values.astype(np.float64) - expected.double().numpy()
    np.testing.assert_allclose(tally.sums[:3], [(values.astype(np.float64) ** 2).sum(), (error**2).sum(), abs(error).max()], 1e-5)


@BACKENDS
@pytest.mark.parametrize("magnitude", [False, True])
def test_keys_order_as_numbers_do(backend, magnitude: bool) -> None:
    """The upper half of each key first, then the lower one of those with a certain upper half: together the sorted numbers."""
    values = np.random.default_rng(7).normal(size=(3, 50)).astype(np.float32)
    values[0, :3] = 1.5, -1.5, 0.0
    chunk, upper = (raw(values), 3, 50, F32, magnitude), np.zeros(65536, np.int64)
    backend.key_rows(*chunk, -1, upper)
    keys = []
    for prefix in upper.nonzero()[0]:
        lower = np.zeros(65536, np.int64)
        backend.key_rows(*chunk, int(prefix), lower)
        assert lower.sum() == upper[prefix]
        keys += [int(prefix) << 16 | int(low) for low in lower.nonzero()[0] for _ in range(lower[low])]
    bits = (np.array(keys, np.uint32) ^ np.uint32(0x80000000)).view(np.int32)
    found = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int32).view(np.float32)
    np.testing.assert_array_equal(found, np.sort(np.abs(values) if magnitude else values, axis=None))


@BACKENDS
def test_products_with_codes_worked_by_hand(backend) -> None:
    """Codes 0 to 15 are -8 to 7: two rows of 16 under scales 1 and 1/2, the second with a zero point of 1."""
    codes = np.stack([np.arange(16), np.full(16, 3)]).astype(np.uint8)
    packed = np.empty((2, 8), np.uint8)
    backend.pack_rows(codes, 4, packed)
    scale, zero = np.array([1, 0.5], np.float32), np.array([0, 1], np.float32)
    x = np.stack([np.ones(16), np.arange(16)]).astype(np.float32)
    out = np.empty((2, 2), np.float32)
    backend.multiply_rows(packed.reshape(-1), 2, 16, 8, grids.integer(4), 16, Scales.of(scale), zero, F32, x, out)
    # Σ(-8..7) = -8; Σ n(n - 8) = 1240 - 8 · 120; (3 - 8 - 1) / 2 = -3, times 16 and times 120.
    np.testing.assert_array_equal(out, [[-8, 280], [-48, -360]])


@BACKENDS
def test_columns_are_solved_one_after_the_other(backend) -> None:
    """A unit of the first column's error asks for half a unit of the second: on whole numbers, by hand."""
    original = np.array([[1.4, -2.4], [3.0, 0.5]], np.float32)
    w, levels, errors, losses = original.copy(), np.empty((2, 2), np.float32), np.empty((2, 2), np.float32), np.empty(2)
    one, factor = np.ones((1, 2), np.float32), np.array([[1, 0.5], [0, 1]], np.float32)
    backend.solve_columns(
        w, original, factor, one, one * 0, np.zeros(2, np.int64), grids.integer(4), F32, F32, levels, errors, losses
    )
    np.testing.assert_array_equal(levels, [[1, -2], [3, 0]])  # 3 + 0.2 and 0.5 - 0.2, rounded
    np.testing.assert_array_equal(w, levels)
    np.testing.assert_allclose(errors, [[0.4, -0.4], [0.0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(losses, [0.32, 0.04 + 0.09], rtol=1e-5)


@BACKENDS
def test_checksums_are_sums_of_words_times_splitmix(backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """SplitMix64 in whole numbers of any size."""

    def odd(n: int) -> int:
        z = (n + 1) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return (z ^ z >> 31) | 1

    data = np.random.default_rng(8).integers(0, 256, 200).astype(np.uint8).tobytes()
    expected = sum(int.from_bytes(data[8 * n : 8 * n + 8], "little") * odd(n) for n in range(25)) % 2**64
    monkeypatch.setattr(numerics, "backend", lambda: backend)
    assert checksum.piece(0, data) == expected
    assert sum(checksum.piece(start, data[start : start + 13]) for start in range(0, 200, 13)) % 2**64 == expected


@BACKENDS
def test_warming_up_carries_out_what_a_run_needs_first(backend, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    class Seen:
        def __getattr__(self, name: str):
            called.append(name)
            return getattr(backend, name)

    monkeypatch.setattr(numerics, "backend", Seen)
    numerics.warm_up()
    assert called == ["row_ranges", "count_rows", "encode_rows"]


@pytest.fixture
def chosen_anew():
    numerics.backend.cache_clear()
    yield
    numerics.backend.cache_clear()


@pytest.mark.parametrize("without", ["asked for", "not there"])
def test_torch_does_the_arithmetic_where_numba_is_not_wanted_or_not_there(
    without: str, chosen_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without == "asked for":
        monkeypatch.setenv("MONO_QUANT_NUMERICS", "Torch")
    else:
        monkeypatch.delenv("MONO_QUANT_NUMERICS", raising=False)
        monkeypatch.setitem(sys.modules, "engine.numerics.kernels", None)
        monkeypatch.delattr(numerics, "kernels")
    assert numerics.backend() is reference


# -- which product -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_every_way_to_multiply_gives_the_product(fast: bool, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "onednn_is_fast", lambda: fast)
    draw = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((5, 33), (7, 33), (7,)))
    for dtype, near in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        given = x.to(dtype), weight.to(dtype), bias.to(dtype) if biased else None
        expected = given[0].double() @ given[1].double().T + (given[2].double() if biased else 0)
        torch.testing.assert_close(products.linear(*given).double(), expected, rtol=near, atol=near)
    assert products.linear(x[:0], weight).shape == (0, 7)


@pytest.mark.parametrize(
    ("ordinary", "other", "faster", "tries"),
    [
        (10.0, [7.9] * 5, True, 5),
        (10.0, [8.1] * 5, False, 5),  # not clearly
        (10.0, [500.0, 7.0, 7.0, 7.0, 7.0], True, 5),  # the first was spent on getting ready
        (10.0, [500.0, 500.0, 7.0], False, 2),  # hopeless: not tried any longer
    ],
)
def test_a_faster_product_is_taken_only_where_it_clearly_is(
    ordinary: float, other: list[float], faster: bool, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, times = [], itertools.chain(other)

    def seconds(work) -> float:
        return work()

    def this() -> float:
        taken.append(next(times))
        return taken[-1]

    monkeypatch.setattr(products, "_seconds", seconds)
    assert products._is_faster(this, lambda: ordinary) is faster and len(taken) == tries


def test_a_try_carries_the_work_out_once() -> None:
    done = []
    assert products._seconds(lambda: done.append("once")) >= 0 and done == ["once"]


def test_a_library_that_torch_was_built_without_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products.onednn_is_fast.__wrapped__() is False


def test_what_is_tried_is_really_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both products of a choice are of the same shape: that they run is seen by what they give."""
    seen = []

    def compared(this, other) -> bool:
        seen.append((this().shape, other().shape))
        return True

    monkeypatch.setattr(products, "_is_faster", compared)
    assert products.halves_are_fast.__wrapped__() and products.onednn_is_fast.__wrapped__()
    assert seen == [((128, 1024), (128, 1024))] * 2


@pytest.mark.parametrize("name", ["int8:token", "int8:static", "int8:static:asym"])
def test_codes_of_inputs_are_those_behind_their_values(name: str) -> None:
    """The values were compared with compressed-tensors'."""
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    zero = torch.tensor([3.0 if "asym" in name else 0.0])
    stored = {} if name == "int8:token" else {"input_scale": torch.tensor([0.03]), "input_zero_point": zero.to(torch.int8)}
    codes, scale, found = int8_codes(x, name, stored)
    assert codes.dtype == torch.int8 and (found is not None) == ("asym" in name)
    assert torch.equal((codes.float() - zero) * scale, fake_quantize(x, name, stored))
