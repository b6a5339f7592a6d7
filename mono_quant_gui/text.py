"""Numbers and names as people read them."""

import math
import os
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.records.calibration import DataSpec

NO_MARKUP = "\N{ZERO WIDTH SPACE}"


def size(count: int | float) -> str:
    """Bytes in decimal units: 2.20 GB, 5.95 MB, 812 B."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale * 0.9995:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} B"


def exact_bytes(count: int) -> str:
    return f"{count:,} bytes"


def count(number: int) -> str:
    """Parameters: 1.10 B, 337 k."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale * 0.9995:
            return f"{number / scale:.3g} {unit}"
    return str(number)


def decibel(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1f}"


def duration(seconds: float) -> str:
    """40 ms, 0.4 s, 12 s, 1:12, 2:03:04."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shape(sizes: list[int] | tuple[int, ...]) -> str:
    return "×".join(map(str, sizes)) or "scalar"


def plain(text: str, limit: int = 300) -> str:
    """Text from a file for a label: control characters visible, never too long, never markup.

    Tooltips and message boxes guess whether they are given HTML: nothing that they would take for a tag or for ``&lt;`` is left.
    """
    shown = "".join(c if c.isprintable() else "·" for c in text)
    if "<" in shown or "&lt;" in shown:
        shown = shown.replace("<", f"<{NO_MARKUP}").replace("&lt;", f"&{NO_MARKUP}lt;")
    return shown if len(shown) <= limit else shown[: limit // 2] + "…" + shown[-limit // 2 :]


def share(fraction: float) -> str:
    """A fraction as a percentage with a sensible number of digits."""
    percent = 100 * fraction
    if percent == 0:
        return "0 %"
    return f"{percent:.3f} %" if percent < 0.1 else f"{percent:.2f} %" if percent < 10 else f"{percent:.0f} %"


def path(where: str) -> str:
    """A path as people would write it from where they are: relative below the working folder, ~ below home."""
    absolute = os.path.abspath(where)
    here, home = os.getcwd(), os.path.expanduser("~")
    if absolute.startswith(here + os.sep):
        return plain(os.path.relpath(absolute, here))
    return plain("~" + absolute[len(home) :] if absolute.startswith(home + os.sep) else absolute)


NOUNS = {"images": "images", "text": "text samples", "table": "rows", "synthetic": "synthetic samples"}


def data(spec: "DataSpec", kind: str = "", count: int | None = None) -> str:
    """Calibration data in two words: 128 texts, all images. ``kind`` and ``count`` as they were found by reading."""
    kind = kind or spec.kind or ("" if spec.path else "synthetic")
    noun = "texts" if kind == "text" and not spec.packed else NOUNS.get(kind, "samples")
    number = spec.samples if count is None else count
    return f"{number:,} {noun}" if number else f"all {noun}"


def evaluation(found: Mapping[str, Any]) -> str:
    """How a quantized model does beside the float one, in one line."""
    words = []
    for key, scale, form, unit in (("accuracy", 100, ".1f", " %"), ("perplexity", 1, ".2f", "")):
        after = found["quantized"][key]
        before = found["original"][key] if found["original"] else None
        if after is not None:
            was = "" if before is None else f"{scale * before:{form}} → "
            words.append(f"{key} {was}{scale * after:{form}}{unit}")
    if found["original"]:
        words.append(f"outputs {output_db(found['output_sqnr_db'])}")
    if found["agreement"] is not None:
        words.append(f"same prediction {share(found['agreement'])}")
    if found["kl_divergence"] is not None:
        words.append(f"KL {found['kl_divergence']:.2g}")
    words.append(f"on {found['samples']:,} {'synthetic ' * found['synthetic']}samples")
    return " · ".join(words)


def figure(value: float) -> str:
    """Four digits, and a minus as plots write it."""
    return f"{value:.4g}".replace("-", "−")


def output_db(value: float | None) -> str:
    """An SQNR of outputs; None means that they are equal."""
    return "exact" if value is None else f"{value:.1f} dB"


def certificate(found: Mapping[str, Any]) -> str:
    """A certificate in a sentence or two."""
    failures = [failure for check in found["checks"] for failure in check["failures"]]
    if failures:
        more = " The certificate has what else is wrong." if len(failures) > 1 else ""
        return f"Not certified: {failures[0]}{more}"
    passed = [check for check in found["checks"] if check["outcome"] == "passed"]
    skipped = [check["name"] for check in found["checks"] if check["outcome"] != "passed"]
    what = f"Certified: {len(passed)} checks passed" + (f", not run: {', '.join(skipped)}" if skipped else "")
    figure = f"; {decibel(found['sqnr_db'])} dB read back from disk" if found["sqnr_db"] is not None else ""
    return f"{what}{figure}."


def when(seconds: float, now: float) -> str:
    """A moment as people say it: 14:05 today, 3 Nov this year, 3 Nov 2025."""
    then, today = datetime.fromtimestamp(seconds), datetime.fromtimestamp(now)
    if then.date() == today.date():
        return f"{then:%H:%M}"
    day = f"{then.day} {then:%b}"
    return day if then.year == today.year else f"{day} {then.year}"
