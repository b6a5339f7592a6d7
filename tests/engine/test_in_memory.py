"""Quantizing modules in one call: known answers, the input untouched, and the defects of naive implementations."""

import copy
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import engine
from engine.nn import QuantizedConv2d, QuantizedEmbedding, QuantizedLinear, QuantizedModule
from tests.engine.test_load_into import language_module, network


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(32, 64)
        self.deep = nn.ModuleDict({"er": nn.Sequential(nn.ReLU(), nn.Linear(64, 32))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deep["er"](self.up(x))


class Net(nn.Module):
    """Layers at every depth."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.body = Inner()
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.conv(x).flatten(1)[:, :32]))


ALL = ("conv", "body.up", "body.deep.er.1", "head")


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quiet(*args, **options):
    """``static_quantize`` without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return engine.static_quantize(*args, **options)


# -- what naive implementations get wrong ----------------------------------------------------------------------------


def test_codes_are_held_and_their_loss_is_measured_not_zero_and_not_infinite(net: Net) -> None:
    made, _ = engine.dynamic_quantize(net, symmetric=True)
    head = made.head
    assert isinstance(head, QuantizedLinear) and head.weight_codes.dtype == torch.int8
    # By hand: one scale per row, of 127.5 steps on a side, as compressed-tensors has it.
    w = net.head.weight.detach()
    scale = w.abs().amax(1, keepdim=True) / 127.5
    expected = (w / scale).round().clamp(-128, 127) * scale
    assert torch.equal(head.weight, expected)
    noise = (w.double() - expected.double()).square().sum()
    assert engine.calculate_sqnr(w, head) == pytest.approx(10 * math.log10(w.double().square().sum() / noise), abs=1e-9)


def test_sizes_count_everything_that_is_stored(net: Net) -> None:
    made, _ = engine.dynamic_quantize(net, "int4:g32", skip_layer_types=nn.Conv2d)
    weights = 64 * 32 + 32 * 64 + 10 * 32
    codes, scales = weights // 2, weights // 32 * 4
    shapes = 3 * 2 * 8  # the original shape beside packed codes
    floats = sum(p.nbytes for p in net.conv.parameters()) + (64 + 32 + 10) * 4
    megabytes, count = engine.calculate_model_size(made)
    assert megabytes == pytest.approx((codes + scales + shapes + floats) / 1e6)
    assert count == sum(p.numel() for p in net.parameters())
    assert sum(p.nbytes for p in made.parameters()) < megabytes * 1e6 / 2  # parameters alone would leave out the codes


@pytest.mark.parametrize("cols", [37, 100, 128])
def test_groups_end_with_their_row_and_odd_lengths_are_whole(cols: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(cols, 3, bias=False)
    with torch.no_grad():
        layer.weight[1] *= 100  # a group that went on into this row would ruin the first one's end
    made, _ = engine.dynamic_quantize(nn.Sequential(layer), "int4:g32")
    w = layer.weight.detach()
    expected = torch.empty_like(w)
    for row in range(3):
        for first in range(0, cols, 32):
            group = w[row, first : first + 32]
            scale = group.abs().max() / 7.5
            expected[row, first : first + 32] = (group / scale).round().clamp(-8, 7) * scale
    assert torch.equal(made[0].weight, expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_bits_are_as_many_as_were_asked_for(bits: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(512, 64, bias=False))
    result = engine.quantize(net, bits=bits, group_size=512)
    assert result and result.info is not None and isinstance(result.model, nn.Sequential)
    layer = result.model[0]
    assert all(len(row.unique()) <= 2**bits for row in layer.weight) and len(layer.weight[0].unique()) > 2 ** (bits - 1)
    assert layer.weight_codes.nbytes == 512 * 64 * bits // 8
    assert result.info.scheme == (f"int{bits}:g512" if bits < 8 else "int8:channel")


def test_calibrated_ranges_reach_the_activations(net: Net) -> None:
    """Trained on inputs within [-1, 1], the layer saturates beyond; a range that was thrown away would not."""
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.eye(4)[:2]
    seen = torch.linspace(-1, 1, 401)[:, None].expand(401, 4).clone()
    made, info = quiet(nn.Sequential(layer), seen, symmetric=True, num_calibration_samples=401)
    assert info.activations == "int8:static" and info.calibrated == ("0",) and info.calibration_samples_used == 401
    assert made[0].input_scale.item() == pytest.approx(1 / 127.5)
    found = made(torch.tensor([[0.5, -1.0, 0.0, 0.0], [50.0, -50.0, 0.0, 0.0]]))
    half = round(0.5 * 127.5) / 127.5
    torch.testing.assert_close(found, torch.tensor([[half, -1.0], [127 / 127.5, -128 / 127.5]]), rtol=0, atol=0.01)
    dynamic, _ = engine.dynamic_quantize(nn.Sequential(layer))
    assert dynamic(torch.tensor([[50.0, -50.0, 0.0, 0.0]]))[0, 0] > 49


def test_asymmetric_ranges_have_a_zero_point(net: Net) -> None:
    seen = torch.rand(64, 32) * 10  # 0 to 10
    made, info = quiet(nn.Sequential(nn.Linear(32, 8)), seen)
    assert info.activations == "int8:static:asym" and info.scheme == "int8:channel:asym"
    low, high = 0.0, seen.max().item()
    assert made[0].input_scale.item() == pytest.approx((high - low) / 255, rel=1e-5)
    assert made[0].input_zero_point.item() == -128


def test_layers_at_any_depth_are_found_and_the_input_is_untouched(net: Net, data: torch.Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    made, info = quiet(net, data)
    assert info.selected_layers == ALL and info.skipped_layers == () and {row.name for row in info.layers} == set(ALL)
    assert isinstance(made.conv, QuantizedConv2d) and isinstance(made.body.deep["er"][1], QuantizedLinear)
    assert net.training and all(part.training for part in net.modules()) and type(net.head) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net._forward_hooks and not net.head._forward_hooks


def test_a_module_that_computes_something_else_after_loading_fails(
    net: Net, data: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor survives; only a forward can tell."""
    made, _ = quiet(net, data)
    load = engine.in_memory.validating.quantized_module  # pyright: ignore

    def broken(*args):
        other = load(*args)
        forward = other.head.forward
        other.head.forward = lambda x: forward(x) + 1e-6
        return other

    monkeypatch.setattr("engine.in_memory.validating.quantized_module", broken)
    found = engine.validate_quantization(net, made, "ignore", inputs=data[:4])
    assert found.load_test_passed is False and found.forward == "failed"
    assert found.errors == ("After loading, the module computes something else.",)
    with pytest.raises(engine.ValidationError, match="computes something else"):
        quiet(net, data)


# -- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({"layer_types": nn.Conv2d}, {"conv"}),
        ({"layer_types": ["Linear"]}, {"body.up", "body.deep.er.1", "head"}),
        ({"layer_names": "body.*"}, {"body.up", "body.deep.er.1"}),
        ({"skip_names": ["*.up", "conv"]}, {"body.deep.er.1", "head"}),
        ({"skip_layer_names": "h?ad"}, set(ALL) - {"head"}),
        ({"skip_layer_types": [nn.Conv2d]}, set(ALL) - {"conv"}),
        ({"skip_types": "Conv2d"}, set(ALL) - {"conv"}),
        ({"modules_to_not_convert": ["deep"]}, set(ALL) - {"body.deep.er.1"}),
        ({"modules_to_not_convert": "body"}, {"conv", "head"}),
        ({"skip_param_threshold": 500}, {"body.up", "body.deep.er.1"}),
        ({"config": engine.QuantizationConfig(skip_names=("conv",), skip_param_threshold=500)}, {"body.up", "body.deep.er.1"}),
    ],
)
def test_layers_are_chosen_by_type_name_and_size(options: dict, chosen: set[str], net: Net, data: torch.Tensor) -> None:
    made, info = quiet(net, data, **options)
    assert set(info.selected_layers) == chosen and set(info.skipped_layers) == set(ALL) - chosen
    assert {name for name, part in made.named_modules() if isinstance(part, QuantizedModule)} == chosen
    both = {key: value for key, value in options.items() if key in ("modules_to_not_convert", "skip_param_threshold", "config")}
    if both:
        _, skipped = engine.dynamic_quantize(net, **both)
        assert set(skipped) == set(ALL) - chosen


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer_names": "nothing*"}, "'nothing*' matches no layer of Net"),
        ({"skip_names": "*"}, "No layer of Net is left to quantize"),
        ({"on_failure": "explode"}, "on_failure is 'error', 'warn' or 'ignore', not 'explode'"),
        ({"accuracy_warning": "loud"}, "accuracy_warning is 'error', 'warn' or 'ignore', not 'loud'"),
        ({"dtype": torch.qint32}, "cannot be quantized to torch.qint32; choose qint8"),
        ({"num_calibration_samples": 0}, "num_calibration_samples must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(options: dict, words: str, net: Net, data: torch.Tensor) -> None:
    with pytest.raises(engine.InputError) as caught:
        engine.static_quantize(net, data, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "options", "scheme"),
    [
        (torch.qint8, {}, "int8:channel:asym"), (torch.qint8, {"symmetric": True, "per_channel": False}, "int8:tensor"),
        (torch.quint8, {"symmetric": True}, "int8:channel"), (torch.quint4x2, {"symmetric": True, "group_size": 16}, "int4:g16"),
        (torch.quint4x2, {"group_size": None}, "int4:channel:asym"), ("int4", {"symmetric": True}, "int4:g128"),
        (torch.float8_e4m3fn, {"per_channel": False}, "fp8_e4m3:tensor"), ("nf4:g32", {}, "nf4:g32"), ("mxfp8", {}, "mxfp8"),
    ],
)  # fmt: skip
def test_a_type_stands_for_a_scheme(dtype, options: dict, scheme: str, net: Net, data: torch.Tensor) -> None:
    made, info = quiet(net, data, dtype, layer_types=nn.Linear, **options)
    assert info.scheme == scheme and made.head.scheme == scheme and info.symmetric is not scheme.endswith("asym")
    validation = info.validation
    assert validation and validation.load_test_passed is True and validation.weight_range_valid
    assert info.sqnr_db == pytest.approx(engine.calculate_sqnr(*whole(net, made)), abs=1e-6)


def whole(net: nn.Module, made: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """All quantized weights, before and after."""
    parts = [(name, part) for name, part in made.named_modules() if isinstance(part, QuantizedModule)]
    return tuple(
        torch.cat([weight.flatten().float() for weight in weights])
        for weights in ([net.get_submodule(name).weight.detach() for name, _ in parts], [part.weight for _, part in parts])
    )  # pyright: ignore


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_stored_in_half_and_compute_in_full(dtype: torch.dtype, net: Net, data: torch.Tensor, tmp_path: Path) -> None:
    made, skipped = engine.dynamic_quantize(net, dtype)
    assert made.head.weight.dtype == dtype and made.head.bias.dtype == torch.float32 and skipped == []
    rounded = copy.deepcopy(net).eval()
    for name in ALL:
        rounded.get_submodule(name).weight.data = net.get_submodule(name).weight.data.to(dtype).float()
    torch.testing.assert_close(made(data), rounded(data))
    back = engine.dequantize_model(made)
    assert type(back.head) is nn.Linear and back.head.weight.dtype == torch.float32 and type(back.conv) is nn.Conv2d
    engine.save_model(made, tmp_path / "half.pt")
    assert torch.equal(engine.load_model(tmp_path / "half.pt", into=net)(data), made(data))
    assert engine.calculate_model_size(made)[0] < 0.55 * engine.calculate_model_size(net)[0]


def test_embeddings_on_request_and_ties_for_both_or_neither() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 32)
            self.mid = nn.Linear(32, 32)
            self.head = nn.Linear(32, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.mid(self.embed(ids)))

    torch.manual_seed(0)
    model, ids = Tied(), torch.arange(50)[None]
    made, skipped = engine.dynamic_quantize(model, "int8:channel")
    assert skipped == ["embed", "head"] and made.head.weight is made.embed.weight
    both, info = quiet(model, ids, "int8:channel", layer_types=(nn.Linear, nn.Embedding))
    assert isinstance(both.embed, QuantizedEmbedding) and isinstance(both.head, QuantizedLinear)
    assert both.embed.weight_codes is both.head.weight_codes and set(info.selected_layers) == {"embed", "mid", "head"}
    assert engine.calculate_sqnr(model(ids), both(ids)) > 30


def test_parametrized_weights_are_resolved(data: torch.Tensor) -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(32, 16)))
    made, _ = engine.dynamic_quantize(model, "int8:channel")
    assert isinstance(made[0], QuantizedLinear)
    assert engine.calculate_sqnr(model[0].weight, made[0]) > 40
    model[0].parametrizations.weight.original0.data *= 2  # still parametrized, and alive
    assert model(torch.ones(1, 32)).shape == (1, 16) and engine.calculate_sqnr(model[0].weight, made[0]) < 7


def test_what_is_quantized_already_is_refused(net: Net) -> None:
    made, _ = engine.dynamic_quantize(net)
    with pytest.raises(engine.InputError, match="quantized already; dequantize_model gives the float one"):
        engine.dynamic_quantize(made)
    with pytest.raises(engine.InputError, match="A module is quantized here, not a str"):
        engine.dynamic_quantize("model.safetensors")  # pyright: ignore


# -- quantize --------------------------------------------------------------------------------------------------------


def test_a_result_saves_validates_and_is_true(net: Net, data: torch.Tensor, tmp_path: Path) -> None:
    result = engine.quantize(net, scheme="W4A16", calibration_data=data, algorithm="gptq")
    assert result and result.success and result.errors == [] and isinstance(result.model, Net) and result.info is not None
    assert result.info.validation and result.info.validation.load_test_passed
    assert "All layers are quantized" in " ".join(result.warnings)
    for name in ("a.safetensors", "b.pt", "c.pth"):
        path = result.save(tmp_path / name)
        assert torch.equal(engine.load_model(path, into=net)(data), result.model(data))
        assert engine.load_model(path)["head.weight"].equal(result.model.head.weight)
    assert isinstance(torch.load(tmp_path / "b.pt", weights_only=True), dict)
    with pytest.raises(engine.OutputError, match="exists"):
        result.save(tmp_path / "b.pt")
    assert result.validate().load_test_passed is None  # without inputs nobody knows what Net takes
    assert result.validate(inputs=data[:2]).load_test_passed is True


@pytest.mark.parametrize("kind", ["state dict", "file", "folder"])
def test_state_dicts_and_paths(kind: str, net: Net, tmp_path: Path, language_model: Path) -> None:
    given: object = net.state_dict()
    if kind == "file":
        given = tmp_path / "net.pt"
        torch.save(net.state_dict(), given)
    result = engine.quantize(language_model if kind == "folder" else given, bits=8)  # pyright: ignore
    assert result and isinstance(result.model, dict) and result.info is not None
    validation = result.validate()
    assert validation and validation.load_test_passed is None and validation.forward == "not run"
    assert result.info.sqnr_db is not None and 35 < result.info.sqnr_db < 50
    if kind == "folder":
        result.save(tmp_path / "out")
        assert engine.certify(tmp_path / "out", language_model).certified
        return
    assert result.model["head.weight_packed"].dtype == torch.int32
    for name in ("out.safetensors", "out.pt"):
        result.save(tmp_path / name)
        loaded = engine.load_model(tmp_path / name)
        assert loaded.keys() == net.state_dict().keys()
        torch.testing.assert_close(loaded["body.up.weight"], net.body.up.weight.detach(), atol=0.01, rtol=0)


def test_what_goes_wrong_is_in_the_result(net: Net, data: torch.Tensor) -> None:
    net.head.weight.data[1, 2] = float("nan")
    result = engine.quantize(net, bits=8)
    assert not result and result.model is None and "head.weight holds NaN at index [1, 2]" in result.errors[0]
    with pytest.warns(UserWarning, match="holds NaN"):
        engine.quantize(net, bits=8, on_failure="warn")
    with pytest.raises(engine.DataError):
        engine.quantize(net, bits=8, on_failure="error")
    with pytest.raises(engine.InputError, match="nothing to save"):
        result.save("x.pt")
    gptq = engine.quantize(Net(), bits=4, algorithm="gptq")
    assert not gptq and "needs calibration" in gptq.errors[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 4, "scheme": "int4"}, "not both"), ({"bits": 9}, "from 2 to 8"), ({"bits": True}, "whole number"),
        ({"bits": "4"}, "whole number"), ({"bits": 4, "dynamic": True}, "Inputs cannot be quantized at run time with int4:g128"),
        ({"scheme": "int99"}, "int99"), ({"scheme": engine.Recipe(), "algorithm": "mse"}, "names its own"),
    ],
)  # fmt: skip
def test_arguments_that_contradict_raise(options: dict, words: str, net: Net) -> None:
    with pytest.raises(engine.EngineError, match=words):
        engine.quantize(net, **options)


def test_widths_choose_what_is_done_to_inputs(net: Net, data: torch.Tensor) -> None:
    plain, dynamic = engine.quantize(net), engine.quantize(net, dynamic=True)
    static = engine.quantize(net, calibration_data=data)
    assert [r.info.activations for r in (plain, dynamic, static) if r.info] == ["none", "int8:token", "int8:static"]
    assert isinstance(dynamic.model, Net) and dynamic.model.head.activations == "int8:token"
    assert isinstance(static.model, Net) and static.model.conv.activations == "int8:static"
    assert static.info and static.info.calibration_samples_used == 64


# -- other ways out --------------------------------------------------------------------------------------------------


def test_reverting_in_place_and_in_a_copy(net: Net, data: torch.Tensor) -> None:
    made, _ = engine.dynamic_quantize(net, "int8:channel:asym", skip_layer_names="conv")
    weight = made.head.weight
    plain = engine.dequantize_model(made)
    assert isinstance(made.head, QuantizedLinear) and type(plain.head) is nn.Linear and plain.head.weight.equal(weight)
    assert engine.revert_to_standard_modules(made) is made and type(made.body.up) is nn.Linear
    assert torch.equal(made(data), plain(data))


@pytest.mark.parametrize("scheme", ["int8:channel", "int8:channel:asym", "int8:tensor", "fp16"])
def test_torchs_own_layers_hold_the_same_weights(scheme: str, net: Net, data: torch.Tensor) -> None:
    made, _ = engine.dynamic_quantize(net, scheme)
    native = engine.convert_to_pytorch_native(made)
    assert type(native.head).__module__.startswith("torch.ao") and type(native.conv) is nn.Conv2d
    weight = native.head.weight()
    assert torch.equal(weight.dequantize() if weight.is_quantized else weight, made.head.weight.float())
    assert isinstance(made.head, nn.Module) and engine.calculate_sqnr(made(data).detach(), native(data).detach()) > 25


# -- the samples -----------------------------------------------------------------------------------------------------


def test_the_sample_network_keeps_its_accuracy_and_its_outputs(digits: Path, tmp_path: Path) -> None:
    calibration, evaluation = (np.load(digits / f"{name}.npz") for name in ("calibration", "evaluation"))
    x, y = (torch.from_numpy(evaluation[key]) for key in evaluation.files)
    model = network(digits)
    images = torch.from_numpy(calibration[calibration.files[0]])
    made, info = quiet(model, images)
    assert info.validation and info.validation.load_test_passed is True and info.calibrated
    engine.save_model(made, tmp_path / "small.safetensors")
    again = engine.load_model(tmp_path / "small.safetensors", into=network(digits))
    with torch.no_grad():
        assert torch.equal(again(x), made(x))
        accuracy, before = ((net(x).argmax(1) == y).float().mean().item() for net in (made, model))
    assert accuracy >= before - 0.005
    assert os.path.getsize(tmp_path / "small.safetensors") < 0.4 * engine.calculate_model_size(model)[0] * 1e6


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:g128"])
def test_the_sample_language_model_gives_identical_logits(scheme: str, language_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32).eval()
    ids = torch.arange(1, 65)[None]
    made, info = quiet(model, [{"input_ids": ids}] * 2, scheme)
    assert info.validation and info.validation.load_test_passed is True
    for name in ("m.safetensors", "m.pt"):
        engine.save_model(made, tmp_path / name)
        again = engine.load_model(tmp_path / name, into=language_module(language_model).float())
        with torch.no_grad():
            assert torch.equal(again(input_ids=ids).logits, made(input_ids=ids).logits)
    linear = [row for row in info.layers if row.parameters >= 4096]
    times = sum(row.bytes_before for row in linear) / sum(row.bytes_after for row in linear)
    assert times >= (3.5 if scheme == "int8:channel" else 7)
