"""Names of schemes, and the layout on disk against listings that compressed-tensors itself wrote."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import engine
from engine import RecipeError
from engine.records.model import LayerInfo, TensorInfo
from engine.records.scheme import Scheme
from engine.schemes import family_of, format_scheme, parse_scheme, scheme_from_args, wider_scheme
from engine.schemes.base import OWN

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "compressed_tensors_listings.json").read_text())

integers = st.builds(
    lambda bits, granularity, group, symmetric: Scheme(
        "int", bits, granularity, group if granularity == "group" else None, symmetric
    ),
    st.integers(2, 8),
    st.sampled_from(["tensor", "channel", "group"]),
    st.integers(1, 4096),
    st.booleans(),
)


@given(scheme=integers)
def test_a_scheme_prints_to_a_name_that_parses_back(scheme: Scheme) -> None:
    assert parse_scheme(format_scheme(scheme)) == scheme


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("int4:g128", Scheme("int", 4, "group", 128)),
        ("INT8:Channel:Asym", Scheme("int", 8, "channel", None, False)),
        ("int8", Scheme("int", 8, "channel")),
        ("int3:tensor", Scheme("int", 3, "tensor")),
        ("fp16", Scheme("fp16", 16, "tensor")),
        ("keep", Scheme("keep")),
    ],
)
def test_names_mean_what_they_say(name: str, scheme: Scheme) -> None:
    assert parse_scheme(name) == scheme


@pytest.mark.parametrize(
    "name", ["int9", "int4:g64:channel", "int8:sym:asym", "int1:tensor", "int4:g0", "int4:row", "float3", "", "int4:"]
)
def test_a_wrong_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_scheme(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_layout_is_the_one_compressed_tensors_writes(case: dict) -> None:
    """One layer of each listing in the formats page: names, types, shapes."""
    scheme = scheme_from_args(case["weights"])
    assert scheme is not None
    shape = tuple(case["shape"])
    tensor = TensorInfo("layer.weight", "BF16", shape, 2 * shape[0] * shape[1], 0, 0)
    layer = LayerInfo("layer", case["kind"], shape, "BF16", (tensor,))
    parts = family_of(scheme).parts(scheme, layer, case["activations"])
    listing = {part.name.removeprefix("layer."): [part.dtype, list(part.shape)] for part in parts}
    assert listing == case["tensors"]


@pytest.mark.parametrize(
    "ladder",
    [
        ("int2:g64", "int3:g64", "int4:g64", "int8:g64", "keep", "keep"),
        ("int5:channel:asym", "int8:channel:asym", "keep"),
        ("binary:g64", "ternary:g64", "int3:g64"),
        ("mxfp4", "mxfp6", "mxfp8", "keep"),
        ("mxfp6_e3m2", "mxfp8"),
        ("nvfp4", "fp8_e4m3:channel", "keep"),
        ("nf4:g64:double", "fp8_e4m3:g64"),
        ("fp4:tensor", "fp8_e4m3:tensor"),
        ("bf16", "keep"),
    ],
)
def test_each_step_to_more_bits(ladder: tuple[str, ...]) -> None:
    for here, there in itertools.pairwise(ladder):
        assert engine.wider_scheme(here) == there


@pytest.mark.parametrize(
    ("name", "wider"),
    [
        ("int2:g64", "int3:g64"), ("int3:channel", "int4:channel"), ("int4:g64:asym", "int8:g64:asym"),
        ("int6:tensor", "int8:tensor"),
        ("int8:channel", "keep"), ("mxfp4", "mxfp6"), ("mxfp6", "mxfp8"), ("mxfp6_e3m2", "mxfp8"), ("mxfp8", "keep"),
        ("nvfp4", "fp8_e4m3:channel"), ("nf4:g128", "fp8_e4m3:g128"), ("fp4:channel", "fp8_e4m3:channel"),
        ("binary:g64", "ternary:g64"), ("ternary:g64", "int3:g64"), ("fp8", "keep"), ("fp16", "keep"), ("keep", "keep"),
    ],
)  # fmt: skip
def test_the_next_wider_scheme_keeps_its_groups_where_it_can(name: str, wider: str) -> None:
    assert format_scheme(wider_scheme(parse_scheme(name))) == wider


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("int8:channel", ["int8:token", "int8:static", "int8:static:asym"]), ("int8:g32", []), ("int4:channel", []),
        ("fp8:channel", ["fp8:token", "fp8:static"]), ("fp8:b128x128", ["fp8:token"]), ("fp8:g128", []), ("fp8_e5m2", []),
        ("mxfp8", ["mxfp8"]), ("mxfp6", ["mxfp8"]), ("mxfp6_e3m2", []), ("mxfp4", ["mxfp4"]), ("nvfp4", ["nvfp4"]), ("nf4", []),
    ],
)  # fmt: skip
def test_inputs_that_runtimes_quantize_beside_these_weights(name: str, inputs: list[str]) -> None:
    assert list(family_of(parse_scheme(name)).activations(parse_scheme(name))) == inputs


@pytest.mark.parametrize("name", ["fp16", "bf16", "keep"])
def test_plain_numbers_need_no_reader_that_knows_them(name: str) -> None:
    scheme = parse_scheme(name)
    family, layer = family_of(scheme), weight_of("fc", (8, 8))
    assert family.quantization_args(scheme) is None and family.activations(scheme) == () and family.problems(scheme, layer) == []
    assert family.storage(scheme, (), "none") == OWN and family.shape_of(scheme, (8, 8)) is None
    assert family.ragged(scheme, layer) == "" and family.stored_problem(scheme, layer) == ""
    two = LayerInfo("fc", "linear", (8, 8), "F32", layer.parts * 2)
    assert family.stored_problem(scheme, two) == "it has parts that its scheme does not know"
    with pytest.raises(TypeError, match="stored as plain tensors"):
        family.decoder(scheme, layer, {})


def test_a_kept_layer_is_never_encoded() -> None:
    with pytest.raises(TypeError, match="copied"):
        family_of(Scheme("keep")).encoder(Scheme("keep"), weight_of("fc", (8, 8)), ())


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("fp8:g48", "group 48 does not divide 40 input values; use g10 or g20 or g40, or keep the layer"),
        ("mxfp4", "group 32 does not divide 40 input values; keep the layer, or choose a format with another group"),
        ("nvfp4", "group 16 does not divide 40 input values; keep the layer, or choose a format with another group"),
        ("int4:g16", "group 16 does not divide 40 input values; use g8 or g10 or g20 or int4:channel"),
    ],
)
def test_groups_that_readers_would_refuse_are_told_with_a_remedy(scheme: str, words: str, tmp_path: Path) -> None:
    save_file({"model.layers.0.mlp.down_proj.weight": torch.zeros(64, 40)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    plan = engine.plan(tmp_path, scheme, format="compressed-tensors")
    assert [problem.message for problem in plan.errors] == [f"model.layers.0.mlp.down_proj: {words}."]


def test_only_floats_are_rounded_to_half(tmp_path: Path) -> None:
    save_file({"ids.weight": torch.zeros(8, 8, dtype=torch.int64)}, tmp_path / "x.safetensors")
    plan = engine.plan(tmp_path / "x.safetensors", engine.recipe_from_text("[[rules]]\nscheme = 'bf16'\nmatch = 'ids'"))
    (problem,) = plan.errors
    assert "ids: I64 is not a float type that can be rounded to bf16; use keep" in problem.message


@pytest.mark.parametrize("args", [{"scheme": "nf4:what"}, {"scheme": "fp8_e5m2:b0x0"}, {"scheme": 5}, {}])
def test_schemes_of_our_own_that_make_no_sense_are_not_known(args: dict) -> None:
    assert scheme_from_args({"type": OWN} | args) is None


def test_packed_codes_of_8_bits_come_back(tmp_path: Path) -> None:
    """Of a transposed convolution, whose output channels are not stored one by one: exact, since every scale is 1."""
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(4)).mul(50).to(torch.float8_e4m3fn).float()
    weight[0, :, 0, 0] = 448
    save_file({"deconv.weight": weight}, tmp_path / "x.safetensors")
    engine.quantize_to(tmp_path / "x.safetensors", tmp_path / "out.safetensors", "fp8:channel", record=False)
    assert torch.equal(engine.load_tensors(tmp_path / "out.safetensors")["deconv.weight"], weight)


# -- one layer's encoder, as solvers use it ---------------------------------------------------------------------------


def weight_of(name: str, shape: tuple[int, ...], dtype: str = "F32") -> LayerInfo:
    size = math.prod(shape) * (4 if dtype == "F32" else 2)
    return LayerInfo(name, "linear", shape, dtype, (TensorInfo(f"{name}.weight", dtype, shape, size, 0, 0),))


@pytest.mark.parametrize(("name", "activations"), [("int4:g32", "none"), ("int8:g32", "int8:token"), ("int8:g32:asym", "none")])
def test_numbers_of_the_grid_are_packed_and_decoded(name: str, activations: str) -> None:
    """Two rows of two groups under scales 1/2, 1, 2 and 4 (and zero points 0 to 3), in float32: ``(q - z) * s`` exactly."""
    scheme, layer = parse_scheme(name), weight_of("fc", (2, 64))
    family = family_of(scheme)
    parts = family.parts(scheme, layer, activations)
    encoder = family.encoder(scheme, layer, parts)
    levels = np.random.default_rng(1).integers(-8, 8, (2, 64)).astype(np.float32)
    scale, zero = np.array([0.5, 1, 2, 4], np.float32), np.arange(4, dtype=np.float32) * (not scheme.symmetric)
    expected = (levels - zero.repeat(32).reshape(2, 64)) * scale.repeat(32).reshape(2, 64)
    np.testing.assert_array_equal(encoder.decode_levels(levels, 2, (scale, zero)), expected)
    out = np.empty(next(part.nbytes for part in parts if part.role == "codes"), np.uint8)
    encoder.pack_levels(levels.reshape(-1).view(np.uint8), 2, out)
    stored = {role: np.frombuffer(data, np.uint8) for role, (_, data) in encoder.small_parts(scale, zero, 0, 0).items()}
    there = tuple(TensorInfo(part.name, part.dtype, part.shape, part.nbytes, 0, 0) for part in parts)
    decoder = family.decoder(scheme, LayerInfo("fc", "linear", (2, 64), "F32", there, scheme=name), stored)
    np.testing.assert_array_equal(decoder.decode(out, 0, 2).view(np.float32).reshape(2, 64), expected)
    x, products = np.random.default_rng(2).integers(-3, 4, (3, 64)).astype(np.float32), np.empty((2, 3), np.float32)
    decoder.multiplier(out, 0, 2)(x, products)
    np.testing.assert_array_equal(products, expected @ x.T)


def test_solvers_are_given_floats_and_rounded_parameters() -> None:
    scheme, layer = parse_scheme("int4:g32"), weight_of("fc", (2, 64), "BF16")
    family = family_of(scheme)
    encoder = family.encoder(scheme, layer, family.parts(scheme, layer, "none"))
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    floats = encoder.floats(weight.view(torch.uint8).numpy().reshape(-1))
    np.testing.assert_array_equal(floats, weight.float().numpy().reshape(-1))
    np.testing.assert_array_equal(
        encoder.rounded(floats * np.float32(1.01)), (weight.float() * 1.01).bfloat16().float().flatten()
    )
    encoder.take_floats()
    np.testing.assert_array_equal(encoder.floats(floats.view(np.uint8)), floats)
