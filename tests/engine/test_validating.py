"""Validation: SQNR, sizes, the round trip and ranges, each with a known answer and a broken module that must fail."""

import copy
import math
import os
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import engine
from engine.nn import QuantizedModule


class Net(nn.Module):
    """Its input is not to be known from the module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 48), nn.Linear(48, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x.flatten(1)[:, :64])))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def made(net: Net) -> Net:
    found, _ = engine.dynamic_quantize(net, "int8:channel", run_validation=False)
    assert isinstance(found, Net)
    return found


@pytest.mark.parametrize(
    ("a", "b", "db"),
    [
        ([3.0, 4.0], [3.0, 3.0], 10 * math.log10(25)), ([1.0, -1.0], [1.0, -1.0], math.inf), ([0.0, 0.0], [0.0, 0.0], math.inf),
        ([0.0], [1.0], -math.inf), ([1.0, 1.0], [0.0, 0.0], 0.0), ([], [], math.inf),
    ],
)  # fmt: skip
def test_sqnr_of_known_numbers(a: list, b: list, db: float) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        assert engine.calculate_sqnr(torch.tensor(a, dtype=dtype), torch.tensor(b)) == pytest.approx(db)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_sqnr_of_torchs_quantized_tensors_and_of_wrong_ones() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert engine.calculate_sqnr(x, torch.quantize_per_tensor(x, 2.0, 0, torch.qint8)) == pytest.approx(
        10 * math.log10(14 / (1 + 0 + 1))  # 1 → 0 (ties to even), 2 → 2, 3 → 4
    )
    with pytest.raises(engine.InputError, match=r"not \[3\] with \[2\]"):
        engine.calculate_sqnr(x, x[:2])
    with pytest.raises(engine.DataError, match="NaN or Inf"):
        engine.calculate_sqnr(x, x / 0)


def test_a_sound_module_passes_all_four(net: Net, made: Net) -> None:
    found = engine.validate_quantization(net, made, inputs=torch.randn(4, 64))
    assert found and found.load_test_passed is True and found.forward == "passed" and found.weight_range_valid
    assert found.original_size_mb == pytest.approx(4 * (64 * 48 + 48 + 48 * 8 + 8) / 1e6)
    stored = sum(buffer.nbytes for buffer in made.buffers()) + 4 * (48 + 8)
    assert found.quantized_size_mb == pytest.approx(stored / 1e6)
    assert found.compression_ratio == pytest.approx(found.original_size_mb / found.quantized_size_mb)
    assert found.file_size_mb > found.quantized_size_mb
    before, after = (torch.cat([net.first.weight.flatten(), net.last.weight.flatten()]), [made.first.weight, made.last.weight])
    assert found.sqnr_db == pytest.approx(
        engine.calculate_sqnr(before.detach(), torch.cat([w.flatten() for w in after])), abs=1e-9
    )
    assert {row.name: row.sqnr_db for row in found.layers} == {
        "first": pytest.approx(engine.calculate_sqnr(net.first.weight, made.first)),
        "last": pytest.approx(engine.calculate_sqnr(net.last.weight, made.last)),
    }


def test_weights_that_lose_nothing_give_infinity(net: Net) -> None:
    for layer in (net.first, net.last):
        layer.weight.data = torch.randint(-8, 8, layer.weight.shape).float()
        layer.weight.data[:, 0], layer.weight.data[:, 1] = -8.0, 7.5  # a step of 1, up to the rounding of 7.5 / 7.5
        layer.weight.data[:, 1] = 7.0
    made, _ = engine.dynamic_quantize(net, "int4:channel:asym", run_validation=False)
    found = engine.validate_quantization(net, made, "ignore")
    assert found.sqnr_db == math.inf and all(row.sqnr_db == math.inf for row in found.layers)


def test_an_unknown_input_is_not_run_and_never_passed(net: Net, made: Net) -> None:
    found = engine.validate_quantization(net, made)
    assert found.forward in ("not run", "passed") and (found.load_test_passed is None) is (found.forward == "not run")

    class Asks(Net):
        def forward(self, batch, *, temperature):  # pyright: ignore
            return super().forward(batch["x"] / temperature)

    asks = Asks()
    found = engine.validate_quantization(asks, engine.dynamic_quantize(asks, "int8:channel", run_validation=False)[0])
    assert found and found.load_test_passed is None and found.forward == "not run"
    assert any("forward was not run" in text for text in found.warnings)


def test_a_forward_that_fails_on_given_inputs_is_an_error(net: Net, made: Net) -> None:
    found = engine.validate_quantization(net, made, "ignore", inputs=torch.randn(2, 3))
    assert found.load_test_passed is False and "On the inputs that were given" in found.errors[0]


def poisoned(module: nn.Module, part: str, change) -> nn.Module:
    """The module with one stored part changed."""
    other = copy.deepcopy(module)
    layer, _, name = part.rpartition(".")
    change(other.get_submodule(layer)._buffers[name])
    return other


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scale: scale[3].fill_(0), "not positive and finite"),
        (lambda scale: scale[3].fill_(-1), "not positive and finite"),
        (lambda scale: scale[3].fill_(float("inf")), "not positive and finite"),
        (lambda scale: scale[3].fill_(float("nan")), "not positive and finite"),
    ],
)
def test_scales_out_of_range_are_named(change, words: str, net: Net, made: Net) -> None:
    broken = poisoned(made, "last.weight_scale", change)
    found = engine.validate_quantization(net, broken, "ignore")
    assert not found.weight_range_valid and any("last.weight_scale" in text and words in text for text in found.errors)
    with pytest.raises(engine.ValidationError, match=r"last\.weight_scale") as caught:
        engine.validate_quantization(net, broken)
    assert caught.value.result.errors == found.errors and "\n" not in str(caught.value)


def test_clipping_beyond_what_was_reported_fails(net: Net) -> None:
    with torch.no_grad():
        net.last.weight[2, 5] = 3.0  # an outlier that a scale of half the size cuts off
    made, _ = engine.dynamic_quantize(net, "int8:channel", run_validation=False)
    made.last.weight_scale[2] /= 2
    told = engine.validate_quantization(net, made, "ignore")
    share = next(row.clipped for row in told.layers if row.name == "last")
    beyond = (net.last.weight[2] / made.last.weight_scale[2]).abs() > 128.5
    assert share == pytest.approx(int(beyond.sum()) / net.last.weight.numel()) and share > 0
    assert told.weight_range_valid and "last" in told.warnings[0] and "clipped" in told.warnings[0]
    assert not engine.validate_quantization(net, made, "ignore", reported={"last": 0.0, "first": 0.0}).weight_range_valid
    assert engine.validate_quantization(net, made, "ignore", reported={"last": share, "first": 0.0}).weight_range_valid


def test_an_algorithm_that_clips_says_how_much(net: Net) -> None:
    with torch.no_grad():
        net.first.weight[0, 0] = 5.0
    result = engine.quantize(net, bits=4, algorithm="mse", group_size=64)
    assert result and result.info and result.info.validation and result.info.validation.weight_range_valid
    assert max(row.clipped for row in result.info.layers) > 0


def test_another_original_is_named(net: Net, made: Net) -> None:
    other = nn.Sequential(nn.Linear(3, 3))
    found = engine.validate_quantization(other, made, "ignore")
    assert "first is not in the original" in found.errors[0]


def test_a_tensor_that_a_file_cannot_keep_fails_the_round_trip(net: Net, made: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    load = engine.in_memory.validating.quantized_module  # pyright: ignore

    def forgetful(*args):
        other = load(*args)
        other.first.bias.data[4] += 1
        return other

    monkeypatch.setattr("engine.in_memory.validating.quantized_module", forgetful)
    found = engine.validate_quantization(net, made, "ignore")
    assert found.load_test_passed is False and found.errors == ("first.bias changes when it is saved and loaded.",)


def test_nothing_stays_behind_also_when_it_fails(net: Net, made: Net, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine.validate_quantization(net, made)
    assert os.listdir(tmp_path) == []

    def fails(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.in_memory.saving.save_file", fails)
    found = engine.validate_quantization(net, made, "ignore")
    assert "No space left on device" in found.errors[0] and found.load_test_passed is False
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", ["error", "warn", "ignore"])
def test_failures_are_raised_warned_of_or_returned(mode: str, net: Net, made: Net, recwarn: pytest.WarningsRecorder) -> None:
    broken = poisoned(poisoned(made, "last.weight_scale", torch.Tensor.zero_), "first.weight_scale", torch.Tensor.zero_)
    if mode == "error":
        with pytest.raises(engine.ValidationError) as caught:
            engine.validate_quantization(net, broken, "error")
        assert "first.weight_scale" in str(caught.value) and "last.weight_scale" in str(caught.value)
        return
    found = engine.validate_quantization(net, broken, mode)  # pyright: ignore
    assert len(found.errors) >= 2 and not found
    assert len([w for w in recwarn if "weight_scale" in str(w.message)]) == (2 if mode == "warn" else 0)


def test_only_three_ways_to_fail(net: Net, made: Net) -> None:
    with pytest.raises(engine.InputError, match="'error', 'warn' or 'ignore', not 'raise'"):
        engine.validate_quantization(net, made, "raise")  # pyright: ignore


def info(sqnr: float | None, skipped: tuple[str, ...] = ("head",), samples: int = 100) -> engine.QuantizationInfo:
    return engine.QuantizationInfo(("a",), skipped, samples, torch.qint8, True, sqnr, 2.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (info(20.0), []), (info(math.inf), []), (info(None), []), (info(19.9), ["SQNR is 19.9 dB, below 20 dB"]),
        (info(10.0), ["below 20 dB"]), (info(9.9), ["Critical: SQNR is 9.9 dB, below 10 dB"]),
        (info(30.0, ()), ["All layers are quantized"]), (info(30.0, samples=49), ["Only 49 samples"]),
        (info(30.0, samples=50), []), (info(30.0, samples=0), []),
        (info(5.0, (), 3), ["Critical", "All layers", "Only 3 samples"]),
    ],
)  # fmt: skip
def test_warnings_have_thresholds(given: engine.QuantizationInfo, words: list[str]) -> None:
    found = engine.check_accuracy_warnings(given, "ignore")
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))
    if words:
        with pytest.warns(UserWarning, match=words[0].split(":")[0]):
            assert engine.check_accuracy_warnings(given, "warn") == found


def test_critical_warnings_raise_on_request() -> None:
    with pytest.raises(engine.ValidationError, match="Critical"):
        engine.check_accuracy_warnings(info(9.0), "error")
    with pytest.warns(UserWarning, match="below 20 dB"):
        engine.check_accuracy_warnings(info(15.0), "error")
    assert engine.check_accuracy_warnings(info(15.0), "ignore", sqnr_warning_threshold=12) == ()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("scheme", ["int8:channel", "int4:g16:asym", "nf4:g16:double", "mxfp4", "nvfp4", "ternary", "fp8:tensor"])
def test_a_saved_module_is_packed_and_comes_back_bit_for_bit(scheme: str, suffix: str, net: Net, tmp_path: Path) -> None:
    made, _ = engine.dynamic_quantize(net, scheme, run_validation=False)
    path = engine.save_model(made, tmp_path / f"m{suffix}")
    again = engine.load_model(path, into=Net())
    assert {type(part) for part in again.modules()} == {type(part) for part in made.modules()}
    before, after = made.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(before[name].dtype == after[name].dtype for name in before)
    raw = [torch.cat([t.flatten().view(torch.uint8) for t in state.values()]) for state in (before, after)]
    assert torch.equal(*raw)
    assert [part.scheme for part in again.modules() if isinstance(part, QuantizedModule)] == [scheme.replace("fp8", "fp8_e4m3")
        if scheme.startswith("fp8") else "ternary:g128" if scheme == "ternary" else scheme] * 2  # fmt: skip
    x = torch.randn(3, 64)
    assert torch.equal(made(x), again(x))
    tensors = engine.load_model(path)
    assert tensors.keys() == net.state_dict().keys() and torch.equal(tensors["last.weight"], made.last.weight)
    assert engine.certify(path).certified


@pytest.mark.parametrize("name", ["m.bin", "m", "nowhere/m.pt"])
def test_where_a_module_cannot_be_saved(name: str, made: Net, tmp_path: Path) -> None:
    with pytest.raises((engine.InputError, engine.OutputError)) as caught:
        engine.save_model(made, tmp_path / name)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_saving_replaces_only_on_request(made: Net, tmp_path: Path) -> None:
    target = tmp_path / "m.pt"
    target.write_text("mine")
    with pytest.raises(engine.OutputError, match="overwrite=True"):
        engine.save_model(made, target)
    assert target.read_text() == "mine"
    engine.save_model(made, target, overwrite=True)
    assert engine.load_model(target) and os.listdir(tmp_path) == ["m.pt"]


def test_a_full_disk_leaves_what_was_there(made: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.pt"
    engine.save_model(made, target)
    before = target.read_bytes()

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.in_memory.saving.torch.save", full)
    with pytest.raises(engine.OutputError, match="No space left on device"):
        engine.save_model(made, target, overwrite=True)
    assert target.read_bytes() == before and os.listdir(tmp_path) == ["m.pt"]
