"""Activations against compressed-tensors' own forward: every value equal, in every dtype."""

import math

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStatus
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from engine.errors import DataError, InputError
from engine.numerics.activations import FORMATS, fake_quantize, format_of, round_to_float, static_parameters
from engine.records.model import LayerInfo, TensorInfo
from engine.records.scheme import Scheme
from engine.schemes.activations import arguments as configured
from engine.schemes.activations import name_of, parts, quantizes
from engine.writers.configuration import activations_of

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
E8M0 = {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
E4M3 = {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
# The ``input_activations`` that compressed-tensors wrote for each (shared examples), by our name and group.
ARGUMENTS = {
    ("int8:token", None): {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
    ("int8:static", None): {"num_bits": 8, "type": "int", "strategy": "tensor"},
    ("int8:static:asym", None): {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False},
    ("fp8:token", None): {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
    ("fp8:token", 128): {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "dynamic": True},
    ("fp8:static", None): {"num_bits": 8, "type": "float", "strategy": "tensor", "observer": "static_minmax"},
    ("mxfp8", None): {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "dynamic": True, **E8M0},
    ("mxfp4", None): {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "dynamic": True, **E8M0},
    ("nvfp4", None): {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": "local", **E4M3},
}
CASES = [(name, group, QuantizationArgs(**{"symmetric": True, **words})) for (name, group), words in ARGUMENTS.items()]
NAMED = pytest.mark.parametrize(("name", "group", "arguments"), CASES, ids=[f"{n}{g or ''}" for n, g, _ in CASES])
TYPED = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def inputs(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Batches of (2, 6, 256): ordinary ones, and such as break arithmetic."""
    chance = torch.Generator().manual_seed(1)
    normal = torch.randn(2, 6, 256, generator=chance)
    outliers = normal.clone()
    outliers[..., ::61] *= 300
    kind = torch.finfo(dtype)
    uniform = torch.rand(2, 6, 256, generator=chance)
    exponents = torch.linspace(math.log2(kind.tiny) - 4, math.log2(kind.max) - 3, 12).reshape(2, 6, 1)
    holes = normal.clone()
    holes[:, ::2] = 0
    return {
        "normal": normal.to(dtype),
        "outliers": outliers.to(dtype),
        "after relu": normal.relu().to(dtype),
        "all negative": (-uniform - 0.1).to(dtype),
        "zeros": torch.zeros(2, 6, 256, dtype=dtype),
        "rows of zeros": holes.to(dtype),
        "tiny": (normal * kind.tiny * 8).to(dtype),
        "every magnitude": (normal.double() / 5 * 2.0 ** exponents.double()).to(dtype),
        "integers": torch.arange(-1536, 1536).reshape(2, 6, 256).to(dtype) / 8,
        "one value": torch.full((2, 6, 256), 0.7, dtype=dtype),
    }


def theirs(x: torch.Tensor, arguments: QuantizationArgs, low: torch.Tensor, high: torch.Tensor):
    """(what compressed-tensors stores beside the weight, what its forward makes of the input)."""
    module, stored = torch.nn.Linear(x.shape[-1], 1), {}
    module.quantization_status = QuantizationStatus.FROZEN
    if arguments.dynamic == "local":
        stored["input_global_scale"] = generate_gparam(low.float(), high.float())
    elif not arguments.dynamic:
        scale, zero = calculate_qparams(low.reshape(1), high.reshape(1), arguments)
        stored["input_scale"] = scale
        if not arguments.symmetric:
            stored["input_zero_point"] = zero
    for key, value in stored.items():
        setattr(module, key, value)
    return stored, forward_quantize(module, x, "input", arguments)


@NAMED
@TYPED
def test_every_value_is_that_of_compressed_tensors(name, group, arguments, dtype):
    for what, x in inputs(dtype).items():
        low, high = x.min(), x.max()
        expected_stored, expected = theirs(x, arguments, low, high)
        stored = static_parameters(name, low.float(), high.float(), dtype)
        assert stored.keys() == expected_stored.keys() == set(format_of(name).stored)
        if "asym" not in name or x.any():  # of an empty range they make NaN into a zero point
            for key, value in expected_stored.items():
                assert stored[key].dtype == value.dtype and stored[key].shape == (1,), (what, key)
                assert torch.equal(stored[key], value), (what, key, stored[key], value)
            found = fake_quantize(x, name, stored, group)
            assert found.dtype == dtype and found.shape == x.shape
            wrong = (found != expected) & ~(found.isnan() & expected.isnan())
            assert not wrong.any(), (what, x[wrong][:5], found[wrong][:5], expected[wrong][:5])
        assert fake_quantize(x, name, stored, group).isfinite().all(), what


@NAMED
@TYPED
def test_a_whole_linear_layer(name, group, arguments, dtype):
    torch.manual_seed(2)
    x = torch.randn(2, 5, 256).mul_(3).to(dtype)
    layer = torch.nn.Linear(256, 64).to(dtype)
    weights = QuantizationArgs(num_bits=8, type="int", strategy="channel")
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=arguments)
    initialize_module_for_quantization(layer, scheme, force_zero_point=False)
    scale, _ = calculate_qparams(layer.weight.data.amin(1, keepdim=True), layer.weight.data.amax(1, keepdim=True), weights)
    layer.weight_scale.data = scale
    stored = static_parameters(name, x.min().float(), x.max().float(), dtype)
    for key, value in stored.items():
        place = getattr(layer, key)
        assert place.shape == value.shape and place.dtype == value.dtype  # fits where the reader puts it
        place.data = value
    decoded = forward_quantize(layer, layer.weight.data, "weight", weights)
    expected = layer(x)
    assert torch.equal(torch.nn.functional.linear(fake_quantize(x, name, stored, group), decoded, layer.bias), expected)
    assert not torch.equal(torch.nn.functional.linear(x, decoded, layer.bias), expected)


@NAMED
def test_chunks_and_layouts_change_nothing(name, group, arguments, monkeypatch):
    x = inputs(torch.bfloat16)["outliers"].transpose(0, 1)
    assert not x.is_contiguous()
    before = x.clone()
    stored, expected = theirs(x, arguments, x.min(), x.max())
    monkeypatch.setattr("engine.numerics.activations.CHUNK", 1000)
    assert torch.equal(fake_quantize(x, name, stored, group), expected)
    assert torch.equal(x, before)


@NAMED
def test_a_token_is_a_row_in_any_number_of_axes(name, group, arguments):
    """compressed-tensors sees tokens in inputs of three axes; of two and four the rows are the same tokens."""
    x = inputs(torch.bfloat16)["outliers"].reshape(12, 256)
    stored, expected = theirs(x[None], arguments, x.min(), x.max())
    assert torch.equal(fake_quantize(x, name, stored, group), expected[0])
    assert torch.equal(fake_quantize(x.reshape(2, 2, 3, 256), name, stored, group), expected.reshape(2, 2, 3, 256))
    if format_of(name).scope != "tensor":
        assert torch.equal(fake_quantize(x[3], name, stored, group), expected[0, 3])


@pytest.mark.parametrize(("mantissa", "least", "greatest"), [(3, -6, 448.0), (1, 0, 6.0)])
def test_rounding_to_small_floats_over_all_bfloat16_numbers(mantissa, least, greatest):
    from compressed_tensors.quantization.utils.fp4_utils import cast_to_fp4

    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    x = x[x.abs() <= greatest]
    assert x.numel() > 30000
    expected = x.to(torch.float8_e4m3fn).to(x.dtype) if mantissa == 3 else cast_to_fp4(x.clone())
    assert torch.equal(round_to_float(x, mantissa, least), expected)


def test_hand_worked_static_parameters():
    """amax / 127.5, amax / 448, (high - low) / 255 with the zero point at -128 - low/scale, 2688 / amax."""

    def given(name, low, high, dtype=torch.float32):
        values = static_parameters(name, torch.tensor(low), torch.tensor(high), dtype)
        return {key: value.tolist() for key, value in values.items()}

    assert given("int8:static", -255.0, 100.0) == {"input_scale": [2.0]}
    assert given("int8:static", 51.0, 63.75) == {"input_scale": [0.5]}
    assert given("fp8:static", -1.0, 896.0) == {"input_scale": [2.0]}
    assert given("int8:static:asym", -1.0, 254.0) == {"input_scale": [1.0], "input_zero_point": [-127]}
    assert given("int8:static:asym", 100.0, 510.0) == {"input_scale": [2.0], "input_zero_point": [-128]}
    assert given("int8:static:asym", -510.0, -7.0) == {"input_scale": [2.0], "input_zero_point": [127]}
    assert given("int8:static:asym", 0.0, 0.0) == {"input_scale": [2.0**-23], "input_zero_point": [0]}
    assert given("nvfp4", 0.0, 0.0) == {"input_global_scale": [1.0]}
    assert given("nvfp4", -2688.0, 3.0) == {"input_global_scale": [1.0]}
    assert given("nvfp4", 0.0, 5.25) == {"input_global_scale": [512.0]}
    for dynamic in ("int8:token", "fp8:token", "mxfp8", "mxfp4"):
        assert given(dynamic, -1.0, 1.0) == {}


@TYPED
def test_ranges_that_would_break_a_scale(dtype):
    """Of nothing, of one value, of the least and greatest numbers: no scale is zero or infinite, no code decodes to infinity."""
    kind = torch.finfo(dtype)
    ends = [(0.0, 0.0), (-kind.max, kind.max), (0.0, kind.max), (-kind.max, 0.0), (-3e38, 3e38), (-kind.max, 1.0)]
    ends += [(0.0, kind.smallest_normal), (-kind.smallest_normal / 8, kind.smallest_normal / 8), (3.0, 3.0), (-3.0, -3.0)]
    for form in (form for form in FORMATS if form.stored):
        for low, high in ends:
            stored = static_parameters(form.name, torch.tensor(low), torch.tensor(high), dtype)
            for key, value in stored.items():
                assert value.isfinite().all() and (key == "input_zero_point" or (value > 0).all()), (form.name, low, high, stored)
            x = torch.tensor([low, high, 0.0, low / 2, high / 2, 1.0]).double().clamp(kind.min, kind.max).to(dtype)
            x = x.repeat(8)[None, None]
            found = fake_quantize(x, form.name, stored)
            assert found.isfinite().all(), (form.name, low, high, found)
            assert (found[x == 0] == 0).all()
            if max(-low, high) > 1e4:  # great numbers still come back: within a step, and bfloat16's own, twice
                allowed = {"int8": 1 / 128 + 2 / 128, "fp8": 1 / 16 + 2 / 128, "fp4": 1 / 6 + 2 / 128}[form.codes]
                assert ((found.double() - x.double()).abs() <= allowed * x.double().abs().max()).all(), (form.name, low, high)


@TYPED
@pytest.mark.parametrize("name", ["int8:token", "fp8:token", "mxfp8", "mxfp4"])
def test_the_greatest_numbers_on_the_fly(name, dtype):
    """compressed-tensors makes E8M0 scales infinite here; theirs is the greatest power of two that decodes, to 6 / 8 at least."""
    x = torch.full((1, 2, 32), torch.finfo(dtype).max, dtype=dtype)
    x[..., 0] = 0
    found = fake_quantize(x, name)
    assert not found.isnan().any() and (found[..., 0] == 0).all()
    if name.startswith("mx"):
        assert found.isfinite().all() and (found[..., 1:] >= x[..., 1:] * 0.7).all()


def test_what_cannot_be_done_is_said_in_a_sentence():
    x, one = torch.ones(1, 2, 48), torch.tensor(1.0)
    with pytest.raises(InputError, match=r"'int9' is not a way .* known are int8:token"):
        fake_quantize(x, "int9")
    with pytest.raises(DataError, match=r"int8:static:asym needs input_zero_point; calibrate"):
        fake_quantize(x, "int8:static:asym", {"input_scale": torch.ones(1)})
    with pytest.raises(DataError, match=r"48 columns are not whole groups of 32"):
        fake_quantize(x, "mxfp8")
    with pytest.raises(DataError, match=r"48 columns are not whole groups of 128"):
        fake_quantize(x, "fp8:token", group=128)
    with pytest.raises(DataError, match=r"range nan to 1"):
        static_parameters("int8:static", torch.tensor(float("nan")), one, torch.float32)
    with pytest.raises(DataError, match=r"range 2 to 1"):
        static_parameters("int8:static", 2 * one, one, torch.float32)
    with pytest.raises(DataError, match=r"one range for the whole input, not 4"):
        static_parameters("fp8:static", torch.zeros(4), torch.ones(4), torch.float32)


def test_nothing_in_nothing_out():
    for form in FORMATS:
        stored = static_parameters(form.name, torch.tensor(-1.0), torch.tensor(1.0), torch.bfloat16)
        assert fake_quantize(torch.empty(0, 64, dtype=torch.bfloat16), form.name, stored).shape == (0, 64)


@NAMED
def test_configurations_ask_for_what_compressed_tensors_asks_for(name, group, arguments):
    weights = Scheme("fp8_e4m3", 8, "block", group, block_rows=group) if group else Scheme("int", 8)
    written = configured(name, weights)
    assert written is not None and name_of(written) == name
    theirs, ours = arguments.model_dump(exclude={"observer"}), QuantizationArgs(**written).model_dump(exclude={"observer"})
    given = {key for key, value in theirs.items() if value is not None}
    assert {key: ours[key] for key in given} == {key: theirs[key] for key in given}


def test_a_checkpoint_asks_for_the_inputs_of_its_first_group_that_quantizes_any():
    groups = {"a": {"input_activations": None}, "b": {"input_activations": configured("fp8:token", Scheme("fp8_e4m3", 8))}}
    assert activations_of({"config_groups": groups}) == "fp8:token"
    for said in ({}, {"config_groups": ["b"]}, {"config_groups": {"a": 5, "b": {}}}):
        assert activations_of(said) == "none"


def test_floating_inputs_are_asked_for_by_nothing():
    assert configured("none", Scheme("int", 8)) is None and name_of(None) == "none"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", []), ("fp8:token", []), ("mxfp4", []), ("int8:static", [("fc.input_scale", "BF16", 2)]),
        ("int8:static:asym", [("fc.input_scale", "BF16", 2), ("fc.input_zero_point", "I8", 1)]),
        ("fp8:static", [("fc.input_scale", "BF16", 2)]), ("nvfp4", [("fc.input_global_scale", "F32", 4)]),
    ],
)  # fmt: skip
def test_what_calibration_stores_beside_a_weight(name, expected):
    layer = LayerInfo("fc", "linear", (8, 8), "BF16", (TensorInfo("fc.weight", "BF16", (8, 8), 128, 0, 0),))
    stored = parts(name, layer, "BF16")
    assert [(part.name, part.dtype, part.nbytes) for part in stored] == expected
    assert all(part.shape == (1,) and part.role == "given" for part in stored)
    assert quantizes(name, layer, True) == (name != "none") and not quantizes(name, layer, False)
