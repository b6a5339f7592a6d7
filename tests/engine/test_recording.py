"""Runs in the ledger: what the calls and the command line put there, and that a run can be done again."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import engine
from engine import identity
from engine.numerics import checksum
from engine.records.run import RunRecord


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MONO_QUANT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def recorded(runs: Path) -> list[RunRecord]:
    with engine.Ledger(runs) as ledger:
        return ledger.find()


def command(*arguments: object, expect: int = 0) -> dict:
    done = subprocess.run([sys.executable, "-m", "engine", *map(str, arguments), "--json"], capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout)


def hashes(artifact: Path) -> dict[str, str]:
    paths = artifact.iterdir() if artifact.is_dir() else [artifact]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_run_is_recorded_with_all_that_decides_it(language_model: Path, tmp_path: Path, runs: Path) -> None:
    report = engine.quantize_to(language_model, tmp_path / "out", "W4A16", shard_size=1_000_000)
    (run,) = recorded(runs)
    assert (run.id, run.state, run.name, run.model_path) == (report.run, "done", "W4A16", str(language_model.absolute()))
    assert run.artifact == str(tmp_path / "out") and engine.recipe_from_text(run.recipe).name == "W4A16"
    assert run.arguments == {"format": "compressed-tensors", "measure": 16, "shard_size": 1_000_000}
    assert {"mono-quant", "torch", "numba", "python"} <= run.versions.keys() and "cores" in run.machine
    assert run.totals and run.totals["bytes_after"] == report.bytes_after
    with engine.Ledger(runs) as ledger:
        assert ledger.report(run.id) == report


def test_the_model_is_known_by_its_contents(make_file: Callable[..., Path], tmp_path: Path, runs: Path) -> None:
    weight, bias = torch.randn(64, 128), torch.zeros(64)
    first = make_file({"a.weight": weight, "a.bias": bias}, "first.safetensors")
    report = engine.quantize_to(first, tmp_path / "1.safetensors", "int8:channel")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(first.read_bytes())
    again = engine.quantize_to(copy, tmp_path / "2.safetensors", "int4:g64")
    bias[3] = 1e-30
    other = engine.quantize_to(make_file({"a.weight": weight, "a.bias": bias}), tmp_path / "3.safetensors", "int4:g64")
    assert report.content_hash == again.content_hash != other.content_hash
    assert {run.model_hash for run in recorded(runs)} == {report.content_hash, other.content_hash}
    # By hand: the sum of the weight's bytes as the checksum's own definition gives it.
    words = weight.numpy().view("<u8").reshape(-1).tolist()
    assert int(report.layers[0].checksum, 16) == sum(w * _splitmix(j) for j, w in enumerate(words)) % 2**64
    assert identity.contents(engine.open_model(first), {"a.weight": 1}) == ""
    assert checksum.piece(0, b"") == 0


def _splitmix(index: int) -> int:
    """The index-th number of SplitMix64 from seed 0, made odd (Steele, Lea and Flood 2014)."""
    mask = 2**64 - 1
    z = ((index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) | 1


def test_failures_and_cancellations_are_recorded(make_file: Callable[..., Path], tmp_path: Path, runs: Path) -> None:
    weight = torch.randn(64, 128)
    bad = weight.clone()
    bad[1, 2] = float("nan")
    source = make_file({"good.weight": weight, "bad.weight": bad})
    with pytest.raises(engine.DataError):
        engine.quantize_to(source, tmp_path / "o.safetensors", "int8:channel")

    class Stopped(engine.Monitor):
        def cancelled(self) -> bool:
            return True

    with pytest.raises(engine.Cancelled):
        engine.quantize_to(source, tmp_path / "o.safetensors", "int8:channel", monitor=Stopped())
    with pytest.raises(engine.OutputError):
        engine.quantize_to(source, tmp_path / "no" / "o.safetensors", "int8:channel")
    cancelled, failed = recorded(runs)
    assert (cancelled.state, failed.state) == ("cancelled", "failed")
    assert "NaN at index [1, 2]" in failed.message and failed.failures.keys() == {"bad"}
    with engine.Ledger(runs) as ledger:
        assert [layer.name for layer in ledger.layers(failed.id)] == ["good"]


def test_a_ledger_that_cannot_be_written_is_a_warning(
    make_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MONO_QUANT_RUNS", str(tmp_path / "file"))
    source = make_file({"a.weight": torch.randn(64, 128)})
    report = engine.quantize_to(source, tmp_path / "o.safetensors", "int8:channel")
    assert report.run == "" and report.warnings[0].startswith("The run was not recorded: ")
    assert engine.open_model(tmp_path / "o.safetensors").quantized
    assert engine.quantize_to(source, tmp_path / "p.safetensors", "int8:channel", record=False).warnings == ()


def test_a_rerun_gives_the_same_bytes(language_model: Path, tmp_path: Path, runs: Path) -> None:
    done = command("quantize", language_model, "--scheme", "W4A16", "--algorithm", "hqq", "-o", tmp_path / "one")
    again = command("runs", "rerun", done["run"][:6], "-o", tmp_path / "two")
    assert again["identical"] is True and again["model_changed"] is False and again["again"] == done["run"]
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two") and len(hashes(tmp_path / "one")) > 2
    (tmp_path / "one" / "config.json").write_text("{}")
    assert command("runs", "rerun", done["run"], "-o", tmp_path / "three")["identical"] is False


def test_a_calibrated_rerun_gives_the_same_bytes(language_model: Path, tmp_path: Path, runs: Path) -> None:
    (tmp_path / "text.jsonl").write_text(
        "\n".join(json.dumps({"text": "Returns the sum of two numbers. " * 40}) for _ in range(4))
    )
    arguments = ["--scheme", "W4A16", "--algorithm", "gptq", "--data", tmp_path / "text.jsonl", "--samples", 2, "--length", 64]
    done = command("quantize", language_model, *arguments, "--measure", 0, "-o", tmp_path / "one")
    (run,) = recorded(runs)
    assert run.seed == 0 and run.data_hash and run.arguments["data"]["length"] == 64
    command("runs", "rerun", done["run"], "-o", tmp_path / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_what_came_from_a_program_is_told_and_not_repeated(tmp_path: Path, runs: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(64, 32))
    report = engine.quantize_to(network, tmp_path / "o.safetensors", "int8:channel", data=[torch.randn(4, 64)])
    assert report.run and "by a program" in command("runs", "rerun", report.run, "-o", tmp_path / "p", expect=2)["error"]


def test_runs_are_listed_edited_exported_and_deleted(language_model: Path, tmp_path: Path, runs: Path) -> None:
    ids = [
        engine.quantize_to(language_model, tmp_path / f"{scheme[:4]}.safetensors", scheme, format="safetensors").run
        for scheme in ("int8:channel", "int4:g64")
    ]
    edited = command(
        "runs", "edit", ids[0], "--note", "for the phone", "--tag", "small", "--tag", "b", "--star", "--name", "Mine"
    )
    assert (edited["note"], edited["tags"], edited["starred"], edited["name"]) == ("for the phone", ["small", "b"], True, "Mine")
    assert [run["id"] for run in command("runs", "list")["runs"]] == ids[::-1]
    assert [run["id"] for run in command("runs", "list", "PHONE", "mine", "--starred")["runs"]] == ids[:1]
    assert command("runs", "list", "--state", "failed")["runs"] == []
    listed = command("runs", "list", "--model", language_model)
    assert 0 < listed["runs"][0]["bytes"] < listed["bytes"]
    shown = command("runs", "show", ids[1][:8])
    assert shown["number"] == 2 and len(shown["layers"]) == 28 and shown["layers"][0]["scheme"] == "int4:g64"
    command("runs", "export", ids[1], "-o", tmp_path / "run.csv")
    rows = list(csv.DictReader((tmp_path / "run.csv").open()))
    assert [row["name"] for row in rows] == [layer["name"] for layer in shown["layers"]]
    assert float(rows[0]["sqnr_db"]) == pytest.approx(shown["layers"][0]["sqnr_db"])
    command("runs", "export", ids[1], "-o", tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text())["layers"] == shown["layers"]
    gone = command("runs", "delete", ids[1])
    assert gone["deleted"] == ids[1:] and gone["bytes"] > 0 and [run.id for run in recorded(runs)] == ids[:1]
    assert os.path.exists(tmp_path / "int4.safetensors")
    command("runs", "delete", "--state", "done")
    assert recorded(runs) == [] and "Name the runs" in command("runs", "delete", expect=2)["error"]
    assert "There is no run" in command("runs", "show", "zzz", expect=2)["error"]
