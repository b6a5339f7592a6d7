"""Exports, certificates and reports over JSON lines."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine import api
from engine.errors import OutputError
from engine.pages import report as report_page
from engine.planning.planner import plan_export
from engine.records.codec import from_data
from engine.records.run import RunRecord
from engine.serve import fresh, opening
from engine.serve.channel import Channel
from engine.serve.running import plan_totals
from engine.writers.whole import write_text


class ExportCalls:
    """Calls that write files, and the latest certificate."""

    def __init__(self) -> None:
        self._certified: fresh.Certified | None = None

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        """By name."""
        return {
            "plan_export": self._plan_export,
            "export": self._export,
            "certify": self._certify,
            "save_certificate": self._save_certificate,
            "save_report": self._save_report,
        }

    def _plan_export(self, channel: Channel, path: str, format: str, folder: str, shard_size: int | None = None) -> Any:
        plan = plan_export(api.open_model(path), format, shard_size)
        return plan_totals(plan) | {"total_bytes": plan.total_bytes, "free_bytes": opening.free(folder)}

    def _export(
        self, channel: Channel, path: str, output: str, format: str, overwrite: bool, shard_size: int | None = None
    ) -> Any:
        report = api.export(path, output, format=format, shard_size=shard_size, overwrite=overwrite, monitor=channel)
        return {"output": report.output, "bytes": report.bytes_after, "seconds": report.seconds}

    def _certify(self, channel: Channel, path: str, against: str | None = None, keep: str = "") -> Any:
        """In a fresh process. Layers stay here: ``save_certificate`` writes them all. ``keep``: folder of the run it is of."""
        self._certified = fresh.certify(path, against, channel.check)
        if keep:
            write_text(Path(keep) / report_page.CERTIFICATE, json.dumps(self._certified.document))
        return {key: value for key, value in self._certified.document.items() if key != "layers"}

    def _save_certificate(self, channel: Channel, output: str) -> Any:
        """The latest certificate as a page, or as JSON where the name says so."""
        if self._certified is None:
            raise OutputError("There is no certificate yet; export something first.")
        as_json = output.lower().endswith(".json")
        write_text(output, json.dumps(self._certified.document) if as_json else self._certified.page)
        return {"output": output}

    def _save_report(self, channel: Channel, run: dict[str, Any], output: str) -> Any:
        """A run's record as a page, with what was measured in its folder."""
        write_text(output, report_page.of_run(from_data(RunRecord, run)))
        return {"output": output}
