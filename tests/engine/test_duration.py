"""The time that a plan states: the throughput of earlier runs of its kind, and nothing where there were none."""

from dataclasses import replace
from pathlib import Path

import pytest

import engine
from engine import cli
from engine.history import Ledger, owners
from engine.planning import duration
from engine.records.run import RunRecord

RECIPE = 'scheme = "int8:channel"\n'


def run(read: int, seconds: float, **changes: object) -> RunRecord:
    totals = {"bytes_before": read, "seconds": seconds, "resumed": [], "reused": []}
    made = RunRecord("x", 1, "/m", RECIPE, "/r", "/a", state="done", machine=owners.machine(), totals=totals)
    return replace(made, **changes)


def test_bytes_over_the_throughput_of_the_runs_nearest_in_size(digits: Path) -> None:
    plan = engine.plan(digits / "model.safetensors", engine.recipe_from_text(RECIPE))
    size = (digits / "model.safetensors").stat().st_size
    near = [run(size, 2.0), run(2 * size, 4.0), run(3 * size, 12.0), run(size, 1.0), run(size, 1.0)]
    far = [run(1000 * size, 1.0), run(2000 * size, 1.0)]
    found = duration.of_runs(plan, far + near)
    assert found == duration.Expected(pytest.approx(20.0 / 8), 5)  # 8 sizes in 20 seconds
    assert duration.of_runs(plan, near[:1]) == duration.Expected(pytest.approx(2.0), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": 'scheme = "int4:g32"\n'}, {"recipe": 'scheme = "int8:channel"\nalgorithm = "mse"\n'}, {"machine": "another"},
        {"data": "texts"}, {"recipe": "of = 'a later version'"}, {"totals": None},
        {"totals": {"bytes_before": 9, "seconds": 1.0, "resumed": ["a"]}},
        {"totals": {"bytes_before": 9, "seconds": 1.0, "reused": ["a"]}},
        {"totals": {"bytes_before": 0, "seconds": 1.0}},
    ],
)  # fmt: skip
def test_runs_of_another_kind_tell_nothing(changes: dict, digits: Path) -> None:
    plan = engine.plan(digits / "model.safetensors", engine.recipe_from_text(RECIPE))
    assert duration.of_runs(plan, [run(100, 1.0, **changes)]) is None


def test_the_command_line_tells_it_after_a_first_run(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MONO_QUANT_RUNS", str(tmp_path / "runs"))
    model, words = str(digits / "model.safetensors"), ["--scheme", "int8:channel"]
    assert cli.main(["plan", model, *words]) == 0
    assert "(estimated: some rows of its layers were encoded just now)" in capsys.readouterr().out
    assert cli.main(["plan", str(digits / "model.safetensors"), "--scheme", "W8A8_STATIC"]) == 0
    assert "disk; how long is not known before a first run of this kind" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()  # to look is not to begin
    assert cli.main(["quantize", model, *words, "-o", str(tmp_path / "out.safetensors")]) == 0
    capsys.readouterr()
    with Ledger(tmp_path / "runs") as ledger:
        (record,) = ledger.find()
    assert record.totals
    assert cli.main(["plan", model, *words]) == 0
    seconds = record.totals["seconds"]  # the same bytes: as long
    said = f"about {seconds:.1f}" if seconds >= 0.05 else "less than 0.1"
    assert f"and {said} s (as fast as 1 earlier run of this kind)" in capsys.readouterr().out
