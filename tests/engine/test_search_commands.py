"""`sensitivity` and `search` on the command line and in Python."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine
from engine.cli import main
from engine.records.search import Budget
from engine.searching import cache
from engine.searching.budgets import budget_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing that other tests, or the user, measured; child processes too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(cache.folder())


def answer(capsys, *arguments) -> tuple[int, dict]:
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_table_and_a_recipe_from_it(language_model, tmp_path, capsys):
    code, table = answer(capsys, "sensitivity", language_model, "-o", tmp_path / "S.json")
    assert code == 0
    assert table["complete"]
    assert len(table["rows"]) == 28
    code, found = answer(
        capsys, "search", language_model, "--budget", "4.5bpw", "--sensitivity", tmp_path / "S.json", "-o", tmp_path / "r.toml"
    )
    assert code == 0
    assert found["bits"] <= 4.5
    assert found["exact"]
    assert found["error"] / found["bound"] - 1 < 0.01
    plan = engine.plan(language_model, engine.load_recipe(tmp_path / "r.toml"))
    assert {line.layer.name: line.scheme_name for line in plan.layers if not line.kept} == {
        name: scheme for name, scheme in found["schemes"].items() if scheme != "keep"
    }
    assert plan.predicted_bytes == found["predicted_bytes"]
    # The recipe is worth what it says: run it, and sum the errors of its layers.
    report = engine.quantize_to(plan, tmp_path / "out")
    measured = sum(layer.parameters * layer.noise / layer.signal for layer in report.layers)
    assert measured == pytest.approx(found["error"], rel=1e-5)
    front = found["front"]
    assert all(a["bytes"] <= b["bytes"] and a["error"] >= b["error"] for a, b in itertools.pairwise(front))


@pytest.mark.parametrize(
    ("flag", "value", "holds"),
    [
        ("--size", "1650kB", lambda found, before: found["predicted_bytes"] <= 1_650_000),
        ("--compression", "2x", lambda found, before: found["predicted_bytes"] <= before / 2),
        ("--floor", "30dB", lambda found, before: found["db"] >= 30),
        ("--budget", "3.5bpw", lambda found, before: found["bits"] <= 3.5),
    ],
)
def test_budgets_hold_in_the_file_that_is_written(language_model, tmp_path, capsys, flag, value, holds):
    recipe = tmp_path / "r.toml"
    code, found = answer(capsys, "search", language_model, flag, value, "-o", recipe)
    assert code == 0
    before = sum(file.nbytes for file in engine.open_model(language_model).files)
    assert holds(found, before)
    report = engine.quantize_to(language_model, tmp_path / "out", engine.load_recipe(recipe))
    assert report.bytes_after == found["predicted_bytes"]


def test_what_must_load_in_vllm_does(language_model, tmp_path, capsys):
    code, found = answer(capsys, "search", language_model, "--budget", "6bpw", "--loads", "vLLM", "-o", tmp_path / "r.toml")
    assert code == 0
    plan = engine.plan(language_model, engine.load_recipe(tmp_path / "r.toml"))
    assert next(c for c in engine.consumers(plan) if c.name == "vLLM").loads != "no"
    for stem in {name.rpartition(".")[0] for name in found["schemes"]}:
        for group in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            assert len({found["schemes"].get(f"{stem}.{last}") for last in group}) == 1
    assert not {"lm_head", "model.embed_tokens"} & set(found["schemes"])
    code, found = answer(capsys, "search", language_model, "--budget", "6bpw", "--embeddings", "int8:channel", "--head", "search")
    assert code == 0
    assert "lm_head" in found["schemes"]
    assert 'kind = "embedding"\nscheme = "int8:channel"' in found["recipe"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "30"), "4.5bpw"),
        (("--size", "4.5bpw"), "700MB"),
        (("--compression", "300x"), "need files of"),
        (("--budget", "1bpw"), "at least"),
        (("--budget", "4bpw", "--by", "output"), "no output errors"),
        (("--budget", "4bpw", "--scheme", "int99"), "int99"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(language_model, capsys, arguments, said):
    code, found = answer(capsys, "search", language_model, *arguments)
    assert code == 2
    assert said in found["error"]


def test_nothing_of_the_users_is_overwritten(language_model, tmp_path, capsys):
    (tmp_path / "r.toml").write_text("mine")
    code, found = answer(capsys, "search", language_model, "--budget", "4bpw", "-o", tmp_path / "r.toml")
    assert code == 2
    assert "--overwrite" in found["error"]
    code, found = answer(capsys, "sensitivity", language_model, "-o", tmp_path / "r.toml")
    assert code == 2
    assert (tmp_path / "r.toml").read_text() == "mine"


STOPPED = """
import os, signal, sys
from engine.searching import calls as search_calls
from engine.cli import main
plain = search_calls.tables.measure
def measure(summary, found, monitor, **rest):
    def row(row):
        if row.layer == "model.layers.1.mlp.down_proj":
            os.kill(os.getpid(), signal.SIGINT)
    return plain(summary, found, monitor, **rest | {"on_row": row})
search_calls.tables.measure = measure
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_keeps_what_was_measured(language_model, tmp_path):
    table = tmp_path / "S.json"
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, "sensitivity", str(language_model), "-o", str(table)], capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert "goes on from there" in done.stderr
    partial = engine.load_sensitivity(table)
    known = [row for row in partial.rows if row.signal is not None]
    assert not partial.complete
    assert 0 < len(known) < 28
    resumed = engine.sensitivity(language_model)
    assert resumed.cached == 8 * len(known)
    # What is there can be used: layers not measured stay float.
    found = engine.search(language_model, "12bpw", table=table)
    assert {scheme for name, scheme in found.schemes if name not in {row.layer for row in known}} == {"keep"}


def test_in_python(language_model, make_file):
    table = engine.sensitivity(language_model, ["int4:g128", "int8:channel"])
    found = engine.search(language_model, "5bpw", table=table, algorithm="mse")
    assert 'algorithm = "mse"' in found.recipe
    assert {scheme for _, scheme in found.schemes} <= {"keep", "int4:g128", "int8:channel"}
    other = make_file({"a.weight": torch.ones(64, 128)})
    with pytest.raises(engine.InputError, match="another model"):
        engine.search(other, "5bpw", table=table)


def test_budgets_as_people_write_them():
    assert budget_of("4.5bpw") == Budget("bits", 4.5)
    assert budget_of("1.5 GB") == Budget("bytes", 1.5e9)
    assert budget_of("1GiB") == Budget("bytes", 2.0**30)
    assert budget_of("4x") == Budget("ratio", 4)
    assert budget_of("30dB") == Budget("floor", 30)
    with pytest.raises(engine.RecipeError):
        budget_of("0bpw")
