"""The engine host's protocol, spoken to a real process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.history import owners


class Host:
    """A served engine and its conversation."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "engine.serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.number = 0
        assert self.read()["event"] == "ready"

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def send(self, message: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
        self.process.stdin.flush()

    def start(self, call: str, **params: Any) -> int:
        self.number += 1
        self.send({"id": self.number, "call": call, "params": params})
        return self.number

    def call(self, call: str, **params: Any) -> list[dict[str, Any]]:
        """All events of a call, the ending one last."""
        self.start(call, **params)
        events = [self.read()]
        while events[-1]["event"] not in ("result", "error"):
            events.append(self.read())
        return events


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    assert host.process.stdin
    host.process.stdin.close()
    assert host.process.wait(timeout=10) == 0


def test_open_plan_look(host: Host, language_model: Path) -> None:
    path = str(language_model)
    *rows, result = host.call("open", path=path)
    assert sum(len(event["data"]) for event in rows) == result["data"]["count"] == 39
    *_, plan = host.call("plan", path=path, recipe='scheme = "int4:g128"')
    assert plan["data"]["quantized"] == 28 and plan["data"]["problems"] == []
    (histogram,) = host.call("histogram", path=path, layer="lm_head")
    assert sum(histogram["data"]["histogram"]["float_counts"]) == 2048 * 128


def test_quantize_reports_layers_and_result(host: Host, language_model: Path, tmp_path: Path) -> None:
    events = host.call("quantize", path=str(language_model), recipe='scheme = "int4:g128"', output=str(tmp_path / "o"))
    layers = [event for event in events if event["event"] == "layer"]
    assert len(layers) == 28 and events[-1]["data"]["worst_layer"]
    assert any(event["event"] == "progress" for event in events)


def test_what_a_run_measured_is_kept_and_read_again(host: Host, language_model: Path, tmp_path: Path) -> None:
    params = {"path": str(language_model), "recipe": 'scheme = "int4:g128"', "output": str(tmp_path / "o.safetensors")}
    layers = [e["data"] for e in host.call("quantize", **params, run_folder=str(tmp_path)) if e["event"] == "layer"]
    *rows, result = host.call("read_run", folder=str(tmp_path))
    assert [record for row in rows for kind, record in row["data"] if kind == "layer"] == layers and len(layers) == 28
    assert result["data"] == {"layers": 28, "activities": 0}
    (error,) = host.call("quantize", **params, run_folder=str(tmp_path))  # there is something already
    assert error["kind"] == "OutputError" and host.call("read_run", folder=str(tmp_path))[-1]["data"]["layers"] == 28
    (tmp_path / "layers.json").write_text("{")
    (error,) = host.call("read_run", folder=str(tmp_path))
    assert error["kind"] == "InputError" and "layers.json" in error["message"]


def test_what_was_measured_before_a_run_failed_is_kept(host: Host, make_file: Any, tmp_path: Path) -> None:
    import torch

    bad = torch.ones(64, 64)
    bad[3, 4] = float("nan")
    model = make_file({"a.weight": torch.randn(64, 64), "bad.weight": bad, "c.weight": torch.randn(64, 64)})
    params = {"path": str(model), "recipe": 'scheme = "int8:channel"', "output": str(tmp_path / "o.safetensors")}
    *_, error = host.call("quantize", **params, run_folder=str(tmp_path))
    assert error["kind"] == "DataError"
    rows = host.call("read_run", folder=str(tmp_path))[:-1]
    assert [record["name"] for row in rows for _, record in row["data"]] == ["a", "c"]


def test_mistakes_and_defects_are_answers_and_the_host_lives(host: Host) -> None:
    (error,) = host.call("open", path="/no/such/thing")
    assert error["kind"] == "InputError" and "does not exist" in error["message"]
    (error,) = host.call("no_such_call")
    assert "no call" in error["message"]
    (error,) = host.call("open", wrong=1)
    assert error["kind"] == "Defect" and "Traceback" in error["details"]
    host.send("this is not JSON")
    assert host.read()["kind"] == "Defect"
    assert host.call("warm_up")[-1]["event"] == "result"


def test_a_waiting_call_can_be_cancelled(host: Host, language_model: Path, tmp_path: Path) -> None:
    first = host.start("open", path=str(language_model))
    second = host.start("quantize", path=str(language_model), recipe="", output=str(tmp_path / "o"))
    host.send({"cancel": second})
    seen: dict[int, dict[str, Any]] = {}
    while len(seen) < 2:
        event = host.read()
        if event["event"] in ("result", "error"):
            seen[event["id"]] = event
    assert seen[first]["event"] == "result" and seen[second]["kind"] == "Cancelled"
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_paused_goes_on_and_is_taken_over(host: Host, language_model: Path, tmp_path: Path) -> None:
    params = {"path": str(language_model), "recipe": 'scheme = "int4:g128"'}
    number = host.start("quantize", **params, output=str(tmp_path / "out"))
    host.send({"pause": number})
    while (event := host.read())["event"] not in ("result", "error"):
        pass
    assert event["kind"] == "Paused" and len(list(tmp_path.iterdir())) == 1
    *_, done = host.call("quantize", **params, output=str(tmp_path / "out"), resume=True)
    *_, whole = host.call("quantize", **params, output=str(tmp_path / "whole"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out", "whole"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert done["data"]["content_hash"] == whole["data"]["content_hash"]
    folder = tmp_path / "run"
    folder.mkdir()
    record = {
        "id": "x", "number": 1, "model_path": params["path"], "recipe": params["recipe"], "folder": "run",
        "artifact": str(tmp_path / "whole"), "state": "done", "versions": owners.versions(),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    host.call("quantize", **params, output=str(tmp_path / "again"), run_folder=str(folder))
    mended = params | {"recipe": params["recipe"] + '\n[[rules]]\nmatch = "*q_proj"\nscheme = "int8:channel"\n'}
    *_, taken = host.call("quantize", **mended, output=str(tmp_path / "mended"), reuse=str(folder))
    assert len(taken["data"]["reused"]) == 24


def test_a_run_goes_on_whose_process_ended_before_it_told_of_its_artifact(host: Host, digits: Path, tmp_path: Path) -> None:
    params = {"path": str(digits / "model.safetensors"), "recipe": 'scheme = "int8:channel"', "run_folder": str(tmp_path)}
    out = tmp_path / "o.safetensors"
    assert host.call("quantize", **params, output=str(out))[-1]["event"] == "result"
    before = out.read_bytes()
    assert host.call("quantize", **params, output=str(out))[-1]["kind"] == "OutputError"
    assert host.call("quantize", **params, output=str(out), resume=True)[-1]["event"] == "result"
    assert out.read_bytes() == before
    (tmp_path / "of others").mkdir()  # what lies elsewhere is somebody's
    other = tmp_path / "of others" / "o.safetensors"
    other.write_bytes(b"theirs")
    assert host.call("quantize", **params, output=str(other), resume=True)[-1]["kind"] == "OutputError"
    assert other.read_bytes() == b"theirs"


def test_a_plan_tells_what_a_run_takes_and_refuses_what_cannot_fit(host: Host, digits: Path, tmp_path: Path) -> None:
    params = {"path": str(digits / "model.safetensors"), "recipe": 'scheme = "int8:channel"', "runs": str(tmp_path)}
    plan = host.call("plan", **params)[-1]["data"]
    assert plan["takes"]["disk"] == plan["predicted_bytes"]  # one file
    assert plan["takes"]["memory"] > 50_000_000 and plan["takes"]["seconds"] is None and not plan["problems"]
    refused = host.call("plan", **params, memory_limit=1_000_000)[-1]["data"]
    (problem,) = refused["problems"]
    assert problem["severity"] == "error" and "and 1 MB may be used" in problem["message"] and refused["takes"] is None
    failed = host.call(
        "quantize", path=params["path"], recipe=params["recipe"], output=str(tmp_path / "o.safetensors"), memory_limit=1_000_000
    )[-1]
    assert failed["event"] == "error" and "raise the memory limit" in failed["message"] and not list(tmp_path.iterdir())
