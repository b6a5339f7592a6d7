"""Plans: exact to the byte, complete about problems, and made without torch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import engine
from engine.records.recipe import Recipe, Rule
from engine.schemes import parse_scheme

SCHEMES = [
    "int2:g8",
    "int3:g32",
    "int4:g128",
    "int4:channel:asym",
    "int5:tensor",
    "int6:g64:asym",
    "int7:channel",
    "int8:channel",
]
SCHEMES += ["int8:g32:asym", "int8:tensor:asym", "fp16", "bf16", "keep"]


def written(path: Path) -> int:
    """Bytes of the tensor files of an artifact."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*.safetensors"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("form", ["safetensors", "compressed-tensors"])
def test_predicted_bytes_are_the_files_bytes(scheme: str, form: str, language_model: Path, tmp_path: Path) -> None:
    out = tmp_path / ("out" if form == "compressed-tensors" else "out.safetensors")
    plan = engine.plan(language_model, scheme, format=form)
    report = engine.quantize_to(plan, out)
    assert plan.predicted_bytes == written(out) == report.bytes_after


@pytest.mark.parametrize("shard", [1_000_000, 1_500_000])
def test_shards_are_predicted_each_and_indexed(shard: int, language_model: Path, tmp_path: Path) -> None:
    plan = engine.plan(language_model, "W8A16", shard_size=shard)
    engine.quantize_to(plan, tmp_path / "out")
    for file in plan.files:
        assert (tmp_path / "out" / file.path).stat().st_size == file.nbytes
    shards = [file for file in plan.files if file.path.endswith(".safetensors")]
    assert len(shards) > 1
    assert all(sum(1 for _ in file.offsets) == 1 or file.nbytes - len(file.head) <= shard for file in shards)
    whole = engine.load_tensors(engine.open_model(tmp_path / "out"))
    engine.quantize_to(language_model, tmp_path / "single", "W8A16")
    single = engine.load_tensors(tmp_path / "single")
    assert whole.keys() == single.keys()
    assert all(torch.equal(whole[name], single[name]) for name in whole)


def test_digits_plan_equals_file(digits: Path, tmp_path: Path) -> None:
    plan = engine.plan(digits / "model.pt", "int8:channel:asym")
    engine.quantize_to(plan, tmp_path / "out.safetensors")
    assert plan.predicted_bytes == (tmp_path / "out.safetensors").stat().st_size


def errors(plan: engine.Plan) -> str:
    return "\n".join(problem.message for problem in plan.errors)


def test_a_group_that_does_not_divide_names_divisors_where_readers_want_whole_groups(
    make_file: Callable[..., Path], language_model: Path
) -> None:
    plan = engine.plan(language_model, "int4:g48", format="compressed-tensors")
    assert "group 48 does not divide 128 input values" in errors(plan)
    assert "g32" in errors(plan) and "int4:channel" in errors(plan)
    assert not engine.plan(make_file({"fc.weight": torch.zeros(32, 100)}), "int4:g64").errors


def test_a_rule_for_a_tensor_that_cannot_be_quantized_is_refused_by_name(make_file: Callable[..., Path]) -> None:
    source = make_file({"ids.weight": torch.zeros(32, 32, dtype=torch.int64), "n.weight": torch.zeros(512)})
    rules = (Rule(parse_scheme("int4:channel"), match="ids"), Rule(parse_scheme("int8:channel"), match="n"))
    plan = engine.plan(source, Recipe(rules=rules))
    assert "ids: I64 is not a float type" in errors(plan)
    assert "n: 1-dimensional" in errors(plan)


def test_what_the_default_cannot_quantize_passes_through(make_file: Callable[..., Path], tmp_path: Path) -> None:
    tensors = {
        "ids.weight": torch.arange(1024).reshape(32, 32),
        "mask.weight": torch.ones(32, 32, dtype=torch.bool),
        "f8.weight": torch.ones(32, 32).to(torch.float8_e5m2).view(torch.uint8),
        "double.weight": torch.randn(32, 32, dtype=torch.float64),
        "empty.weight": torch.zeros(0, 8),
        "one.weight": torch.tensor([[3.0]]),
    }
    source = make_file(tensors)
    report = engine.quantize_to(source, tmp_path / "out.safetensors", Recipe(parse_scheme("int8:channel"), builtin=False))
    assert {layer.name for layer in report.layers} == {"double", "one"}
    back = engine.load_tensors(tmp_path / "out.safetensors")
    for name in ("ids.weight", "mask.weight", "f8.weight", "empty.weight"):
        assert torch.equal(back[name], tensors[name])
    assert back["double.weight"].dtype == torch.float32
    assert (back["double.weight"] - tensors["double.weight"]).abs().max() < 0.02
    assert back["one.weight"].item() == pytest.approx(3.0, rel=0.01)


def test_output_names_that_collide_are_found(make_file: Callable[..., Path]) -> None:
    source = make_file({"a.weight": torch.zeros(32, 32), "a.weight_scale": torch.zeros(32, 1)})
    plan = engine.plan(source, Recipe(parse_scheme("int8:channel")))
    assert "a.weight_scale collides" in errors(plan)


def test_compressed_tensors_refuses_what_its_readers_ignore(digits: Path, language_model: Path) -> None:
    assert "no config.json" in errors(engine.plan(digits / "model.pt", "W8A16", format="compressed-tensors"))
    rule = Rule(parse_scheme("int4:channel"), match="model.embed_tokens")
    plan = engine.plan(language_model, Recipe(rules=(rule,)))
    assert any("packed embeddings" in problem.message for problem in plan.problems)


def test_convolutions_in_a_transformers_folder_stay_float_unless_named(tmp_path: Path) -> None:
    tensors = {"patch.projection.weight": torch.randn(8, 3, 8, 8), "layer.fc.weight": torch.randn(64, 64)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    plan = engine.plan(tmp_path, "W8A16")
    assert {line.layer.name: line.scheme_name for line in plan.layers} == {"patch.projection": "keep", "layer.fc": "int8:channel"}
    assert not plan.errors
    rule = Rule(parse_scheme("int8:channel"), match="patch.*")
    assert "patch.projection is a conv2d layer" in errors(engine.plan(tmp_path, Recipe(rules=(rule,))))


def test_what_a_models_own_code_cannot_load_is_said(tmp_path: Path) -> None:
    save_file({"block.0.DenseReluDense.wo.weight": torch.randn(64, 64)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    plan = engine.plan(tmp_path, "W8A16")
    assert any("wo.weight" in problem.message for problem in plan.problems)
    assert engine.consumers(plan)[0].loads == "no"


def test_fused_layers_with_unlike_schemes_are_warned_of(language_model: Path) -> None:
    rule = Rule(parse_scheme("int8:channel"), match="*.0.self_attn.q_proj")
    plan = engine.plan(language_model, Recipe(parse_scheme("int4:g128"), rules=(rule,)))
    (problem,) = plan.problems
    assert problem.severity == "warning" and "vLLM fuses them" in problem.message
    assert [c.loads for c in engine.consumers(plan) if c.name == "vLLM"] == ["no"]


def test_w8a8_wants_int8_channels(language_model: Path) -> None:
    assert "int8:token activations do not go with int4:g128. Needs int8 weights" in errors(
        engine.plan(language_model, Recipe(parse_scheme("int4:g128"), activations="int8:token"))
    )


def test_first_match_wins_and_the_plan_says_which(language_model: Path) -> None:
    first = Rule(parse_scheme("int8:channel"), match="*.0.mlp.up_proj")
    second = Rule(parse_scheme("keep"), match="*.up_proj")
    plan = engine.plan(language_model, Recipe(parse_scheme("int4:g128"), rules=(first, second)))
    lines = {line.layer.name: line for line in plan.layers}
    assert lines["model.layers.0.mlp.up_proj"].scheme_name == "int8:channel"
    assert lines["model.layers.0.mlp.up_proj"].rule.startswith("rule 1")
    assert lines["model.layers.1.mlp.up_proj"].scheme_name == "keep"
    assert lines["model.norm"].rule == "built-in: norms stay float"
    assert lines["model.layers.1.mlp.down_proj"].rule == "default"


def test_a_plan_brings_neither_torch_nor_numba(language_model: Path) -> None:
    code = (
        f"import engine, sys; engine.plan({str(language_model)!r}, 'W4A16')\n"
        "sys.exit(bool({'torch', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_the_engine_brings_nothing() -> None:
    code = "import engine, sys; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def folder(tmp_path: Path, tensors: dict[str, torch.Tensor], config: str) -> Path:
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    return tmp_path


def test_block_activations_that_do_not_divide_are_found_before_a_run(tmp_path: Path) -> None:
    source = folder(tmp_path, {"model.layers.0.mlp.down_proj.weight": torch.zeros(64, 320)}, '{"model_type": "llama"}')
    assert "groups of 128 activations do not divide 320" in errors(engine.plan(source, "FP8_BLOCK"))
    assert not engine.plan(source, "fp8:b128x128").errors


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(parse_scheme("nvfp4")), "ignores the global scale of experts"),
        (
            Recipe(parse_scheme("int4:g32"), rules=(Rule(parse_scheme("keep"), match="*.experts.1.*"),)),
            "must all have one scheme",
        ),
    ],
)
def test_what_transformers_does_to_experts_is_said(recipe: Recipe, words: str, tmp_path: Path) -> None:
    names = [f"model.layers.0.mlp.experts.{n}.{w}.weight" for n in range(2) for w in ("gate_proj", "up_proj", "down_proj")]
    config = '{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}'
    plan = engine.plan(folder(tmp_path, {name: torch.zeros(64, 64) for name in names}, config), recipe)
    assert any(words in problem.message for problem in plan.problems) and not plan.errors
    assert engine.consumers(plan)[0].loads == "no" and words in engine.consumers(plan)[0].reason


def test_numbers_that_compressed_tensors_does_not_know_are_refused_in_its_folder(language_model: Path) -> None:
    assert "compressed-tensors has no nf4:g64" in errors(engine.plan(language_model, "nf4", format="compressed-tensors"))
    assert engine.plan(language_model, "nf4").format == "safetensors"
    assert engine.plan(language_model, "nvfp4").format == "compressed-tensors"


def test_layers_that_a_runtime_fuses_share_nvfp4s_global_scale(language_model: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    engine.quantize_to(language_model, tmp_path / "out", "nvfp4")
    with (
        safe_open(tmp_path / "out" / "model.safetensors", "pt") as file,
        safe_open(language_model / "model.safetensors", "pt") as source,
    ):
        for group in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj"):
            names = [f"model.layers.1.{name}.weight" for name in group]
            amax = max(source.get_tensor(name).abs().max() for name in names)
            scales = {file.get_tensor(f"{name}_global_scale").item() for name in names}
            assert len(scales) == 1
            assert scales.pop() == pytest.approx(448 * 6 / float(amax), rel=2**-7)
