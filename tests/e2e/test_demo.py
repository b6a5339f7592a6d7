"""``make demo`` without a display: the path a person takes, in the real window, to the files it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import engine

ROOT = Path(__file__).parent.parent.parent


def test_the_demo_leaves_what_it_promises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mono_quant_gui.demo", "--offscreen", "--out", tmp_path / "demo"]
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert len(report["layers"]) == 28 and all(layer["name"] in done.stdout for layer in report["layers"])
    exported = engine.open_model(tmp_path / "demo" / "docstring_lm-W4A16")
    assert exported.quantized and exported.quantized.readable
    assert (tmp_path / "demo" / "workbench.png").read_bytes().startswith(b"\x89PNG")
