"""Who may import whom, executed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_window_imports_no_torch_and_shows_before_matplotlib() -> None:
    """What ``mono-quant-gui`` has imported when its first window is on the screen."""
    code = (
        "import sys\n"
        "from mono_quant_gui.app import application\n"
        "from mono_quant_gui.main_window import MainWindow\n"
        "from mono_quant_gui.settings import Settings\n"
        "app = application(); window = MainWindow(Settings(fresh=True)); window.show(); app.processEvents()\n"
        "heavy = {'torch', 'numba', 'transformers', 'safetensors', 'matplotlib', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "window.furnish(); heavy |= {'matplotlib'} & set(sys.modules)\n"
        "window.inspector.load_plots()\n"
        "late = {'torch', 'numba', 'transformers', 'safetensors'} & set(sys.modules)\n"
        "window.close(); print(sorted(heavy | late)); sys.exit(bool(heavy | late))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_level_is_fixed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    top = {name.split("/")[0] for name in listed if name and not name.startswith(".")}
    assert top <= {
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "engine", "mono_quant_gui", "tests", "assets",
    }  # fmt: skip


def test_assets_stay_small() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "assets").rglob("*") if file.is_file()) < 8_000_000
