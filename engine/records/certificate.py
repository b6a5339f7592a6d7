"""What was found when an artifact was opened again."""

from dataclasses import dataclass
from typing import Literal

from engine.records.calibration import Evaluation
from engine.records.plan import Consumer

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: ``said`` is its result in a sentence, ``failures`` one sentence for each thing that is wrong."""

    name: str
    outcome: Outcome
    said: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerProof:
    """One quantized layer as decoded from disk.

    sqnr_db, max_error  against the source, None without one (``sqnr_db`` also when nothing was lost)
    compared   whether there was a source, and its weights are comparable (no transform moved scale)
    clipped    share of the source's weights beyond the range of their codes, 0 to 1; None where they were not compared
    reader     ``second`` where a reader that shares no code with the writer decoded it too, else ``own``
    """

    name: str
    scheme: str
    nbytes: int
    sqnr_db: float | None = None
    max_error: float | None = None
    compared: bool = False
    reader: Literal["second", "own"] = "own"
    clipped: float | None = None


@dataclass(frozen=True, slots=True)
class FileHash:
    """SHA-256 of one file as it was read."""

    path: str
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """Everything that was checked of an artifact, read back from disk.

    ``sqnr_db`` is total signal over total noise of the compared layers; bytes are those of tensors. ``evaluation`` is there where
    data were given.
    """

    artifact: str
    against: str | None
    checks: tuple[Check, ...]
    layers: tuple[LayerProof, ...] = ()
    sqnr_db: float | None = None
    bytes_before: int | None = None
    bytes_after: int = 0
    consumers: tuple[Consumer, ...] = ()
    files: tuple[FileHash, ...] = ()
    source_files: tuple[FileHash, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    evaluation: Evaluation | None = None
    seconds: float = 0.0

    @property
    def certified(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome != "failed" for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(failure for check in self.checks for failure in check.failures)
