"""What must hold for every format, shape, dtype and extreme value."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import engine
from tests.engine.oracle import DTYPES

LARGEST = {"BF16": 3.38e38, "F16": 65504.0, "F32": 3.4e38, "F64": 3.4e38}
ZEROS = ("sym", "restricted", "asym", "floatzero")
INTEGERS = [f"int{b}:{w}:{z}" for b, w, z in itertools.product(range(2, 9), ("tensor", "channel", "g16", "b4x32"), ZEROS)]
FLOATS = [f"{name}:{where}" for name in ("fp8_e4m3", "fp8_e5m2") for where in ("tensor", "channel", "g16", "b128x128")]
MICRO = ["mxfp8", "mxfp8_e5m2", "mxfp6", "mxfp6_e3m2", "mxfp4", "nvfp4"]
BOOKS = ["nf4", "nf4:g16", "nf4:g16:double", "fp4", "fp4:g16", "fp4:g16:double"]
FEW = [f"{name}{where}" for name in ("ternary", "binary") for where in ("", ":tensor", ":channel", ":g16")]
EVERY = [*INTEGERS, *FLOATS, *MICRO, *BOOKS, *FEW]
SOME = ["int4:g16", "int3:channel:asym", "int8:b4x32", "int4:g16:floatzero", "fp8", *MICRO, *BOOKS, "ternary", "binary"]

shapes = {"rows": st.integers(1, 9), "cols": st.integers(1, 70), "dtype": st.sampled_from([*DTYPES]), "seed": st.integers(0, 99)}
extremes = st.sampled_from(["ordinary", "denormal", "huge", "outlier", "constant", "negative", "zero", "mixed zeros", "one"])
# Without shrinking, which would take minutes.
few = settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties")


def weight_of(rows: int, cols: int, dtype: str, seed: int, extreme: str = "ordinary") -> Tensor:
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if extreme == "denormal":
        weight = weight * {"F16": 2e-7}.get(dtype, 2e-40)
    elif extreme == "huge":
        weight = weight.clamp(-1, 1) * LARGEST[dtype]
    elif extreme == "outlier":
        weight[rows // 2, cols // 2] = LARGEST[dtype]
    elif extreme == "constant":
        weight = torch.full_like(weight, 0.3)
    elif extreme == "negative":
        weight = -weight.abs() - 0.1
    elif extreme == "zero":
        weight = weight * 0.0
    elif extreme == "mixed zeros":
        weight = torch.where(weight > 0.3, weight, torch.where(weight > 0, 0.0, -0.0))
    elif extreme == "one":
        weight = torch.zeros_like(weight).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(-1e-6).double())
    return weight.to(DTYPES[dtype])


def run(folder: Path, weight: Tensor, lines: list[tuple[str, str]]) -> tuple[dict[str, Tensor], list[engine.LayerReport]]:
    """The weight once per (scheme, algorithm) in one file, quantized and opened again: decoded by line, and reports."""
    names = [f"layer{i}" for i in range(len(lines))]
    save_file({f"{name}.weight": weight.clone() for name in names}, folder / "in.safetensors")
    rules = tuple(engine.Rule(engine.parse_scheme(s), a, match=name) for name, (s, a) in zip(names, lines, strict=True))
    plan = engine.plan(folder / "in.safetensors", engine.Recipe(rules=rules, builtin=False))
    assert not plan.errors
    out = folder / "out.safetensors"
    report = engine.quantize_to(plan, out, overwrite=True)
    assert plan.predicted_bytes == out.stat().st_size == report.bytes_after
    tensors, by_name = engine.load_tensors(out), {layer.name: layer for layer in report.layers}
    decoded = {"|".join(line): tensors[f"{name}.weight"] for name, line in zip(names, lines, strict=True)}
    return decoded, [by_name[name] for name in names]


def rtn(schemes: list[str]) -> list[tuple[str, str]]:
    return [(scheme, "rtn") for scheme in schemes]


def grouped(values: Tensor, scheme: str) -> Tensor:
    """Everything that shares a scale in one row, filled up with zeros."""
    where = scheme.split(":")[1]
    if where == "tensor":
        return values.reshape(1, -1)
    size = int(where[1:]) if where[0] == "g" else values.shape[1]
    return torch.nn.functional.pad(values, (0, -values.shape[1] % size)).view(-1, size)


def loss(weight: Tensor, decoded: Tensor, scheme: str, norm: float) -> Tensor:
    return grouped(weight.double() - decoded.double(), scheme).abs().pow(norm).sum(1)


def test_names_read_back_and_nonsense_is_refused() -> None:
    for scheme in EVERY:
        parsed = engine.parse_scheme(scheme)
        assert engine.parse_scheme(engine.scheme_name(parsed)) == parsed, scheme
    same = {
        "fp8": "fp8_e4m3:channel", "fp8_e5m2": "fp8_e5m2:channel", "mxfp6": "mxfp6_e2m3", "nf4": "nf4:g64", "fp4": "fp4:g64",
        "ternary": "ternary:g128", "binary": "binary:g128", "int4:sym": "int4:channel",
    }  # fmt: skip
    for short, long in same.items():
        assert engine.parse_scheme(short) == engine.parse_scheme(long)
    for bad in ("int9", "int4:g0", "mxfp5", "mxfp4:tensor", "nf4:asym", "fp8:double", "nvfp4:g32", "ternary:g0", "int4:b0x4"):
        with pytest.raises(engine.EngineError):
            engine.parse_scheme(bad)


@given(case=st.fixed_dictionaries(shapes | {"extreme": extremes}))
@settings(few, max_examples=30)
def test_finite_stays_finite_and_zero_stays_zero(folder: Path, case: dict) -> None:
    weight = weight_of(**case)
    for name, decoded in run(folder, weight, rtn(EVERY))[0].items():
        assert decoded.shape == weight.shape and decoded.isfinite().all(), name
        if "binary" not in name and "floatzero" not in name:  # neither has a code for zero
            assert not decoded[weight == 0].any(), name


@given(case=st.fixed_dictionaries(shapes | {"extreme": extremes}))
@few
def test_reports_say_what_a_reader_decodes(folder: Path, case: dict) -> None:
    weight = weight_of(**case)
    values, layers = run(folder, weight, rtn(EVERY))
    weight = weight.float() if weight.dtype == torch.float64 else weight  # the engine calculates in float32
    for (name, decoded), layer in zip(values.items(), layers, strict=True):
        error = (weight.double() - decoded.double()).abs()
        assert layer.max_error == pytest.approx(float(error.max()), rel=1e-3, abs=1e-44), name
        assert layer.mse == pytest.approx(float(error.square().mean()), rel=1e-3, abs=1e-80), name


@given(case=st.fixed_dictionaries(shapes | {"exponent": st.integers(-8, 3)}))
@few
def test_integers_miss_by_half_a_step_at_most(folder: Path, case: dict) -> None:
    exponent = case.pop("exponent")
    weight = weight_of(**case | {"dtype": "F32"}) * 10.0**exponent
    schemes = [scheme for scheme in INTEGERS if ":b" not in scheme]
    decoded = run(folder, weight, rtn(schemes))[0]
    for scheme in schemes:
        groups, bits = grouped(weight, scheme), int(scheme[3])
        largest, spread = groups.abs().amax(1), groups.amax(1).clamp(min=0) - groups.amin(1).clamp(max=0)
        steps = {"sym": (2**bits - 1) / 2, "restricted": 2 ** (bits - 1) - 1}.get(scheme.split(":")[2])
        step = largest / steps if steps else spread / (2**bits - 1)
        error = grouped(weight - decoded[f"{scheme}|rtn"], scheme).abs().amax(1)
        assert (error <= step * (0.5 + 1e-4)).all(), scheme


@given(seed=st.integers(0, 99))
@settings(few, max_examples=4)
def test_finer_granularity_is_not_worse(folder: Path, seed: int) -> None:
    weight = weight_of(64, 256, "F32", seed) * torch.logspace(-2, 0, 64).view(-1, 1)
    for family in ("int4", "int8", "int4:asym", "int5:restricted", "fp8"):
        name, *rest = family.split(":")
        schemes = [":".join([name, where, *rest]) for where in ("tensor", "channel", "g64", "g16")]
        decoded = run(folder, weight, rtn(schemes))[0]
        noise = torch.stack([(weight.double() - value.double()).square().sum() for value in decoded.values()])
        assert (10 * torch.log10(noise[1:] / noise[:-1]) <= 0.3).all(), family


@given(case=st.fixed_dictionaries(shapes | {"norm": st.sampled_from([1.0, 2.0, 2.4])}))
@settings(few, max_examples=8)
def test_mse_search_is_nowhere_worse_than_rtn(folder: Path, case: dict) -> None:
    norm = case.pop("norm")
    weight = weight_of(**case)
    schemes = [f"int{b}:{w}:{z}" for b, w, z in itertools.product((2, 4, 8), ("tensor", "channel", "g16"), ZEROS)]
    schemes += [f"{name}:{w}" for name, w in itertools.product(("fp8", "fp8_e5m2", "nf4", "fp4", "ternary"), ("tensor", "g16"))]
    searches = [f"mse:search={search}:norm={norm}" for search in ("grid", "golden")]
    decoded = run(folder, weight, rtn(schemes) + list(itertools.product(schemes, searches)))[0]
    for scheme, search in itertools.product(schemes, searches):
        plain, found = (loss(weight, decoded[f"{scheme}|{name}"], scheme, norm) for name in ("rtn", search))
        assert (found <= plain * (1 + 1e-5)).all(), f"{scheme} {search}"


@given(case=st.fixed_dictionaries(shapes))
@settings(few, max_examples=8)
def test_hqq_is_nowhere_worse_than_rtn_in_its_own_objective(folder: Path, case: dict) -> None:
    weight = weight_of(**case)
    schemes = [f"int{b}:{w}:{z}" for b, w, z in itertools.product((2, 4, 8), ("channel", "g16"), ("asym", "floatzero"))]
    decoded = run(folder, weight, rtn(schemes) + [(scheme, "hqq") for scheme in schemes])[0]
    for scheme in schemes:
        plain, found = (loss(weight, decoded[f"{scheme}|{name}"], scheme, 0.7) for name in ("rtn", "hqq"))
        assert (found <= plain * (1 + 1e-5)).all(), scheme


def test_hqq_and_auto_gain_where_rtn_is_poor_and_auto_says_why(folder: Path) -> None:
    weight = weight_of(32, 128, "F32", 3)
    weight[:, 5] = 6.0
    scheme = "int3:g64:floatzero"  # with whole zero points RTN's is already the best
    decoded, (by_rtn, _, by_auto) = run(folder, weight, [(scheme, name) for name in ("rtn", "hqq", "auto")])
    plain, hqq = (loss(weight, decoded[f"{scheme}|{name}"], scheme, 0.7).sum() for name in ("rtn", "hqq"))
    assert hqq < 0.99 * plain
    assert by_auto.mse <= by_rtn.mse and by_auto.reason


@given(case=st.fixed_dictionaries(shapes))
@few
def test_transposed_state_dicts_give_the_same_bytes(folder: Path, case: dict) -> None:
    weight = weight_of(**case)
    for name, value in (("plain", weight), ("transposed", weight.t().contiguous().t())):
        (folder / name).mkdir(exist_ok=True)
        torch.save({"layer.weight": value}, folder / name / "in.pt")
    for scheme in SOME:
        recipe = engine.Recipe(default=engine.parse_scheme(scheme), builtin=False)
        for name in ("plain", "transposed"):
            engine.quantize_to(folder / name / "in.pt", folder / name / "out.safetensors", recipe, overwrite=True)
        first, second = ((folder / name / "out.safetensors").read_bytes() for name in ("plain", "transposed"))
        assert first == second, scheme


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_each_expert_is_quantized_on_its_own(folder: Path, dtype: str) -> None:
    experts = torch.stack([weight_of(32, 64, dtype, k) * 4.0**k for k in range(3)])
    save_file({"x.mlp.experts.gate_up_proj": experts}, folder / "experts.safetensors")
    slices = [run(folder, expert, rtn(EVERY))[0] for expert in (*experts, experts.flatten(0, 1))]
    for scheme in EVERY:
        recipe = engine.Recipe(rules=(engine.Rule(engine.parse_scheme(scheme), match="*experts*"),), builtin=False)
        engine.quantize_to(folder / "experts.safetensors", folder / "out.safetensors", recipe, overwrite=True)
        decoded = engine.load_tensors(folder / "out.safetensors")["x.mlp.experts.gate_up_proj"]
        one_by_one = torch.stack([one[f"{scheme}|rtn"] for one in slices[:3]])
        # The numbers that double quantization and NVFP4 keep for the whole weight are for all experts together.
        together = scheme == "nvfp4" or "double" in scheme
        assert torch.equal(decoded, slices[3][f"{scheme}|rtn"].view_as(decoded) if together else one_by_one), scheme
        if scheme == "fp8_e4m3:tensor":
            assert load_file(folder / "out.safetensors")["x.mlp.experts.gate_up_proj_scale"].numel() == 3
