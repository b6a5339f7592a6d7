"""The window as it is started from a shell: a process of its own that opens what it is given and closes when it is told to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication
from mono_quant_gui import app
from mono_quant_gui.main_window import MainWindow

def look():
    window = next((w for w in QApplication.topLevelWidgets() if isinstance(w, MainWindow)), None)
    if window and window.session.model and window.session.plan.schemes:
        print(window.session.model.path, len(window.session.model.layers), window.isVisible(), flush=True)
        timer.stop()

timer = QTimer(interval=20)
app.application()
timer.timeout.connect(look)
timer.start()
sys.exit(app.main(sys.argv[1:]))
"""


def test_a_path_on_the_command_line_is_opened_and_sigterm_closes_the_window(language_model: Path, tmp_path: Path) -> None:
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    words = [sys.executable, "-c", SCRIPT, str(language_model), "--fresh", "--runs", str(tmp_path / "runs")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        assert process.stdout.readline().split() == [str(language_model), "39", "True"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
