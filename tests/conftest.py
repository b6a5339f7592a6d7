"""Fixtures for all tests. Files are made with the safetensors library and torch, not with the product's writer."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["HF_HUB_OFFLINE"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ:
    # `make coverage` measures the workers; what tests start would take twice as long, and runs no line that nothing else does.
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

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

SLOW = {
    "e2e/test_transformers.py", "engine/test_format_properties.py", "engine/test_budget.py", "engine/test_faults_kill.py",
    "engine/test_faults_inputs.py", "engine/test_resuming.py", "gui/test_faults.py", "gui/test_cycles.py",
    "gui/test_runs.py", "gui/test_calibration.py", "gui/test_layers.py", "gui/test_exporting.py", "gui/test_search.py",
    "gui/test_comparing.py", "gui/test_hostile.py", "gui/test_access.py", "engine/test_recording.py",
    "engine/test_calibration_runs.py", "gui/test_mending.py", "gui/test_looking.py",
    "gui/test_engine_kills.py", "gui/test_monkey.py", "engine/test_search_measured.py", "engine/test_hostile_data_commands.py",
    "gui/test_remedies.py", "engine/test_other_processors.py",
}  # fmt: skip
"""Files that take half a minute or more: ``make test`` leaves them out, ``make test-all`` has them."""
SLOW_TESTS = ("test_data_bring_a_language_model_nearer", "test_transformers_computes_the_same_from_the_file")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = "/".join(item.path.parts[-2:])
        if place in SLOW or item.name.startswith(SLOW_TESTS):
            item.add_marker("slow")


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
