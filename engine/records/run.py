"""One run as the ledger keeps it."""

from dataclasses import dataclass, field
from typing import Any

STATES = ("queued", "running", "done", "failed", "cancelled", "unfinished")
GOING = ("queued", "running")
"""States that some process answers for."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: what was asked for, with what, and what came of it. Its layers' reports lie in its folder (``Ledger.layers``).

    id           short and unique; ``number`` counts the runs of one model, and is never given twice
    parent       id of the run whose layers it took over; empty for a run of its own
    model_hash   ``RunReport.content_hash``, of its weights; empty until it is known, ``input_hash`` where it never was
    data         what it was calibrated on, in words; ``data_hash`` of what was read; ``seed`` of the draw
    recipe       TOML that repeats it
    arguments    what else a call of ``quantize_to`` was given, as JSON: format, shard_size, data, statistics, how, measure;
                 ``in_memory`` where the model or the data (``data.in_memory``) came from a program and not from a file
    versions     of the engine, Python and the libraries that decide bytes; ``machine`` where it ran
    state        queued, running, done, failed, cancelled; unfinished: the process that worked on it is gone
    created, started  seconds since 1970, ``started`` 0 until it starts; ``seconds`` it took
    folder       the run's own; ``artifact`` what it writes, there or elsewhere; both absolute
    totals       its ``RunReport`` without layers and activities; None before it is done
    message      why it failed, one sentence; ``failures`` the same by layer
    owner        host, process id and start of the process that answers for it
    """

    id: str
    number: int
    model_path: str
    recipe: str
    folder: str
    artifact: str
    name: str = ""
    state: str = "queued"
    parent: str = ""
    note: str = ""
    starred: bool = False
    tags: tuple[str, ...] = ()
    model_hash: str = ""
    data: str = ""
    data_hash: str = ""
    seed: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    created: float = 0.0
    started: float = 0.0
    seconds: float = 0.0
    totals: dict[str, Any] | None = None
    message: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    owner: str = ""
