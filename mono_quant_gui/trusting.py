"""Consent to code, and failures: what every part of a session needs."""

import json
from collections.abc import Callable

from PySide6.QtCore import QObject, Signal

from mono_quant_gui.jobs.host import Failure
from mono_quant_gui.state import How, Model, Trust


class Trusting(QObject):
    """Asks before code of a file runs; what was agreed to is kept for this window, by file and SHA-256, and nowhere else."""

    failed = Signal(str, str)
    """(sentence, details) of something that went wrong."""
    notice = Signal(str)
    trust_wanted = Signal(object)
    """Code would run (a Trust): the user is to be asked."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.model: Model | None = None
        self._agreed: set[tuple[str, str]] = set()

    def ask_trust(self, failure: Failure, how: How, accept: Callable[[str], None], declined: Callable[[], None]) -> bool:
        """Ask the user whether code may run, if that is why a call failed; what was agreed to in this window is not asked again.

        ``how`` is what the call was made with: the same code asked for twice is a failure and no question.
        """
        if failure.kind != "TrustNeeded":
            return False
        asked = json.loads(failure.details)
        path, sha256 = asked["path"], asked["sha256"]
        if sha256 in how.trusted:
            return False

        def agree() -> None:
            self._agreed.add((path, sha256))
            accept(sha256)

        if (path, sha256) in self._agreed:
            accept(sha256)
        else:
            self.trust_wanted.emit(Trust(path, sha256, asked["what"], agree, declined))
        return True

    def trust_model(self, sha256: str) -> None:
        """The open model may run this code."""
        if self.model:
            self.model.how = self.model.how.trusting(sha256)

    def report_failure(self, failure: Failure) -> None:
        """Tell the user, unless it was the user who stopped it."""
        if not failure.cancelled:
            self.failed.emit(failure.message, failure.details)
