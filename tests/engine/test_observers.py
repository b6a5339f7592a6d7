"""Observers against torch.ao's, numpy's percentiles, brute force on the data themselves, and Migacz's search in plain loops."""

import numpy as np
import pytest
import torch
from torch.ao.quantization import observer as peers

from engine.algorithms.options import describe
from engine.calibration.observers import OBSERVERS, Target, make, observer
from engine.calibration.observers_histogram import BINS
from engine.errors import DataError, RecipeError
from engine.numerics.activations import static_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
NAMES = tuple(kind.name for kind in OBSERVERS)
SIZE = 60_000


def samples() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(3)
    normal = torch.randn(SIZE, generator=chance)
    uniform = torch.rand(SIZE, generator=chance) - 0.5
    outliers = normal.clone()
    outliers[::1000] *= 100
    return {
        "normal": normal,
        "laplace": -uniform.sign() * torch.log1p(-2 * uniform.abs()),
        "outliers": outliers,
        "relu": normal.relu(),
        "shifted": normal + 2,
        "negative": -normal.abs() - 0.5,
        "uniform": uniform,
        "cauchy": torch.tan(3.1 * uniform),
    }


SAMPLES = samples()
EACH = pytest.mark.parametrize("what", SAMPLES)


def batches(x: torch.Tensor) -> list[torch.Tensor]:
    """Ever wider ones, so that a histogram must grow."""
    order = x.abs().argsort()
    return list(x[order].tensor_split(7))


def seen(name: str, x: torch.Tensor, target: Target | None = None) -> tuple[float, float]:
    watcher = make(name, target)
    for batch in batches(x):
        watcher.observe(batch)
    low, high = watcher.range()
    assert low.shape == high.shape == () and low.dtype == high.dtype == torch.float32
    return float(low), float(high)


def int8_error(x: torch.Tensor, low: float, high: float, symmetric: bool) -> float:
    """Squared error of torch's own fake quantization over that range."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(-low, high) / 127.5 if symmetric else (high - low) / 255
    zero = 0 if symmetric else min(max(round(-128 - low / scale), -128), 127)
    return float((x - torch.fake_quantize_per_tensor_affine(x, scale, zero, -128, 127)).double().square().sum())


def float8_error(x: torch.Tensor, reach: float) -> float:
    scaled = (x.double() * 448 / reach).clamp(-448, 448).float()
    return float((x.double() - scaled.to(torch.float8_e4m3fn).double() * reach / 448).square().sum())


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ranges_equal_those_of_torch(what, dtype):
    pairs = [("minmax", peers.MinMaxObserver()), ("moving", peers.MovingAverageMinMaxObserver())]
    pairs.append(("moving:constant=0.3", peers.MovingAverageMinMaxObserver(averaging_constant=0.3)))
    for name, theirs in pairs:
        ours = make(name)
        for batch in SAMPLES[what].to(dtype).reshape(4, 5, -1, 30):
            ours.observe(batch)
            theirs(batch)
        assert torch.equal(torch.stack(ours.range()), torch.stack([theirs.min_val, theirs.max_val])), name
        assert ours.batches == 4


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_ranges_per_channel_equal_those_of_torch(axis):
    x = SAMPLES["outliers"].reshape(10, 12, 25, 20)
    pairs = [("minmax", peers.PerChannelMinMaxObserver(ch_axis=axis % 3))]
    pairs.append(("moving", peers.MovingAveragePerChannelMinMaxObserver(ch_axis=axis % 3)))
    for name, theirs in pairs:
        ours = make(name, axis=axis)
        for batch in x:
            ours.observe(batch)
            theirs(batch)
        assert ours.range()[0].shape == (batch.shape[axis],)
        assert torch.equal(torch.stack(ours.range()), torch.stack([theirs.min_val, theirs.max_val])), name


@EACH
@pytest.mark.parametrize("symmetric", [True, False])
def test_least_error_is_no_worse_than_torch_histogram_observer(what, symmetric):
    x = SAMPLES[what]
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    theirs = peers.HistogramObserver(dtype=torch.qint8, qscheme=scheme, quant_min=-128, quant_max=127)
    for batch in batches(x):
        theirs(batch)
    scale, zero = theirs.calculate_qparams()
    quantized = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), -128, 127)
    error = float((x - quantized).double().square().sum())
    assert int8_error(x, *seen("mse", x, Target("int8", symmetric)), symmetric) <= error * 1.02


@EACH
def test_least_error_is_that_of_a_brute_force_on_the_data(what):
    """Of 400 symmetric ranges, tried on the values themselves and not on a histogram; 3 % for what bins hide."""
    x = SAMPLES[what]
    reaches = float(x.abs().max()) * 2.0 ** -np.linspace(0, 6, 400)
    low, high = seen("mse", x)
    assert int8_error(x, low, high, True) <= 1.03 * min(int8_error(x, -reach, reach, True) for reach in reaches)
    low, high = seen("mse", x, Target("fp8", True))
    assert float8_error(x, max(-low, high)) <= 1.03 * min(float8_error(x, reach) for reach in reaches)


@pytest.mark.parametrize("what", ["normal", "outliers", "shifted", "negative", "tail above"])
def test_least_error_with_a_zero_point_is_that_of_a_brute_force(what):
    x = SAMPLES["uniform" if what == "tail above" else what][:20_000].clone()
    if what == "tail above":  # only one end is worth clipping
        x = -x.abs() * 2
        x[::5000] = torch.tensor([0.2, 0.8, 1.4, 2.0])
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    ratios = 2.0 ** -np.linspace(0, 3, 30)
    best = min(int8_error(x, low * a, high * b, False) for a in ratios for b in ratios)
    assert int8_error(x, *seen("mse", x, Target("int8", False)), False) <= 1.005 * best


@EACH
@pytest.mark.parametrize("share", [99.99, 99.0, 80.0])
def test_percentiles_are_numpy_s_within_a_bin(what, share):
    x = SAMPLES[what].numpy().astype(np.float64)
    least, most = float(x.min()), float(x.max())
    bin_width = (max(most, 0.0) - min(least, 0.0)) / 2048
    reach = np.percentile(np.abs(x), share)
    low, high = seen(f"percentile:share={share}", SAMPLES[what])
    assert max(-low, high) == pytest.approx(min(reach, max(-least, most)), abs=bin_width)
    assert min(least, 0) <= low and high <= max(most, 0)
    low, high = seen(f"percentile:share={share}", SAMPLES[what], Target("int8", False))
    expected = np.percentile(x, [(100 - share) / 2, (100 + share) / 2])
    assert (low, high) == pytest.approx(tuple(expected), abs=bin_width)


def test_percentiles_are_interpolated_within_a_bin():
    """Where values are dense, numpy's percentile is met far closer than a bin."""
    low, high = seen("percentile:share=80", SAMPLES["outliers"])
    expected = np.percentile(SAMPLES["outliers"].abs().numpy(), 80)
    assert max(-low, high) == pytest.approx(expected, abs=float(SAMPLES["outliers"].abs().max()) / 2048 / 5)


def migacz(x: np.ndarray) -> dict[float, float]:
    """Divergence by threshold, as in the slides: 2048 bins of |x|, 128 levels, no empty bins; zeros count as their neighbours."""
    counts, edges = np.histogram(np.abs(x), 2048)
    counts = counts.astype(float)
    counts[0] = counts[1]
    found = {}
    for stop in range(128, 2049, 5):
        p, q = counts[:stop].copy(), np.zeros(stop)
        p[-1] += counts[stop:].sum()
        for part in np.array_split(np.arange(stop), 128):
            full = counts[part] > 0
            if full.any():
                q[part[full]] = counts[part].sum() / full.sum()
        there = p > 0
        if (q[there] > 0).all():
            p, q = p[there] / p.sum(), q[there] / q.sum()
            found[float(edges[stop])] = float(np.sum(p * np.log(p / q)))
    return found


@pytest.mark.parametrize("what", ["normal", "laplace", "relu", "uniform"])
def test_entropy_is_as_good_as_migacz_s_search(what):
    x = SAMPLES[what]
    divergences = migacz(x.numpy())
    low, high = seen("entropy", x)
    nearest = min(divergences, key=lambda reach: abs(reach - max(-low, high)))
    assert divergences[nearest] <= 1.12 * min(divergences.values())


def test_entropy_clips_outliers_as_migacz_s_search_does():
    x = SAMPLES["outliers"]
    divergences = migacz(x.numpy())
    expected = min(divergences, key=lambda reach: divergences[reach])
    low, high = seen("entropy", x)
    assert expected / 2 < max(-low, high) < expected * 2 < float(x.abs().max()) / 4
    for target in (Target("int8", False), Target("fp8", True)):
        low, high = seen("entropy", x, target)
        assert float(x.min()) <= low < 0 < high <= float(x.max())


def test_a_histogram_counts_every_value_whatever_the_order():
    """Values on a fine grid, whose bins numpy counts in one go."""
    x = (SAMPLES["cauchy"] * 64).round() / 64
    for order in (x, x.flip(0), x[x.abs().argsort()], x[x.abs().argsort(descending=True)]):
        watcher = make("mse")
        for batch in order.split(7001):
            watcher.observe(batch)
        histogram = watcher.histogram
        edges = (histogram.first + np.arange(BINS + 1)) * histogram.width
        assert np.array_equal(histogram.counts, np.histogram(x.numpy(), edges)[0])
        assert (float(x.max()) - float(x.min())) / histogram.width >= 2046


def test_a_value_just_below_the_last_edge_is_counted():
    """4096 bins of width 1 from -3000; float32 rounds 1095.99988 + 3000 up to 4096."""
    watcher = make("mse")
    watcher.observe(torch.tensor([-3000.0, 1096 - 2.0**-13]))
    assert (watcher.histogram.first, watcher.histogram.width) == (-3000, 1)
    assert watcher.histogram.counts[[0, -1]].tolist() == [1, 1] and watcher.histogram.counts.sum() == 2


def test_grids_of_float8_are_torch_s():
    every = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).double()
    assert np.array_equal(Target("fp8").codes(-448.0, 3.0), every[every.isfinite()].unique().numpy())
    assert Target("int8", False).codes(-55.0, 200.0).tolist() == [float(code) for code in range(-55, 201)]
    assert Target("int8", True).codes(-255.0, 3.0).tolist() == [2.0 * code for code in range(-128, 128)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [Target("int8", True), Target("int8", False), Target("fp8", True)], ids=str)
def test_extremes(name, target):
    """Zeros, single values, one side, the least and greatest numbers: the range is one that was seen, and makes a sound scale."""
    most = torch.finfo(torch.bfloat16).max
    for values in ([0.0], [0.0, 0.0], [3.0], [-3.0, -3.0], [0.0, 1e-40], [most, -most], [1e-38, most], [-most], [1e-30, 1.0]):
        x = torch.tensor(values)
        watcher = make(name, target)
        watcher.observe(x)
        watcher.observe(x.reshape(1, -1))
        low, high = watcher.range()
        assert min([*values, 0.0]) <= low <= high <= max([*values, 0.0]), (values, low, high)
        form = {"fp8": "fp8:static", "int8": "int8:static" if target.symmetric else "int8:static:asym"}[target.kind]
        scale = static_parameters(form, low, high, torch.bfloat16)["input_scale"]
        assert scale.isfinite().all() and (scale > 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "moving"])
def test_zeros_first_and_values_later(name):
    alone, after = make(name), make(name)
    after.observe(torch.zeros(5))
    for watcher in (alone, after):
        for batch in batches(SAMPLES["relu"] * 1e-6):
            watcher.observe(batch)
    assert after.range()[1] == pytest.approx(float(alone.range()[1]), rel=1e-3)
    low, high = after.range()
    assert low == 0 and 0 < high <= 1e-6 * SAMPLES["relu"].max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(name, bad):
    x = torch.linspace(-1, 1, 50)
    watcher = make(name)
    with pytest.raises(DataError, match="No calibration sample"):
        watcher.range()
    watcher.observe(x)
    before = watcher.range()
    with pytest.raises(DataError, match="NaN or Inf"):
        watcher.observe(torch.cat([x, torch.tensor([bad])]))
    watcher.observe(torch.empty(0, 4))
    assert watcher.range() == before


def test_texts():
    assert str(observer("percentile:share=99.9")) == "percentile:share=99.9"
    assert str(observer(" MSE ")) == "mse"
    assert str(observer("moving:constant=0.01")) == "moving"
    assert [info.name for info in describe(observer("percentile").algorithm)] == ["share"]
    for text, words in {
        "median": "'median' is not an observer; known are minmax, moving, percentile, mse, entropy",
        "percentile:shore=9": "no option 'shore'; did you mean share",
        "percentile:share=101": "between 50 and 100",
        "minmax:share=99": "it has no options",
    }.items():
        with pytest.raises(RecipeError, match=words):
            observer(text)
    with pytest.raises(RecipeError, match="none per channel"):
        make("mse", axis=0)
