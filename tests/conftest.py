"""Fixtures for all tests. Files are made with the safetensors library and torch, not with the product's writer."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from jaxtyping import install_import_hook
from safetensors.torch import save_file

# Shapes and types in the annotations of the arithmetic are checked at every call while testing.
CHECKED = ("numerics.grids", "numerics.affine", "measure", "algorithms.base", "algorithms.mse", "algorithms.hqq", "fitting")
install_import_hook([f"engine.{name}" for name in CHECKED], "beartype.beartype")

# Runs of tests are no runs of the user's.
os.environ["MONO_QUANT_RUNS"] = _RUNS = tempfile.mkdtemp(prefix="mono-quant-test-runs-")
atexit.register(shutil.rmtree, _RUNS, ignore_errors=True)

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"


@pytest.fixture
def digits() -> Path:
    return SAMPLES / "digits_cnn"


@pytest.fixture
def language_model() -> Path:
    return SAMPLES / "docstring_lm"


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    """``make_file({"layer.weight": tensor}, "name.safetensors")`` writes a file and returns its path."""

    def make(tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
        path = tmp_path / name
        save_file(tensors, path, metadata={"format": "pt"})
        return path

    return make


@pytest.fixture
def gaussian() -> torch.Tensor:
    """A weight with an outlier, a zero row and a constant row."""
    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(7)) * 0.05
    weight[3, 7] = 2.0
    weight[5] = 0.0
    weight[6] = 0.25
    return weight
