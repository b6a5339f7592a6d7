"""Runs that go on after a kill or a pause, and runs that take layers over from earlier ones: the bytes of an ordinary run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import engine
from engine.errors import Paused
from engine.records.run import RunRecord
from engine.running import saved


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MONO_QUANT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def contents(artifact: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in ([artifact] if artifact.is_file() else artifact.iterdir())}


def recorded(runs: Path) -> list[RunRecord]:
    with engine.Ledger(runs) as ledger:
        return ledger.find()


class PauseAfter(engine.Monitor):
    def __init__(self, layers: int) -> None:
        self.left, self.seen = layers, []

    def layer_done(self, report: engine.LayerReport) -> None:
        self.seen.append(report.name)
        self.left -= 1

    def paused(self) -> bool:
        return self.left <= 0


class Seen(engine.Monitor):
    def __init__(self) -> None:
        self.layers: list[str] = []
        self.last: engine.Progress | None = None

    def layer_done(self, report: engine.LayerReport) -> None:
        self.layers.append(report.name)

    def progress(self, progress: engine.Progress) -> None:
        self.last = progress


KILLED = """if 1:
    import engine, os, signal, sys
    class Monitor(engine.Monitor):
        left = int(sys.argv[3])
        def layer_done(self, report):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
    engine.quantize_to(sys.argv[1], sys.argv[2], sys.argv[4], monitor=Monitor(), overwrite=True)
    """


def killed(model: Path, out: Path, layers: int, recipe: str = "W4A16") -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(model), str(out), str(layers), recipe], check=False)
    assert done.returncode == -signal.SIGKILL


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out", "out.safetensors"])
def test_a_killed_run_goes_on_after_its_last_finished_layer(language_model: Path, place: Path, runs: Path, target: str) -> None:
    form = "safetensors" if "." in target else "compressed-tensors"
    plan = engine.plan(language_model, "W4A16", format=form)
    engine.quantize_to(plan, place / "whole.safetensors" if "." in target else place / "whole", record=False)
    source = language_model if form == "compressed-tensors" else language_model / "model.safetensors"
    killed(source, place / target, 11)
    assert not (place / target).exists() and len(list(place.iterdir())) == 2
    watch = Seen()
    report = engine.quantize_to(source, place / target, "W4A16", resume=True, monitor=watch)
    first = [layer.name for layer in report.layers][:11]
    assert set(first) <= set(report.resumed) and not {layer.name for layer in report.layers[11:]} & set(report.resumed)
    assert watch.layers == [layer.name for layer in report.layers]
    assert watch.last and watch.last.done == watch.last.total
    whole = place / ("whole.safetensors" if "." in target else "whole")
    if form == "compressed-tensors":
        assert contents(place / target) == contents(whole)
    else:
        ordinary = engine.quantize_to(source, place / "again.safetensors", "W4A16", record=False)
        assert contents(place / target).popitem()[1] == contents(place / "again.safetensors").popitem()[1]
        assert ordinary.sqnr_db == report.sqnr_db and ordinary.content_hash == report.content_hash
    assert not [path for path in place.iterdir() if path.name.startswith(".")]
    (run,) = recorded(runs)
    assert (run.id, run.state) == (report.run, "done")


def test_a_paused_run_is_kept_until_it_goes_on(language_model: Path, place: Path, runs: Path) -> None:
    with pytest.raises(Paused, match=r"Paused after \d+ of 39 layers"):
        engine.quantize_to(language_model, place / "out", "W8A16", monitor=PauseAfter(5))
    (run,) = recorded(runs)
    assert run.state == "unfinished" and "Paused after" in run.message
    with engine.Ledger(runs) as ledger:
        assert len(ledger.layers(run.id)) == 5
    # A run to another place leaves it alone; what no ledger answers for goes.
    engine.quantize_to(language_model, place / "other", "W8A16")
    assert len([path for path in place.iterdir() if path.name.startswith(".out.")]) == 1
    report = engine.quantize_to(language_model, place / "out", "W8A16", resume=True)
    assert report.run == run.id and len([name for name in report.resumed if name in {x.name for x in report.layers}]) == 5
    assert contents(place / "out") == contents(place / "other")
    assert {path.name for path in place.iterdir()} == {"out", "other"}


def test_an_ordinary_run_to_the_same_place_begins_anew_and_clears_up(language_model: Path, place: Path) -> None:
    killed(language_model, place / "out", 3)
    report = engine.quantize_to(language_model, place / "out", "W4A16")
    assert report.resumed == () and [path.name for path in place.iterdir()] == ["out"]


def test_what_a_deleted_run_left_is_cleared_by_the_next_one(language_model: Path, place: Path, runs: Path) -> None:
    killed(language_model, place / "out", 3)
    with engine.Ledger(runs) as ledger:
        ledger.take_over()
        ledger.delete(ledger.find()[0].id)
    engine.quantize_to(language_model, place / "other", "fp16")
    assert [path.name for path in place.iterdir()] == ["other"]


def test_another_recipe_or_a_changed_model_begins_anew(make_file: Callable[..., Path], place: Path) -> None:
    weights = {f"layers.{n}.weight": torch.randn(64, 128) for n in range(6)}
    source = make_file(weights)
    killed(source, place / "out.safetensors", 3, "int4:g64")
    report = engine.quantize_to(source, place / "out.safetensors", "int8:channel", resume=True)
    assert report.resumed == ()
    killed(source, place / "out.safetensors", 3, "int4:g64")
    weights["layers.0.weight"][0, 0] += 1
    make_file(weights)
    report = engine.quantize_to(source, place / "out.safetensors", "int4:g64", resume=True, overwrite=True)
    assert report.resumed == () and [path.name for path in place.iterdir()] == ["out.safetensors"]


def test_bytes_that_were_lost_are_computed_again(language_model: Path, place: Path) -> None:
    """As after a failure of power: the journal says more than the disk holds."""
    engine.quantize_to(language_model, place / "whole", "W4A16")
    killed(language_model, place / "out", 11)
    (left,) = [path for path in place.iterdir() if path.name.startswith(".")]
    file = left / "artifact" / "model.safetensors"
    plan = engine.plan(language_model, "W4A16")
    offsets = dict(plan.files[[f.path for f in plan.files].index("model.safetensors")].offsets)
    quantized = [line for line in plan.layers if not line.kept]
    damaged = quantized[4]
    with open(file, "rb+") as raw:
        raw.seek(offsets[damaged.parts[0].name] + 5)
        raw.write(b"\0\0\0\0")
    with open(left / "journal", "a") as journal:
        journal.write('{"layer": "torn')
    report = engine.quantize_to(language_model, place / "out", "W4A16", resume=True)
    assert damaged.layer.name not in report.resumed and quantized[3].layer.name in report.resumed
    assert contents(place / "out") == contents(place / "whole")


def test_a_calibrated_run_does_not_solve_again_what_was_solved(
    language_model: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"Returns the sum of {n} numbers. " * 40}) for n in range(4)))
    data = engine.DataSpec(str(text), samples=2, length=64)
    recipe = engine.Recipe(engine.parse_scheme("int4:g128"), algorithm="smoothquant+gptq+bias")
    engine.quantize_to(language_model, place / "whole", recipe, data=data, measure=0)

    class PauseSolving(engine.Monitor):
        solving = 0

        def progress(self, progress: engine.Progress) -> None:
            self.solving += progress.stage == "solving"

        def paused(self) -> bool:
            return self.solving > 12

    with pytest.raises(Paused):
        engine.quantize_to(language_model, place / "out", recipe, data=data, measure=0, monitor=PauseSolving())
    solved = counted(monkeypatch)
    report = engine.quantize_to(language_model, place / "out", recipe, data=data, measure=0, resume=True)
    assert len(solved) == 28 - 13 and len(report.layers) == 28
    assert contents(place / "out") == contents(place / "whole")
    assert {path.name for path in place.iterdir()} == {"out", "whole"}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that are solved from now on."""
    names: list[str] = []
    inner = saved.SavedSolutions.put

    def put(self, name, *more) -> None:
        names.append(name)
        inner(self, name, *more)

    monkeypatch.setattr(saved.SavedSolutions, "put", put)
    return names


def test_the_command_line_pauses_at_sigterm_and_goes_on(tmp_path: Path, place: Path, runs: Path) -> None:
    source, shape = tmp_path / "big.safetensors", [1 << 12, 1 << 12]
    size = 2 * shape[0] * shape[1]
    header = {f"{n}.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [n * size, (n + 1) * size]} for n in range(12)}
    text = json.dumps(header).encode()
    with open(source, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 12 * size)  # zeros that take no room
    command = [sys.executable, "-m", "engine", "quantize", source, "--scheme", "int8:channel", "-o", place / "out.safetensors"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any("weight" in j.read_text() for j in place.glob(".out*/journal")):
        pass
    process.terminate()
    assert "Paused after" in process.communicate()[1] and process.returncode == 130
    (run,) = recorded(runs)
    assert run.state == "unfinished" and not (place / "out.safetensors").exists()
    done = subprocess.run([sys.executable, "-m", "engine", "runs", "resume", run.id, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["run"] == run.id and 0 < len(document["resumed"]) < 12
    engine.quantize_to(source, place / "whole.safetensors", "int8:channel")
    assert (place / "out.safetensors").read_bytes() == (place / "whole.safetensors").read_bytes()
    again = subprocess.run([sys.executable, "-m", "engine", "runs", "resume", run.id], capture_output=True, text=True)
    assert again.returncode == 2 and "only unfinished runs go on" in again.stderr


def test_deleting_an_unfinished_run_removes_what_it_left(language_model: Path, place: Path, runs: Path) -> None:
    killed(language_model, place / "out", 3)
    (run,) = recorded(runs)
    done = subprocess.run([sys.executable, "-m", "engine", "runs", "delete", run.id], capture_output=True, text=True)
    assert done.returncode == 0 and list(place.iterdir()) == [] and recorded(runs) == []


# -- taking over -------------------------------------------------------------------------------------------------------

MENDED = 'scheme = "int4:g128"\nalgorithm = "hqq"\n[[rules]]\nmatch = "*layers.1.mlp.down_proj"\nscheme = "int8:channel"\n'


@pytest.fixture
def first(language_model: Path, place: Path) -> engine.RunReport:
    recipe = engine.recipe_from_text('scheme = "int4:g128"\nalgorithm = "hqq"\n')
    return engine.quantize_to(language_model, place / "first", recipe)


@pytest.fixture
def whole(language_model: Path, place: Path) -> Iterator[dict[str, bytes]]:
    engine.quantize_to(language_model, place / "whole", engine.recipe_from_text(MENDED), record=False)
    yield contents(place / "whole")


def mend(model: Path, place: Path, reuse: str | Path) -> engine.RunReport:
    return engine.quantize_to(model, place / "mended", engine.recipe_from_text(MENDED), reuse=reuse)


def test_only_changed_layers_are_computed(language_model: Path, place: Path, runs: Path, first, whole) -> None:
    report = mend(language_model, place, first.run)
    names = [layer.name for layer in report.layers]
    assert set(names) - set(report.reused) == {"model.layers.1.mlp.down_proj"}
    assert contents(place / "mended") == whole
    before = {layer.name: layer for layer in first.layers}
    assert all(layer.sqnr_db == before[layer.name].sqnr_db for layer in report.layers if layer.name in report.reused)
    child, parent = recorded(runs)
    assert child.parent == parent.id == first.run and child.model_hash == parent.model_hash
    # And by the run's folder, as the window asks.
    again = engine.quantize_to(language_model, place / "again", engine.recipe_from_text(MENDED), reuse=parent.folder)
    assert again.reused == report.reused and contents(place / "again") == whole


def test_a_damaged_artifact_is_not_believed(language_model: Path, place: Path, first, whole) -> None:
    codes = next(layer for layer in engine.open_model(place / "first").layers if layer.scheme).parts[0]
    with open(place / "first" / "model.safetensors", "rb+") as file:
        file.seek(codes.offset + 7)
        byte = file.read(1)
        file.seek(codes.offset + 7)
        file.write(bytes([byte[0] ^ 1]))
    report = mend(language_model, place, first.run)
    assert len(report.reused) == 26 and contents(place / "mended") == whole


def test_a_changed_weight_is_computed(make_file: Callable[..., Path], place: Path) -> None:
    weights = {f"layers.{n}.weight": torch.randn(64, 128) for n in range(4)}
    source = make_file(weights)
    first = engine.quantize_to(source, place / "first.safetensors", "int4:g64")
    weights["layers.2.weight"][5, 5] = 3.0
    make_file(weights)
    report = engine.quantize_to(source, place / "second.safetensors", "int4:g64", reuse=first.run)
    assert report.reused == ("layers.0", "layers.1", "layers.3")
    engine.quantize_to(source, place / "third.safetensors", "int4:g64")
    assert (place / "second.safetensors").read_bytes() == (place / "third.safetensors").read_bytes()


def test_layers_that_share_a_scale_change_together(make_file: Callable[..., Path], place: Path) -> None:
    names = [f"layers.{n}.self_attn.{p}_proj.weight" for n in range(2) for p in "qkv"]
    weights = {name: torch.randn(64, 128).bfloat16() for name in names}
    source = make_file(weights)
    first = engine.quantize_to(source, place / "first.safetensors", "nvfp4")
    weights["layers.1.self_attn.k_proj.weight"][0, 0] = 50.0
    make_file(weights)
    report = engine.quantize_to(source, place / "second.safetensors", "nvfp4", reuse=first.run)
    assert set(report.reused) == {name.removesuffix(".weight") for name in names[:3]}
    engine.quantize_to(source, place / "third.safetensors", "nvfp4")
    assert (place / "second.safetensors").read_bytes() == (place / "third.safetensors").read_bytes()


def test_transposed_weights_are_taken_over_too(tmp_path: Path, place: Path) -> None:
    torch.save({"h.0.attn.c_attn.weight": torch.randn(128, 64).t(), "b.weight": torch.randn(64, 128)}, tmp_path / "model.pt")
    first = engine.quantize_to(tmp_path / "model.pt", place / "1.safetensors", "int8:channel")
    report = engine.quantize_to(tmp_path / "model.pt", place / "2.safetensors", "int8:channel", reuse=first.run)
    assert len(report.reused) == len(report.layers) == 2
    assert load_file(place / "1.safetensors").keys() == load_file(place / "2.safetensors").keys()
    assert (place / "1.safetensors").read_bytes() == (place / "2.safetensors").read_bytes()


def test_an_artifact_that_is_gone_is_a_warning_and_a_run_that_is_not_there_an_error(
    language_model: Path, place: Path, first, whole
) -> None:
    os.rename(place / "first", place / "elsewhere")
    report = mend(language_model, place, first.run)
    assert report.reused == () and "No layer was taken over from run 1: its artifact is not there" in report.warnings[0]
    assert contents(place / "mended") == whole
    with pytest.raises(engine.InputError, match="There is no run"):
        mend(language_model, place, "0123")
    with pytest.raises(engine.InputError, match="is not the folder of a run"):
        mend(language_model, place, place)
