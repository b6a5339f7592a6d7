"""The model is cut short, replaced, touched or removed while it is open and while a run goes on: an error that names it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import engine
from tests.engine.faults import SOAK, contents, hidden, make_model, sentence


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copyfile(path, other)
    os.replace(other, path)


def touched(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def rewritten(path: Path) -> None:
    stat = path.stat()
    with open(path, "rb+") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"\x01\x02")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))


def removed(path: Path) -> None:
    path.unlink()


FAULTS = (cut_short, replaced, touched, rewritten, removed)


def sharded(folder: Path) -> Path:
    """A folder of two shards; the second is the one that things happen to."""
    make_model(folder)
    names = [f"layers.{n}.mlp.up_proj.weight" for n in range(4)]
    places = {name: f"model-0000{n // 2 + 1}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(places.values()):
        held = {name: torch.randn(64, 128).bfloat16() for name in names if places[name] == file}
        save_file(held, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / "model-00002-of-00002.safetensors"


def one_file(folder: Path) -> Path:
    return make_model(folder) / "model.safetensors"


def state_dict(folder: Path) -> Path:
    folder.mkdir()
    torch.save({f"{n}.weight": torch.randn(64, 128) for n in range(4)}, folder / "model.pt")
    return folder / "model.pt"


MODELS = (sharded, one_file, state_dict)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("when", ["open", "running"])
def test_a_model_that_changes_is_named(
    tmp_path: Path, make: Callable[[Path], Path], fault: Callable[[Path], None], when: str
) -> None:
    file = make(tmp_path / "model")
    opened = engine.open_model(file if make is state_dict else tmp_path / "model")
    place = tmp_path / "place"
    place.mkdir()

    class Meddling(engine.Monitor):
        done = when == "open"

        def layer_done(self, report: engine.LayerReport) -> None:
            if not self.done:
                self.done = True
                fault(file)

    plan = engine.plan(opened, "int8:channel", format="safetensors")
    if when == "open":
        fault(file)
    with pytest.raises(engine.DataError) as error:
        engine.quantize_to(plan, place / "out.safetensors", monitor=Meddling(), record=False)
    sentence(error.value)
    assert str(file) in str(error.value)
    assert contents(place / "out.safetensors") is None and hidden(place) == []
    assert Meddling.done or when == "running"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_looking_and_exporting_find_out_too(tmp_path: Path, fault: Callable[[Path], None]) -> None:
    model = make_model(tmp_path / "model")
    engine.quantize_to(model, tmp_path / "q.safetensors", "int8:channel", format="safetensors", record=False)
    opened, artifact = engine.open_model(model), engine.open_model(tmp_path / "q.safetensors")
    fault(model / "model.safetensors")
    fault(tmp_path / "q.safetensors")
    trial = engine.try_scheme(opened, "layers.0.mlp.up_proj", "int4:g64")
    assert trial.report is None and str(model / "model.safetensors") in trial.problem
    for call in (
        lambda: engine.layer_histogram(opened, "layers.0.mlp.up_proj"),
        lambda: engine.load_tensors(artifact),
        lambda: engine.export(artifact, tmp_path / "e.safetensors", format="safetensors"),
        lambda: engine.dequantize(artifact, tmp_path / "d.safetensors"),
    ):
        with pytest.raises(engine.DataError) as error:
            call()
        sentence(error.value)
        assert ".safetensors" in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "q.safetensors"}


def test_a_carried_file_that_is_gone_is_named(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    plan = engine.plan(model, "int8:channel")
    (model / "generation_config.json").unlink()
    with pytest.raises(engine.DataError, match=r"generation_config\.json cannot be read any more") as error:
        engine.quantize_to(plan, tmp_path / "out", record=False)
    sentence(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


CALIBRATED = """if 1:
    import engine, json, os, sys
    class Meddling(engine.Monitor):
        def progress(self, progress):
            if progress.stage == sys.argv[4] and os.path.getsize(sys.argv[3]) > 5000:
                os.truncate(sys.argv[3], 5000)
    data = engine.DataSpec(kind="synthetic", samples=4, length=16, batch=2)
    recipe = engine.Recipe(engine.parse_scheme("int4:g128"), algorithm="gptq")
    try:
        engine.quantize_to(sys.argv[1], sys.argv[2], recipe, data=data, monitor=Meddling(), record=False)
    except engine.EngineError as error:
        print(type(error).__name__, error)
    """


@pytest.mark.parametrize("stage", ["calibrating", "quantizing"] if SOAK else ["calibrating"])
def test_a_running_model_that_is_cut_short_ends_no_process(language_model: Path, tmp_path: Path, stage: str) -> None:
    """Weights that a library maps into memory would end it with SIGBUS."""
    model = tmp_path / "model"
    shutil.copytree(language_model, model)
    command = [sys.executable, "-c", CALIBRATED, model, tmp_path / "out", model / "model.safetensors", stage]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert "DataError" in done.stdout and "model.safetensors" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
