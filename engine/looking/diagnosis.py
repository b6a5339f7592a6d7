"""Why a layer loses more than a Gaussian weight would, and what may mend it."""

from dataclasses import replace
from statistics import NormalDist, median

from engine.errors import EngineError
from engine.records.look import Diagnosis, Remedy
from engine.records.report import LayerReport
from engine.records.scheme import KEEP, Scheme
from engine.schemes import format_scheme, parse_scheme, wider_scheme

SHORT_DB = 1.5
"""A layer that falls short of the Gaussian figure by less is as it should be."""
SPREAD = 4.0
"""A channel that reaches so many times as far as the median one decides everybody's step."""
LOPSIDED = 0.25
"""A range whose middle is this far from zero, in half-widths, wastes that share of a symmetric grid."""
HEAVY = 1.0
"""Excess kurtosis from which tails are called heavy: a Laplace distribution has 3."""
CLIPPED = 1e-3
"""Share of clipped weights that is more than a few outliers."""


def shortfall(report: LayerReport, expected_db: float | None) -> float | None:
    """By how many dB a layer is worse than a Gaussian one; None where either figure is missing."""
    return None if expected_db is None or report.sqnr_db is None else expected_db - report.sqnr_db


def diagnose(report: LayerReport, kurtosis: float, sigmas: float, expected_db: float | None) -> Diagnosis:
    """The likely cause, and remedies that fit the scheme in use.

    ``kurtosis``: excess of the weights'; ``sigmas``: how many standard deviations the largest weight lies from the mean.
    """
    short = shortfall(report, expected_db)
    if short is None or short < SHORT_DB:
        return Diagnosis()
    scheme = parse_scheme(report.scheme)
    cause, words, remedies = _cause(report, kurtosis, sigmas, scheme)
    said = f"{short:.1f} dB below a Gaussian layer: {words}"
    return Diagnosis(cause, said, (*remedies, *_always(scheme, report.algorithm)))


def _cause(report: LayerReport, kurtosis: float, sigmas: float, scheme: Scheme) -> tuple[str, str, list[Remedy]]:
    ranges = report.ranges
    reach = [max(abs(low), abs(high)) for low, high in zip(ranges.low, ranges.high, strict=True)]
    usual, widest = median(reach), max(reach)
    place = reach.index(widest) * ranges.channels_per_band
    low, high = min(ranges.low), max(ranges.high)
    if report.clipped > CLIPPED:
        words = f"bad range: {100 * report.clipped:.2f} % of the weights are clipped."
        return "bad range", words, [Remedy("let the range cover every weight", report.scheme, "rtn")]
    if scheme.symmetric and abs(high + low) > LOPSIDED * (high - low):
        words = f"bad range: weights reach from {low:.3g} to {high:.3g}, and a symmetric grid spends as much on either side."
        return "bad range", words, _asymmetric(scheme, report.algorithm)
    if usual and widest > SPREAD * usual and scheme.granularity in ("tensor", "block"):
        words = f"outlier channel: channel {place} reaches {widest / usual:.1f} times as far as the median channel."
        return "outlier channel", words, _finer(scheme, report.algorithm)
    count = report.parameters
    usual_largest = NormalDist().inv_cdf((1 + 0.5 ** (1 / count)) / 2) if count > 1 else 0.0
    words = (
        f"heavy tail: excess kurtosis {kurtosis:,.0f}, and the largest weight lies {sigmas:.1f} standard deviations out "
        f"(a Gaussian layer's {usual_largest:.1f})."
    )
    if kurtosis > HEAVY or sigmas > 2 * usual_largest:
        return "heavy tail", words, [*_finer(scheme, report.algorithm), *_fitted(scheme, report.algorithm)]
    words = "its channels differ from one another more than those of a Gaussian layer."
    return "uneven channels", words, [*_finer(scheme, report.algorithm), *_fitted(scheme, report.algorithm)]


def _named(scheme: Scheme, **changes: object) -> str | None:
    """The scheme with something changed, if there is one like that."""
    try:
        name = format_scheme(replace(scheme, **changes))
        return name if parse_scheme(name) == replace(scheme, **changes) else None
    except (EngineError, ValueError, KeyError):
        return None


def _finer(scheme: Scheme, algorithm: str) -> list[Remedy]:
    found: list[Remedy] = []
    if scheme.granularity in ("tensor", "block") and (name := _named(scheme, granularity="channel", group=None, block_rows=None)):
        found.append(Remedy("a scale for every channel", name, algorithm))
    if scheme.granularity == "channel" and (name := _named(scheme, granularity="group", group=128)):
        found.append(Remedy("a scale for every 128 weights", name, algorithm))
    if scheme.granularity == "group" and (scheme.group or 0) > 32:
        name = _named(scheme, group=32)
        found += [Remedy("groups of 32", name, algorithm)] if name else []
    return found


def _asymmetric(scheme: Scheme, algorithm: str) -> list[Remedy]:
    name = _named(scheme, symmetric=False)
    return [Remedy("an asymmetric range", name, algorithm)] if name else []


def _fitted(scheme: Scheme, algorithm: str) -> list[Remedy]:
    return [Remedy("choose the range by squared error", format_scheme(scheme), "mse")] if algorithm == "rtn" else []


def _always(scheme: Scheme, algorithm: str) -> list[Remedy]:
    wider = wider_scheme(scheme)
    more = [] if wider == KEEP else [Remedy(f"{wider.bits} bits", format_scheme(wider), algorithm)]
    return [*more, Remedy("keep it float", "keep")]
