"""Places that are refused, files that are not what was planned, and who loads what comes out."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import engine
from engine.errors import Paused
from engine.records.recipe import Recipe
from engine.schemes import parse_scheme
from engine.writers import artifact, layout
from engine.writers.whole import write_text
from engine.writers.workspace import Workspace
from tests.engine.faults import contents, hidden, make_model, sentence


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def quantize(model: Path, out: Path, form: str, **more) -> None:
    engine.quantize_to(model, out, "int4:g64", format=form, record=False, **more)


def refused(model: Path, out: Path, form: str, **more) -> str:
    with pytest.raises(engine.OutputError) as error:
        quantize(model, out, form, **more)
    sentence(error.value)
    return str(error.value)


# -- places ------------------------------------------------------------------------------------------------------------


def test_places_where_nothing_can_go(model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"theirs")
    assert "create it first" in refused(model, tmp_path / "none" / "x.safetensors", "safetensors")
    assert "is a folder; this format is one file" in refused(model, tmp_path / "folder", "safetensors")
    assert "let it end in .safetensors" in refused(model, tmp_path / "x.bin", "safetensors")
    assert "is a file; this format is a folder" in refused(model, tmp_path / "file", "compressed-tensors", overwrite=True)
    assert (tmp_path / "file").read_bytes() == b"theirs" and hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["notes.txt", "inner"])
def test_a_folder_with_something_of_others_is_not_replaced(model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    quantize(model, out, "compressed-tensors")
    (out / name).mkdir() if name == "inner" else (out / name).write_text("mine")
    assert f"holds {name}, which overwriting would delete" in refused(model, out, "compressed-tensors", overwrite=True)
    assert "already exists" in refused(model, out, "compressed-tensors")
    assert (out / name).exists()


def test_a_disk_without_room_is_told_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    assert "and the disk has 0.0 MB free" in refused(model, tmp_path / "x.safetensors", "safetensors")
    assert not (tmp_path / "x.safetensors").exists() and hidden(tmp_path) == []


def test_a_folder_that_may_not_be_looked_into(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(artifact, "_is_empty_folder", refuse)
    (tmp_path / "out").mkdir()
    assert "you may not write there" in refused(model, tmp_path / "out", "compressed-tensors")


def test_an_unknown_format_is_refused_by_name(model: Path) -> None:
    with pytest.raises(engine.RecipeError, match="'gguf' is not an output format; choose compressed-tensors or safetensors"):
        engine.plan(model, "int4:g64", format="gguf")


def test_a_header_beyond_what_readers_take_asks_for_shards(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_HEADER", 500)
    with pytest.raises(engine.PlanError, match=r"model.safetensors would need a header of [\d,]+ bytes; set a shard size"):
        engine.plan(model, "int4:g64", format="compressed-tensors")


# -- what happens meanwhile --------------------------------------------------------------------------------------------


class Meanwhile(engine.Monitor):
    """Does something when the last layer is written and nothing has its name yet."""

    def __init__(self, change: Callable[[Path], object]) -> None:
        self.change = change

    def progress(self, progress: engine.Progress) -> None:
        if progress.stage == "finishing":
            self.change(progress)


def built(folder: Path) -> Path:
    """The file that is being built in a folder."""
    (space,) = folder.glob(".*.mono-quant-*.tmp")
    return space / "artifact"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: os.truncate(path, 100), "bytes on disk instead of"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'"dtype":"I32"', b'"dtype":"I3?"')),
            "x.safetensors does not read back",
        ),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"norm.weight"', b'"nerm.weight"')), "the planned tensors"),
    ],
)
def test_a_file_that_is_not_what_was_planned_gets_no_name(model: Path, tmp_path: Path, change: Callable, words: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monitor = Meanwhile(lambda _: change(built(place)))
    assert words in refused(model, place / "x.safetensors", "safetensors", monitor=monitor)
    assert list(place.iterdir()) == []


def test_what_came_into_being_meanwhile_is_left(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    message = refused(model, out, "safetensors", monitor=Meanwhile(lambda _: out.write_bytes(b"theirs")))
    assert "came into being while the run went on" in message and out.read_bytes() == b"theirs"


def test_a_disk_that_is_full_elsewhere_is_told_in_the_same_words(model: Path, tmp_path: Path) -> None:
    """What solvers keep beside the artifact fails as writing it does."""

    class Full(engine.Monitor):
        def layer_done(self, report: engine.LayerReport) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    assert "the disk is full" in refused(model, tmp_path / "x.safetensors", "safetensors", monitor=Full())
    assert hidden(tmp_path) == []


def test_a_carried_file_that_is_gone_is_named(model: Path, tmp_path: Path) -> None:
    plan = engine.plan(model, "int4:g64", format="compressed-tensors")
    (model / "generation_config.json").unlink()
    with pytest.raises(engine.DataError, match=r"generation_config.json cannot be read any more: No such file"):
        engine.quantize_to(plan, tmp_path / "out", record=False)
    assert hidden(tmp_path) == [] and not (tmp_path / "out").exists()


def test_nothing_is_written_once_the_end_has_come(model: Path, tmp_path: Path) -> None:
    """A thread that is late writes into nothing, and never into a file of others that took its descriptor."""
    plan, out = engine.plan(model, "int4:g64", format="safetensors"), tmp_path / "x.safetensors"
    with Workspace(out) as space, artifact.Artifact(out, plan.files, overwrite=False, workspace=space) as writer:
        pass
    with pytest.raises(engine.OutputError, match="is not being written any more"):
        writer.write("norm.weight", 0, bytes(4))


def test_systems_without_positioned_writing_write_the_same(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows is: no pread, no pwrite, no folders that can be opened, no locks of fcntl."""
    quantize(model, tmp_path / "here", "compressed-tensors")
    for name in ("pwrite", "pread", "preadv", "fdatasync", "O_DIRECTORY"):
        monkeypatch.delattr(os, name)
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(Paused):
        quantize(model, tmp_path / "there", "compressed-tensors", monitor=Halfway())
    report = engine.quantize_to(model, tmp_path / "there", "int4:g64", format="compressed-tensors", record=False, resume=True)
    assert len(report.resumed) == 2 and contents(tmp_path / "there") == contents(tmp_path / "here")


class Halfway(engine.Monitor):
    """Pauses after two layers of three."""

    left = 2

    def layer_done(self, report: engine.LayerReport) -> None:
        self.left -= 1

    def paused(self) -> bool:
        return not self.left


def begun(model: Path, out: Path) -> Path:
    """The file of a paused run."""
    with pytest.raises(Paused):
        quantize(model, out, "safetensors", monitor=Halfway())
    return built(out.parent)


def go_on(model: Path, out: Path) -> int:
    """How many layers were taken over."""
    report = engine.quantize_to(model, out, "int4:g64", format="safetensors", record=False, resume=True)
    return len(report.resumed)


def changed(path: Path) -> None:
    """One byte of the codes written first: a quarter of the file lies before it."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 4] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "taken"), [(lambda _: None, 2), (changed, 1), (lambda path: os.truncate(path, 0), 0)], ids=["whole", "byte", "cut"]
)
def test_only_layers_whose_bytes_are_there_are_taken_over(model: Path, tmp_path: Path, change: Callable, taken: int) -> None:
    quantize(model, tmp_path / "whole.safetensors", "safetensors")
    place = tmp_path / "place"
    place.mkdir()
    change(begun(model, place / "x.safetensors"))
    assert go_on(model, place / "x.safetensors") == taken
    assert (place / "x.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes() and hidden(place) == []


@pytest.mark.parametrize("fails", [True, False], ids=["cannot be read", "ends early"])
def test_bytes_that_cannot_be_read_back_are_computed_again(
    fails: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> bytes:
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return b""

    quantize(model, tmp_path / "whole.safetensors", "safetensors")
    place = tmp_path / "place"
    place.mkdir()
    begun(model, place / "x.safetensors")
    monkeypatch.setattr(artifact, "_pread", read)
    assert go_on(model, place / "x.safetensors") == 0
    assert (place / "x.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_of_a_damaged_earlier_run_only_what_is_whole_is_taken_over(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONO_QUANT_RUNS", str(tmp_path / "runs"))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    engine.quantize_to(model, first, "int4:g64", format="safetensors")
    whole = first.read_bytes()
    with engine.Ledger(tmp_path / "runs") as ledger:
        (run,) = ledger.find()
    changed(first)
    report = engine.quantize_to(model, second, "int4:g64", format="safetensors", record=False, reuse=run.id)
    assert second.read_bytes() == whole != first.read_bytes() and len(report.reused) == 2


def test_a_small_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.toml"
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(engine.OutputError, match=r"recipe.toml cannot be written: No space left on device\."):
        write_text(path, "other")
    assert path.read_bytes() == "größer\n".encode() and hidden(tmp_path) == []


# -- who loads it ------------------------------------------------------------------------------------------------------


def llama(folder: Path, experts: bool = False) -> Path:
    folder.mkdir()
    names = [f"mlp.experts.{n}.{w}_proj" for n in range(2) for w in ("gate", "up", "down")] if experts else ["mlp.down_proj"]
    tensors = {f"model.layers.0.{name}.weight": torch.zeros(64, 192) for name in names}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.mark.parametrize(
    ("scheme", "transformers", "vllm"),
    [
        ("int4:g64:asym", "no: its default load fails on packed zero points", "untested: asymmetric weights"),
        ("int3:g64", "yes: with the compressed-tensors package", "no: it has kernels for 4 and 8 bits only"),
        ("int8:channel", "yes", "yes: on a GPU; it has no CPU kernel"),
        ("int8:tensor", "yes", "untested: this granularity"),
        ("int4:g16", "yes", "untested: this granularity"),
        ("fp8:b64x64", "yes", "untested: this granularity"),
        ("fp8:b128x128", "yes", "untested: blocks do not divide every layer"),
        ("mxfp6", "yes", "untested: mxfp6 weights"),
        ("mxfp4", "yes", "yes: on a GPU"),
        ("int4:g64", "yes", "yes: "),
    ],
)
def test_who_loads_a_folder_is_said(scheme: str, transformers: str, vllm: str, tmp_path: Path) -> None:
    plan = engine.plan(llama(tmp_path / "model"), scheme, format="compressed-tensors")
    found = {who.name: f"{who.loads}: {who.reason}" for who in engine.consumers(plan)}
    assert found["transformers"].startswith(transformers) and found["vLLM"].startswith(vllm)
    assert found["Mono Quant"].startswith("yes")


def test_quantized_inputs_of_experts_fail_in_transformers(tmp_path: Path) -> None:
    recipe = Recipe(parse_scheme("int8:channel"), activations="int8:token")
    first = engine.consumers(engine.plan(llama(tmp_path / "model", experts=True), recipe))[0]
    assert (first.name, first.loads) == ("transformers", "no") and "int-quantized experts fail" in first.reason


def test_blocks_of_integers_are_refused_where_readers_know_those_of_fp8_only(tmp_path: Path) -> None:
    plan = engine.plan(llama(tmp_path / "model"), "int8:b64x64", format="compressed-tensors")
    assert "readers know blocks of fp8 only, not int8:b64x64; use int8:channel" in plan.errors[0].message


def test_names_and_embeddings_that_nobody_tried_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    names = ("embeddings.word_embeddings", "layer.0.intermediate.dense", "layer.0.output.dense")
    save_file({f"{name}.weight": torch.zeros(64, 64) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    recipe = "[[rules]]\nmatch = '*embeddings'\nscheme = 'int8:channel'\n[[rules]]\nmatch = '*dense'\nscheme = 'int4:g32'\n"
    found = {who.name: who for who in engine.consumers(engine.plan(folder, engine.recipe_from_text(recipe)))}
    assert (found["transformers"].loads, found["vLLM"].loads) == ("untested", "untested")
    assert "module names may differ" in found["transformers"].reason and found["vLLM"].reason == "quantized embeddings"


@pytest.mark.parametrize(("scheme", "answer"), [("fp16", "yes: plain tensors"), ("int8", "no: stores codes and scales")])
def test_a_single_file_is_plain_where_its_numbers_are(scheme: str, answer: str, model: Path) -> None:
    found = {who.name: f"{who.loads}: {who.reason}" for who in engine.consumers(engine.plan(model, scheme, format="safetensors"))}
    assert found["safetensors, torch"].startswith(answer)
