"""Bytes of tensors by position: of files that stay, and of files that change, shrink or go while they are read."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import engine
from engine.readers.source import TensorFiles, from_rows


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(1)
    tensors = {f"layers.{n}.weight": torch.randn(64, 128, generator=draw) for n in range(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [("fc.weight", (5, 7), 0), ("deconv.weight", (5, 7, 3, 3), 1), ("block.experts.up_proj", (4, 5, 7), 2)],
)
def test_rows_are_output_channels_wherever_they_lie(name: str, shape: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    """Of fused experts the rows of each matrix stand together; and back again."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2)).half()
    save_file({name: weight}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}')
    (layer,) = (model := engine.open_model(tmp_path)).layers
    assert layer.axis == axis
    with TensorFiles(model) as files:
        rows = files.read_rows(layer)
    expected = weight.movedim(axis, 1 if "experts" in name else 0)
    np.testing.assert_array_equal(rows, expected.contiguous().view(torch.uint8).numpy().reshape(-1))
    np.testing.assert_array_equal(from_rows(rows, layer, "F16"), weight.view(torch.uint8).numpy().reshape(-1))


@pytest.mark.parametrize("how", ["positioned", "with one position"])
def test_weights_that_are_no_rows_are_read_in_their_order(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "with one position":  # as on Windows
        monkeypatch.delattr(os, "preadv")
    base = torch.arange(48.0).reshape(6, 8)
    torch.save({"turned": base.t(), "part": base[1:3]}, tmp_path / "x.pt")
    loaded = engine.load_tensors(tmp_path / "x.pt")
    assert torch.equal(loaded["turned"], base.t()) and torch.equal(loaded["part"], base[1:3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (os.unlink, "model.safetensors was removed while it was being read (No such file or directory)."),
        (os.utime, "model.safetensors changed while it was being read; start again."),
        (lambda path: os.truncate(path, 1000), "model.safetensors ends early; it was cut short after it was opened."),
    ],
    ids=["removed", "touched", "cut short"],
)
def test_a_model_that_does_not_stay_ends_its_run_by_name(
    change: Callable, words: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meanwhile(engine.Monitor):
        done = False

        def layer_done(self, report: engine.LayerReport) -> None:
            if not self.done:
                self.done = True
                change(weights)

    with pytest.raises(engine.DataError) as error:
        engine.quantize_to(weights, tmp_path / "out.safetensors", "int8:channel", record=False, monitor=Meanwhile())
    assert words in str(error.value) and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("cannot", ["preadv", "open"])
def test_weights_that_cannot_be_read_name_their_file(cannot: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    model = engine.open_model(weights)
    monkeypatch.setattr(os, cannot, fail)
    with pytest.raises(engine.DataError, match=r"model.safetensors: Input/output error\."):
        engine.load_tensors(model)
