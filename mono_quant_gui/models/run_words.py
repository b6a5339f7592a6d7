"""What came of a run, or how far it is, in words."""

from typing import Any

from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.run import Run


def result_words(run: Run) -> str:
    """What came of a finished run, beside its numbers."""
    totals = run.totals or {}
    count = len(run.warnings)
    words = [(tr("⚠ {count} warning") if count == 1 else tr("⚠ {count} warnings")).format(count=count)] if count else []
    words += [text.evaluation(run.evaluation)] if run.evaluation else []
    if taken := len(totals.get("reused") or ()):
        words.append(tr("{count:,} layers taken from the run before").format(count=taken))
    if totals.get("worst_layer"):
        words.append(
            tr("worst {value} dB · {layer}").format(
                value=f"{totals['worst_sqnr_db']:.1f}", layer=text.plain(totals["worst_layer"])
            )
        )
    return " · ".join(words)


def progress_words(progress: dict[str, Any] | None) -> str:
    """How far a run is, and on what."""
    if not progress:
        return tr("starting")
    if progress["stage"] == "finishing":
        return tr("finishing")
    share, left = part(progress), progress["seconds_left"]
    words = [f"{100 * share:.0f} %"]
    words += [tr("{time} left").format(time=text.duration(left))] if left is not None else []
    words += [] if progress["stage"] == "quantizing" else [text.plain(progress["stage"])]
    return " · ".join([*words, *([text.plain(progress["layer"])] if progress["layer"] else [])])


def part(progress: dict[str, Any]) -> float:
    """How far a run is, 0 to 1."""
    return progress["done"] / progress["total"] if progress["total"] else 1.0
