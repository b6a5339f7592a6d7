"""Every run in one SQLite file, safe with several processes at once."""

import contextlib
import json
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from engine.errors import InputError, OutputError
from engine.history import owners, places
from engine.history.database import open_database
from engine.records.calibration import Activity
from engine.records.codec import from_data
from engine.records.report import LayerReport, RunReport
from engine.records.run import GOING, STATES, RunRecord

FILE = "runs.sqlite"
_AS_JSON = ("tags", "arguments", "versions", "totals", "failures")
_NAMES = tuple(field.name for field in fields(RunRecord))
_MEMBERS = ("name", "note", "starred", "tags", "state", "arguments", "data", "data_hash", "model_hash", "message")

_COUNT = "INSERT INTO models VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET last_number = last_number + 1 RETURNING last_number"
_AT_LEAST = (
    "INSERT INTO models VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET last_number = max(last_number, excluded.last_number)"
)
_TEXTS = " || char(10) || ".join(("name", "note", "tags", "recipe", "model_path", "data"))


class Ledger:
    """The runs of a folder: a database beside one folder per run.

    Methods may be called from any thread and raise only EngineErrors: InputError for a run that is not there, OutputError where
    nothing can be written. A record is frozen; what changes a run returns the new one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open or begin the ledger of a folder; runs lying there that it does not know yet are taken in when it is new.

        ``set_aside`` then is the name under which a damaged ledger was kept, or empty. Raises InputError, OutputError.
        """
        self.folder = Path(folder).absolute()
        self._lock = threading.RLock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder of runs {self.folder} cannot be made: {error.strerror}.") from None
        self._database, self.set_aside, new = open_database(self.folder / FILE)
        if new:
            self._take_in()

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- a run's life --------------------------------------------------------------------------------------------

    def begin(
        self, model_path: str, recipe: str, artifact: str, *, name: str = "", parent: str = "", state: str = "running",
        data: str = "", data_hash: str = "", seed: int | None = None, arguments: Mapping[str, Any] | None = None,
    ) -> RunRecord:  # fmt: skip
        """A new run with the next number of its model and a folder of its own; this process answers for it.

        ``artifact``: where it writes; a relative path lies in the run's folder. ``state``: running or queued. ``arguments``: what
        else ``quantize_to`` is given, as JSON; sums of trusted code are left out, since trust is given anew every time.
        """
        model = os.path.abspath(model_path)
        try:
            folder = places.new_folder(self.folder, model)
        except OSError as error:
            raise OutputError(f"Cannot create a folder for the run in {self.folder}: {error.strerror}.") from None
        now = time.time()
        record = RunRecord(
            _new_id(), 0, model, recipe, str(folder), str(folder / os.path.expanduser(artifact)), name, state, parent,
            data=data, data_hash=data_hash, seed=seed, arguments=_without_trust(arguments or {}), versions=owners.versions(),
            machine=owners.machine(), created=now, started=now if state == "running" else 0.0, owner=owners.this_process(),
        )  # fmt: skip
        with self._writing():
            record = replace(record, number=self._next_number(model))
            self._insert(record)
        places.save_record(record)
        return record

    def update(self, id: str, **changes: Any) -> RunRecord:
        """Change fields of a run. With a state of queued or running, this process answers for it from now on."""
        if unknown := set(changes) - set(_MEMBERS):
            raise InputError(f"A run's {min(unknown)} cannot be changed.")
        state = changes.get("state")
        if state is not None and state not in STATES:
            raise InputError(f"There is no state {state!r} of a run.")
        if state in GOING:
            changes["owner"] = owners.this_process()
        if state == "running":
            changes["started"] = time.time()
        return self._change(id, changes)

    def finish(
        self, id: str, state: str = "done", *, totals: Mapping[str, Any] | None = None, layers: Iterable[LayerReport] | None = (),
        activities: Iterable[Activity] = (), message: str = "", failures: Mapping[str, str] | None = None,
    ) -> RunRecord:  # fmt: skip
        """The end of a run, and what was measured. ``totals``: its report without layers and activities, as JSON.

        ``layers`` None: the process that measured has put them into the run's folder (``save_measurements``).
        """
        record = self.get(id)
        found = dict(totals) if totals is not None else None
        measured = list(layers or ())
        if measured or (state == "done" and layers is not None):
            places.save_measurements(Path(record.folder), measured, list(activities))
        known = found or {}
        seconds = known.get("seconds") or (time.time() - record.started if record.started else 0.0)
        changes = {
            "state": state, "totals": found, "message": message, "failures": dict(failures or {}), "seconds": seconds,
            "owner": "", "data": known.get("data") or record.data, "data_hash": known.get("data_hash") or record.data_hash,
            "model_hash": known.get("content_hash") or known.get("input_hash") or record.model_hash,
        }  # fmt: skip
        return self._change(id, changes)

    def clear_half_written(self, id: str) -> None:
        """Remove what a killed writer left in the folder of a run that has ended."""
        record = self.get(id)
        if record.state not in (*GOING, "unfinished"):
            places.clear_half_written(Path(record.folder))

    def rename(self, id: str, name: str) -> RunRecord:
        return self._change(id, {"name": name})

    def annotate(self, id: str, note: str) -> RunRecord:
        return self._change(id, {"note": note})

    def star(self, id: str, starred: bool = True) -> RunRecord:
        return self._change(id, {"starred": starred})

    def tag(self, id: str, tags: Sequence[str]) -> RunRecord:
        """Replace a run's tags; each once, without blanks around it."""
        return self._change(id, {"tags": tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))})

    def delete(self, id: str) -> None:
        """Remove a run, its folder and what lies in it; its children become those of its parent.

        An artifact elsewhere stays. Raises OutputError while a living process works on it.
        """
        record = self.get(id)
        if record.state in GOING and record.owner != owners.this_process() and not owners.is_gone(record.owner):
            raise OutputError(f"Run {record.number} is {record.state} in another window or command; stop it there first.")
        if Path(record.folder).parent != self.folder or Path(record.folder).name in ("", ".."):
            raise OutputError(f"Run {record.number} says that it lies outside {self.folder}; nothing was deleted.")
        try:
            shutil.rmtree(record.folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"Run {record.number} cannot be deleted: {error}.") from None
        with self._writing():
            self._database.execute("UPDATE runs SET parent = ? WHERE parent = ?", (record.parent, id))
            self._database.execute("DELETE FROM runs WHERE id = ?", (id,))

    def take_over(self) -> list[RunRecord]:
        """Runs whose process is gone become ``unfinished``, to go on or to be deleted; those are returned."""
        lost = []
        for record in self.find(states=GOING):
            if not owners.is_gone(record.owner):
                continue
            # Only if nobody was faster.
            with self._writing():
                query = "UPDATE runs SET state = 'unfinished', owner = '' WHERE id = ? AND state = ? AND owner = ?"
                changed = self._database.execute(query, (record.id, record.state, record.owner)).rowcount
            if changed:
                lost.append(self.get(record.id))
                places.save_record(lost[-1])
        return lost

    # -- looking -------------------------------------------------------------------------------------------------

    def get(self, id: str) -> RunRecord:
        with self._reading():
            row = self._database.execute("SELECT * FROM runs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise InputError(f"There is no run {id}.")
        return self._record(row)

    def named(self, text: str) -> RunRecord:
        """The run with that id, or the beginning of one. Raises InputError where none has it, or several."""
        pattern = text.lower() + "*" if text.isalnum() else ""
        with self._reading():
            rows = self._database.execute("SELECT * FROM runs WHERE id GLOB ? LIMIT 2", (pattern,)).fetchall()
        if not rows:
            raise InputError(f"There is no run {text}; `mono-quant runs list` shows all.")
        if len(rows) > 1:
            raise InputError(f"Several runs begin with {text}; give more of the id.")
        return self._record(rows[0])

    def find(
        self, text: str = "", *, model: str = "", states: Sequence[str] = (), starred: bool = False, parent: str = ""
    ) -> list[RunRecord]:
        """Runs, newest first, in which every word of ``text`` occurs (name, note, tags, recipe, model, data), case ignored."""
        where: list[tuple[str, list[Any]]] = []
        for word in text.split():
            pattern = "".join(f"\\{c}" if c in "%_\\" else c for c in word)
            where.append((f"{_TEXTS} LIKE ? ESCAPE '\\'", [f"%{pattern}%"]))
        if model:
            where.append(("model_path = ?", [os.path.abspath(model)]))
        if states:
            where.append((f"state IN ({', '.join('?' * len(states))})", list(states)))
        if starred:
            where.append(("starred = 1", []))
        if parent:
            where.append(("parent = ?", [parent]))
        clause = " AND ".join(part for part, _ in where) or "1"
        values = [value for _, some in where for value in some]
        with self._reading():
            rows = self._database.execute(
                f"SELECT * FROM runs WHERE {clause} ORDER BY created DESC, rowid DESC", values
            ).fetchall()
        return [self._record(row) for row in rows]

    def stamp(self) -> int:
        """Another number once another process (or another Ledger) has written; costs microseconds."""
        with self._reading():
            return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def layers(self, id: str) -> list[LayerReport]:
        """What was measured of each layer. Raises InputError."""
        return places.read_layers(Path(self.get(id).folder))

    def activities(self, id: str) -> list[Activity]:
        """What layers' inputs were; empty where no data were used. Raises InputError."""
        return places.read_activities(Path(self.get(id).folder))

    def report(self, id: str) -> RunReport:
        """The whole report of a finished run. Raises InputError."""
        record = self.get(id)
        if record.totals is None:
            raise InputError(f"Run {record.number} is {record.state}: it has no report.")
        bare = from_data(RunReport, record.totals | {"layers": [], "activities": [], "output": record.artifact})
        return replace(bare, layers=tuple(self.layers(id)), activities=tuple(self.activities(id)))

    def disk_use(self, id: str = "") -> int:
        """Bytes in one run's folder, or in all of them."""
        return places.bytes_in(Path(self.get(id).folder) if id else self.folder)

    # -- rows ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise OutputError(f"The ledger of runs in {self.folder} cannot be used: {error}.") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        with self._reading():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _next_number(self, model: str) -> int:
        return int(self._database.execute(_COUNT, (model, 1)).fetchone()[0])

    def _insert(self, record: RunRecord) -> None:
        stored = replace(record, folder=Path(record.folder).name, artifact=places.relative(record.artifact, record.folder))
        values = [_stored(name, getattr(stored, name)) for name in _NAMES]
        self._database.execute(f"INSERT INTO runs ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})", values)

    def _change(self, id: str, changes: Mapping[str, Any]) -> RunRecord:
        words = ", ".join(f"{name} = ?" for name in changes)
        values = [_stored(name, value) for name, value in changes.items()]
        with self._writing():
            if changes and not self._database.execute(f"UPDATE runs SET {words} WHERE id = ?", (*values, id)).rowcount:
                raise InputError(f"There is no run {id}.")
        record = self.get(id)
        places.save_record(record)
        return record

    def _record(self, row: sqlite3.Row) -> RunRecord:
        values: dict[str, Any] = {name: json.loads(row[name]) if name in _AS_JSON else row[name] for name in _NAMES}
        folder = self.folder / values["folder"]
        values |= {"folder": str(folder), "artifact": str(folder / values["artifact"])}
        return RunRecord(**values | {"tags": tuple(values["tags"]), "starred": bool(values["starred"])})

    def _take_in(self) -> None:
        """Runs that lie in the folder: of a ledger that was lost, or from before there was one."""
        found = [record for folder in sorted(self.folder.iterdir()) if (record := places.read_record(folder))]
        for record in sorted(found, key=lambda record: (record.created, record.number)):
            with self._writing():
                known = self._database.execute("SELECT id, model_path, number FROM runs").fetchall()
                taken = {row["number"] for row in known if row["model_path"] == record.model_path}
                number = record.number if record.number not in taken else max(taken) + 1
                # A folder that somebody copied says the same id.
                own = record.id if record.id and record.id not in {row["id"] for row in known} else _new_id()
                record = replace(record, id=own, number=number)
                self._database.execute(_AT_LEAST, (record.model_path, number))
                self._insert(record)
            places.save_record(record)
        places.clear_abandoned(self.folder)


def _stored(name: str, value: Any) -> Any:
    if name in _AS_JSON:
        return json.dumps(value)
    return int(value) if isinstance(value, bool) else value


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _without_trust(arguments: Mapping[str, Any]) -> dict[str, Any]:
    how = arguments.get("how")
    return dict(arguments) | ({"how": {key: value for key, value in how.items() if key != "trusted"}} if how else {})
