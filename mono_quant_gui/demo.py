"""``make demo``: a bundled sample opened, quantized, looked at and exported.

With a display it opens the workbench with a first run. Without one (or with ``--offscreen``) it drives the same session
offscreen and leaves ``build/demo/``: the exported checkpoint, ``report.json`` and ``workbench.png``.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import engine

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "assets" / "samples" / "docstring_lm"
PATIENCE_MS = 600_000


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description="Quantize the bundled sample in the workbench.")
    parser.add_argument("--offscreen", action="store_true", help="drive the session without a display")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "demo", help="where to leave the results")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="also write the README's pictures here")
    options = parser.parse_args()
    if not options.offscreen and _has_display():
        from mono_quant_gui import app

        return app.main([str(SAMPLE), "--fresh", "--quantize", "--runs", str(options.out / "runs")])
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    return _Offscreen(options.out, options.screenshots).run()


def _has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _tell(_kind: Any, _context: Any, message: str) -> None:
    """Qt's warnings, but for one that the offscreen platform makes of every dialog."""
    if "propagateSizeHints" not in message:
        print(message, file=sys.stderr)


class _Offscreen:
    """The path a person takes, taken by a program in the real window with the real engine."""

    def __init__(self, out: Path, screenshots: Path | None) -> None:
        from PySide6.QtCore import qInstallMessageHandler

        from mono_quant_gui import theme
        from mono_quant_gui.app import application
        from mono_quant_gui.main_window import MainWindow
        from mono_quant_gui.session import Session
        from mono_quant_gui.settings import Settings

        out = Path(os.path.relpath(out))  # shown in the pictures: nobody else has this machine's folders
        self.out, self.screenshots = out, screenshots
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        qInstallMessageHandler(_tell)
        self.app = application()
        theme.apply(self.app, "light")
        settings = Settings(fresh=True)
        settings.set_text("runs_folder", str(out / "runs"))
        settings.set_text("export_folder", str(out))
        self.session = Session(settings)
        self.session.failed.connect(self._failed)
        self.window = MainWindow(settings)
        self.window.furnish(self.session)
        self.problem = ""

    def run(self) -> int:
        """Open, quantize, look, export; print what came of it."""
        try:
            self.window.resize(1440, 900)
            self.window.show()
            self.window.inspector.load_plots()
            self.window.open_path(os.path.relpath(SAMPLE))
            self._wait(self.session.plan_changed)
            self.session.quantize()
            self._wait(self.session.run_finished)
            run = self.session.shown_run
            if self.problem or run is None or run.totals is None:
                print(f"The demo failed: {self.problem or 'the run did not end well'}", file=sys.stderr)
                return 1
            worst = run.totals["worst_layer"]
            self.session.select(worst)
            self._settle()
            self._picture("workbench.png")
            exported = self._export(run)
            self._report(run, exported)
            if self.screenshots:
                self._take_screenshots()
            return 1 if self.problem else 0
        finally:
            self.window.close()

    def _export(self, run: Any) -> Path:
        target = self.out / f"{run.artifact.name}-{run.name}"
        dialog = self.window.export(run)
        if self.screenshots:
            os.environ["HOME"] = str(self.out.absolute())  # the picture says ~, not this machine's folders
            dialog.destination.setText(f"~/{target.name}")
        else:
            dialog.destination.setText(str(target.absolute()))
        self._settle()
        if dialog.export_button.isEnabled():
            dialog.export_button.click()
            self._wait(self.session.notice)
            print(dialog.message.text())
        else:
            self._failed(f"The export was not possible: {dialog.message.text()}", "")
        if self.screenshots:
            self._settle()
            self.screenshots.mkdir(parents=True, exist_ok=True)
            self._small(dialog, "export")
        dialog.close()
        return target

    def _report(self, run: Any, exported: Path) -> None:
        from engine.records.codec import to_data

        layers = list(run.reports.values())
        report = run.totals | {"output": str(exported), "layers": [to_data(layer) for layer in layers]}
        (self.out / "report.json").write_text(json.dumps(report), encoding="utf-8")
        width = max(len(layer.name) for layer in layers)
        print(f"{'layer':<{width}}  {'scheme':<12} {'dB':>6} {'max error':>10} {'clipped':>9} {'bytes':>9}")
        for x in layers:
            sqnr = "exact" if x.sqnr_db is None else f"{x.sqnr_db:.2f}"
            print(
                f"{x.name:<{width}}  {x.scheme:<12} {sqnr:>6} {x.max_error:>10.3g} {100 * x.clipped:>7.3f} % {x.bytes_after:>9,}"
            )
        totals = run.totals
        ratio = totals["bytes_before"] / totals["bytes_after"]
        print(
            f"\n{len(layers)} layers quantized, {len(totals['kept'])} kept: {totals['bytes_before']:,} → "
            f"{totals['bytes_after']:,} bytes ({ratio:.2f}×), SQNR {totals['sqnr_db']:.2f} dB, "
            f"worst {totals['worst_sqnr_db']:.2f} dB ({totals['worst_layer']}), {totals['seconds']:.2f} s"
        )
        print(f"Exported to {exported}\nReport      {self.out / 'report.json'}\nPicture     {self.out / 'workbench.png'}")

    def _take_screenshots(self) -> None:
        assert self.screenshots
        for choice in ("light", "dark"):
            self.window.set_theme(choice)
            self._settle()
            self._small(self.window, f"workbench-{choice}")
        for choice in ("light", "dark"):
            self.window.set_theme(choice)
            for name, pane in self._panes().items():
                if name != "inspector":
                    self.window.docks.show(name)  # in front of those in the same place
                self._settle()
                self._small(pane, f"{name}-{choice}")
        self.window.docks.reset()
        self._calibrated_screenshot()

    def _panes(self) -> dict[str, Any]:
        """Every pane by its name."""
        return {"inspector": self.window.inspector, **self.window.docks.by_name}

    def _small(self, widget: Any, name: str) -> None:
        """A picture of 256 colours, whose file is a third of a full one; under QT_SCALE_FACTOR=2 it is twice as fine."""
        from io import BytesIO

        from PIL import Image
        from PySide6.QtCore import QBuffer

        assert self.screenshots
        self.screenshots.mkdir(parents=True, exist_ok=True)
        picture, buffer = widget.grab(), QBuffer()
        buffer.open(QBuffer.OpenModeFlag.ReadWrite)
        picture.save(buffer, "PNG")
        fine = "@2x" if picture.devicePixelRatio() > 1 else ""
        image = Image.open(BytesIO(bytes(buffer.data().data()))).convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(self.screenshots / f"{name}{fine}.png", optimize=True)

    def _calibrated_screenshot(self) -> None:
        """A run with data: outputs beside weights, and what a layer was given."""
        self.window.set_theme("light")
        self.session.calibrating.choose(engine.DataSpec(os.path.relpath(SAMPLE / "calibration.txt"), samples=32))
        recipe = dataclasses.replace(self.session.recipe, algorithm="gptq")
        self.session.edit_recipe(recipe, "algorithm")
        self._wait(self.session.plan_changed)
        self.session.quantize()
        self._wait(self.session.run_finished)
        run = self.session.shown_run
        if self.problem or run is None or run.totals is None:
            return  # a picture of something else would be worse than none
        self.session.select(run.totals["worst_layer"])
        self._settle()
        self._small(self.window, "calibrated")

    def _picture(self, name: str) -> None:
        self.window.grab().save(str(self.out / name))

    def _failed(self, message: str, _details: str) -> None:
        self.problem = message
        print(message, file=sys.stderr)

    def _wait(self, signal: Any) -> None:
        """Until a signal, or until something failed, or for three minutes."""
        from PySide6.QtCore import QEventLoop, QTimer

        loop = QEventLoop()
        signal.connect(loop.quit)
        self.session.failed.connect(loop.quit)
        timer = QTimer()
        timer.setSingleShot(True)
        timer.timeout.connect(loop.quit)
        timer.start(PATIENCE_MS)
        if not self.problem:
            loop.exec()
        if not timer.isActive():
            self.problem = "it took too long"
        timer.stop()
        signal.disconnect(loop.quit)
        self.session.failed.disconnect(loop.quit)

    def _settle(self) -> None:
        """Let pending answers and paints arrive."""
        from PySide6.QtCore import QEventLoop, QTimer

        loop = QEventLoop()
        QTimer.singleShot(600, loop.quit)
        loop.exec()


if __name__ == "__main__":
    sys.exit(main())
