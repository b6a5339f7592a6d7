"""An artifact certified by a process that had no part in writing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineError, InputError

ANSWERED = (0, 3)
"""Exit codes with a certificate: of what is right, and of what is not."""
POLL = 0.1


@dataclass(frozen=True, slots=True)
class Certified:
    """What the command line said: its JSON document, and the page that prints."""

    document: dict[str, Any]
    page: str


def certify(artifact: str, against: str | None, check: Callable[[], None]) -> Certified:
    """Run ``mono-quant certify`` (``validate`` without a source) in a process of its own.

    ``check`` is called often and may raise to stop it. Raises InputError for a source that cannot be opened.
    """
    what = ["certify", os.path.abspath(artifact), "--against", os.path.abspath(against)] if against else ["validate", artifact]
    with tempfile.TemporaryDirectory(prefix="mono-quant-") as folder:
        page, answer = os.path.join(folder, "page.html"), os.path.join(folder, "answer.json")
        command = [sys.executable, "-m", "engine", *what, "--json", "--page", page]
        with open(answer, "wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
            try:
                _wait(process, check)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        with open(answer, encoding="utf-8") as stream:
            text = stream.read()
        if process.returncode in ANSWERED:
            with open(page, encoding="utf-8") as stream:
                return Certified(json.loads(text), stream.read())
        if process.returncode == 2 and text:
            raise InputError(json.loads(text)["error"])
        raise EngineError(f"The check of {artifact} ended by itself (exit code {process.returncode}); try `mono-quant certify`.")


def _wait(process: subprocess.Popen[bytes], check: Callable[[], None]) -> None:
    while True:
        check()
        try:
            process.wait(timeout=POLL)
            return
        except subprocess.TimeoutExpired:
            continue
