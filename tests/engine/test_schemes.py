"""Names of schemes, and the layout on disk against listings that compressed-tensors itself wrote."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import RecipeError
from engine.records.model import LayerInfo, TensorInfo
from engine.records.scheme import Scheme
from engine.schemes import family_of, format_scheme, parse_scheme, scheme_from_args

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
