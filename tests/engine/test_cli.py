"""The command line as users run it: documents, exit codes, one sentence on stderr."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LAYER = {"name", "scheme", "algorithm", "sqnr_db", "mse", "max_error", "clipped", "bytes"}


def run(*arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_inspect(language_model: Path) -> None:
    document = json.loads(run("inspect", language_model, "--json").stdout)
    assert {"parameters", "bytes", "layers", "problems"} <= document.keys()
    assert {"name", "kind", "shape", "dtype", "bytes"} <= document["layers"][0].keys()
    assert document["bytes"] == sum(layer["bytes"] for layer in document["layers"])
    assert "lm_head" in run("inspect", language_model).stdout


def test_plan_and_quantize_agree(language_model: Path, tmp_path: Path) -> None:
    plan = json.loads(run("plan", language_model, "--scheme", "W4A16", "--json").stdout)
    assert {"predicted_bytes", "bits_per_weight", "layers", "problems"} <= plan.keys()
    assert {"name", "scheme", "bytes"} <= plan["layers"][0].keys()
    done = run("quantize", language_model, "--scheme", "W4A16", "-o", tmp_path / "out", "--json", "--report", tmp_path / "r.json")
    document = json.loads(done.stdout)
    expected = {"output", "bytes_before", "bytes_after", "compression", "sqnr_db", "layers", "seconds", "peak_memory_bytes"}
    assert (plan.keys() - {"time"}) | expected <= document.keys()  # what a run took is its seconds
    assert plan["predicted_bytes"] == document["bytes_after"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert all(layer.keys() >= LAYER for layer in document["layers"])
    assert [layer["bytes"] for layer in document["layers"]] == [layer["bytes"] for layer in plan["layers"]]
    assert len(json.loads((tmp_path / "r.json").read_text())["layers"][0]["histogram"]["float_counts"]) == 256


def test_export_and_dequantize(language_model: Path, tmp_path: Path) -> None:
    run("quantize", language_model, "--scheme", "W8A16", "-o", tmp_path / "q")
    run("export", tmp_path / "q", "--format", "safetensors", "-o", tmp_path / "one.safetensors")
    document = json.loads(run("dequantize", tmp_path / "one.safetensors", "-o", tmp_path / "f.safetensors", "--json").stdout)
    assert document["bytes_after"] == (tmp_path / "f.safetensors").stat().st_size


def test_shard_size_and_recipe(language_model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('scheme = "int8:channel"\n[[rules]]\nmatch = "*.mlp.*"\nscheme = "int4:g64"\n')
    run("quantize", language_model, "--recipe", tmp_path / "r.toml", "--shard-size", "1MB", "-o", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()


def test_lists() -> None:
    assert "int4:g128" in run("schemes").stdout
    names = {recipe["name"] for recipe in json.loads(run("recipes", "--json").stdout)["recipes"]}
    assert {"W4A16", "W8A16", "W8A8"} <= names
    assert 'scheme = "int4:g128"' in run("recipes", "W4A16").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inspect", "no/such/file"), "does not exist"),
        (("plan", "SAMPLE", "--scheme", "int99"), "2 to 8 bits"),
        (("plan", "SAMPLE", "--scheme", "W4A17"), "did you mean W4A16"),
        (("plan", "SAMPLE", "--recipe", "no.toml"), "Cannot read the recipe"),
        (("quantize", "SAMPLE", "--scheme", "W4A16", "-o", "SAMPLE"), "input itself"),
        (("quantize", "SAMPLE", "--scheme", "int4:g100", "-o", "OUT"), "does not divide"),
        (("export", "SAMPLE", "--format", "safetensors", "-o", "no/such/folder/x.safetensors"), "does not exist"),
        (("dequantize", "SAMPLE", "-o", "OUT"), "not quantized"),
    ],
)
def test_a_users_mistake_is_exit_2_and_one_sentence(arguments: tuple, words: str, language_model: Path, tmp_path: Path) -> None:
    names = {"SAMPLE": str(language_model), "OUT": str(tmp_path / "out")}
    actual = [names.get(argument, argument) for argument in arguments]
    done = run(*actual, expect=2)
    assert words in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    document = json.loads(run(*actual, "--json", expect=2).stdout)
    assert words in document["error"]
    assert list(tmp_path.iterdir()) == []


def test_plan_with_problems_is_exit_2_and_still_a_plan(language_model: Path) -> None:
    document = json.loads(run("plan", language_model, "--scheme", "int4:g100", "--json", expect=2).stdout)
    assert any(problem["severity"] == "error" and problem["layer"] for problem in document["problems"])


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_report_may_not_take_the_models_place(place: str, digits: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.safetensors"
    source.write_bytes((digits / "model.safetensors").read_bytes())
    target = {"input": source, "output": tmp_path / "out.safetensors"}[place]
    arguments = ["quantize", source, "--scheme", "W8A16", "-o", tmp_path / "out.safetensors", "--report", target]
    assert "would overwrite the model" in run(*arguments, expect=2).stderr
    assert source.read_bytes() == (digits / "model.safetensors").read_bytes()


def test_an_empty_recipe_name_is_a_mistake_not_a_default(language_model: Path, tmp_path: Path) -> None:
    assert "Cannot read the recipe" in run("quantize", language_model, "--recipe", "", "-o", tmp_path / "o", expect=2).stderr


@pytest.mark.parametrize("size", ["9" * 400, "lots", "4GBB", "-1"])
def test_sizes_are_checked(size: str, language_model: Path, tmp_path: Path) -> None:
    assert "is not a size" in run("quantize", language_model, f"--shard-size={size}", "-o", tmp_path / "o", expect=2).stderr


def test_usage_errors_are_documents_too(language_model: Path) -> None:
    done = run("plan", language_model, "--scheme", "fp16", "--frmat", "x", "--json", expect=2)
    assert json.loads(done.stdout)["kind"] == "UsageError"


def test_a_terminal_without_utf8_gets_an_answer(digits: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "engine",
        "quantize",
        digits / "model.pt",
        "--scheme",
        "W8A16",
        "-o",
        tmp_path / "o.safetensors",
    ]
    for encoding in ("cp1252", "ascii"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([*command, "--overwrite"], capture_output=True, env=environment)
        assert done.returncode == 0 and b"Wrote" in done.stdout


def test_interrupted_is_exit_130_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "big.safetensors"
    shape = [1 << 15, 1 << 14]
    text = json.dumps({"a.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * shape[0] * shape[1]]}}).encode()
    source.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(source, 8 + len(text) + 2 * shape[0] * shape[1])
    environment = os.environ | {"MONO_QUANT_NUMERICS": "torch"}
    command = [
        sys.executable,
        "-m",
        "engine",
        "quantize",
        str(source),
        "--scheme",
        "int4:g128",
        "-o",
        str(tmp_path / "o.safetensors"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while not list(tmp_path.glob(".o.safetensors*.tmp")) and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and "Cancelled" in stderr
    assert sorted(os.listdir(tmp_path)) == ["big.safetensors"]


def test_names_from_a_file_cannot_drive_the_terminal(tmp_path: Path) -> None:
    text = json.dumps({"\x1b[31mred": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0")
    assert "\x1b" not in run("inspect", tmp_path / "x.safetensors").stdout
    text = json.dumps({"\x1b[31m\nx.weight": {"dtype": "F32", "shape": [16, 16], "data_offsets": [0, 1024]}}).encode()
    (tmp_path / "y.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\xff" * 1024)
    done = run("quantize", tmp_path / "y.safetensors", "--scheme", "int8:channel", "-o", tmp_path / "o.safetensors", expect=2)
    assert "NaN" in done.stderr and "\x1b" not in done.stderr and done.stderr.count("\n") == 1


def test_options_of_algorithms_are_flags_and_are_kept_in_bounds(language_model: Path, tmp_path: Path) -> None:
    done = run("quantize", language_model, "--scheme", "int4:g64", "--mse-norm", "2.4", "-o", tmp_path / "out", "--json")
    layers = json.loads(done.stdout)["layers"]
    assert {layer["algorithm"] for layer in layers} == {"mse:norm=2.4", None}
    done = run("plan", language_model, "--scheme", "int4:g64", "--mse-norm", "99", expect=2)
    assert "norm is between 0.1 and 8" in done.stderr
    done = run("plan", language_model, "--scheme", "int4:g64", "--algorithm", "rtn", "--mse-norm", "2", expect=2)
    assert "--mse-norm belongs to mse" in done.stderr


def test_a_run_that_fails_on_a_layer_still_prints_the_others(make_file, tmp_path: Path) -> None:
    import torch

    bad = torch.full((64, 64), float("inf"))
    source = make_file({"bad.weight": bad, "good.weight": torch.randn(64, 64)})
    arguments = ("quantize", source, "--scheme", "int8:channel", "-o", tmp_path / "out.safetensors")
    done = run(*arguments, expect=2)
    assert "good" in done.stdout and "Nothing was written" in done.stdout and "bad.weight holds Inf" in done.stderr
    document = json.loads(run(*arguments, "--json", expect=2).stdout)
    assert [layer["name"] for layer in document["layers"]] == ["good"] and "bad.weight" in document["failed"][0]
