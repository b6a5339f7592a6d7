"""A certificate for people: as text for a terminal, and as a page that prints."""

from __future__ import annotations

import html

from engine.errors import plain
from engine.records.certificate import Certificate

WORST = 20
"""Layers that the text lists, those with the least SQNR first."""
STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --text: #1d2430; --muted: #6a7383; --line: #dadde3; --float: #8a94a6;
--a: #0072b2; --b: #e69f00; --c: #009e73; --d: #cc79a7; --e: #56b4e9; --bad: #b34700; --good: #00734f; }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1e24; --text: #e3e7ee; --muted: #98a2b3; --line: #363c47;
--float: #8793a8; --a: #56b4e9; --b: #f0c04a; --c: #3cc79a; --d: #e39bc4; --e: #7ea6ff; --bad: #f0824a; --good: #3cc79a; } }
body { font: 13px/1.5 system-ui, sans-serif; color: var(--text); background: var(--paper); max-width: 60em; margin: 2em auto;
padding: 0 1em; }
table { border-collapse: collapse; width: 100%; margin: 1em 0; } td, th { text-align: left; padding: 3px 8px;
vertical-align: top; border-bottom: 1px solid var(--line); } td.n, th.n { text-align: right; white-space: nowrap;
font-variant-numeric: tabular-nums; } .passed { color: var(--good); } .failed { color: var(--bad); font-weight: bold; }
code { overflow-wrap: anywhere; }
@media print { body { margin: 0; } }
"""


def verdict(certificate: Certificate) -> str:
    """The certificate in one sentence."""
    what = "certified" if certificate.against else "valid"
    if certificate.certified:
        return f"{certificate.artifact} is {what}."
    return f"{certificate.artifact} is not {what}: {certificate.failures[0]}"


def text(certificate: Certificate) -> str:
    """Checks, the worst layers and who loads it, for a terminal."""
    lines = [f"{check.outcome:8} {check.name}: {check.said}" for check in certificate.checks]
    lines += [f"         {failure}" for failure in certificate.failures]
    compared = sorted((p for p in certificate.layers if p.sqnr_db is not None), key=lambda p: p.sqnr_db or 0.0)
    if compared:
        lines += ["", "layers with the least SQNR, from disk:"]
        lines += [f"  {proof.sqnr_db:6.2f} dB  {proof.scheme:16} {proof.name}" for proof in compared[:WORST]]
    if certificate.sqnr_db is not None and certificate.bytes_before:
        ratio = certificate.bytes_before / max(certificate.bytes_after, 1)
        sizes = f"{certificate.bytes_before:,} to {certificate.bytes_after:,} bytes ({ratio:.2f} times)"
        lines += ["", f"total {certificate.sqnr_db:.2f} dB, {sizes}"]
    if found := certificate.evaluation:
        values = [
            ("output SQNR dB", found.output_sqnr_db), ("agreement", found.agreement), ("KL nats", found.kl_divergence),
            ("accuracy", found.quantized.accuracy), ("perplexity", found.quantized.perplexity),
        ]  # fmt: skip
        lines.append("on data: " + ", ".join(f"{name} {value:.4g}" for name, value in values if value is not None))
    lines += [f"{c.name}: {c.loads}{f' ({c.reason})' if c.reason else ''}" for c in certificate.consumers]
    return "\n".join([*lines, "", verdict(certificate)])


def page(certificate: Certificate) -> str:
    """One HTML page without scripts or links; every name that comes from a file is escaped."""
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Certificate</title><style>{STYLE}</style>"
        f"<h1>Certificate</h1>{body(certificate)}</html>\n"
    )


def body(certificate: Certificate) -> str:
    """The verdict and the tables below it, to stand in a page with ``STYLE``."""
    checks = "".join(
        f"<tr><td>{_e(check.name)}</td><td class='{_e(check.outcome)}'>{_e(check.outcome)}</td><td>{_e(check.said)}"
        + "".join(f"<br>{_e(failure)}" for failure in check.failures)
        + "</td></tr>"
        for check in certificate.checks
    )
    layers = "".join(
        f"<tr><td><code>{_e(p.name)}</code></td><td>{_e(p.scheme)}</td><td class='n'>{_number(p.sqnr_db)}</td>"
        f"<td class='n'>{_number(p.max_error, '.3g')}</td><td class='n'>{p.nbytes:,}</td><td>{_e(p.reader)}</td></tr>"
        for p in certificate.layers
    )
    files = "".join(
        f"<tr><td><code>{_e(f.path)}</code></td><td class='n'>{f.nbytes:,}</td><td><code>{_e(f.sha256)}</code></td></tr>"
        for f in (*certificate.files, *certificate.source_files)
    )
    loads = "".join(f"<tr><td>{_e(c.name)}</td><td>{_e(c.loads)}</td><td>{_e(c.reason)}</td></tr>" for c in certificate.consumers)
    versions = ", ".join(f"{name} {version}" for name, version in certificate.versions)
    return (
        f"<p class='{'passed' if certificate.certified else 'failed'}'>{_e(verdict(certificate))}</p>"
        f"<p>{_e(f'Compared with {certificate.against}.' if certificate.against else 'Without its source.')} {_e(versions)}</p>"
        f"<table><tr><th>check<th>outcome<th>result</tr>{checks}</table>"
        "<table><tr><th>layer<th>scheme<th class='n'>SQNR dB<th class='n'>max error<th class='n'>bytes<th>reader</tr>"
        f"{layers}</table>"
        f"<table><tr><th>program<th>loads it<th>why</tr>{loads}</table>"
        f"<table><tr><th>file<th class='n'>bytes<th>SHA-256</tr>{files}</table>"
    )


def _e(value: str) -> str:
    return html.escape(plain(value))


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)
