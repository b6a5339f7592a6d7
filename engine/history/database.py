"""The ledger's file: opened, brought to the newest schema, and set aside when it is damaged."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from engine.errors import InputError, OutputError

BUSY = 10.0
"""Seconds to wait for another process that writes. Its transactions take milliseconds."""

MIGRATIONS = (
    """
    CREATE TABLE models (path TEXT PRIMARY KEY, last_number INTEGER NOT NULL);
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, number INTEGER NOT NULL, model_path TEXT NOT NULL, recipe TEXT NOT NULL,
        folder TEXT NOT NULL UNIQUE, artifact TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, parent TEXT NOT NULL,
        note TEXT NOT NULL, starred INTEGER NOT NULL, tags TEXT NOT NULL, model_hash TEXT NOT NULL, data TEXT NOT NULL,
        data_hash TEXT NOT NULL, seed INTEGER, arguments TEXT NOT NULL, versions TEXT NOT NULL, machine TEXT NOT NULL,
        created REAL NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, totals TEXT NOT NULL, message TEXT NOT NULL,
        failures TEXT NOT NULL, owner TEXT NOT NULL, UNIQUE (model_path, number)
    );
    CREATE INDEX runs_by_state ON runs (state);
    """,
)
"""Each brings the schema from its place in this tuple to the next. Never change one that was released: add another."""


class Damaged(Exception):
    """The file is there and is not a sound database."""


def open_database(path: Path) -> tuple[sqlite3.Connection, str, bool]:
    """The connection, the name under which a damaged file was set aside (or nothing), and whether the ledger is new.

    Raises InputError (made by a later version), OutputError.
    """
    with _alone(path):
        set_aside = ""
        try:
            connection, new = _connect(path)
        except Damaged:
            set_aside = _set_aside(path)
            connection, new = _connect(path)
    return connection, set_aside, new


def _connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    connection = None
    try:
        # The caller keeps threads apart; autocommit, so that transactions are only where they are written.
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise Damaged
        return connection, _migrate(connection, path)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, read-only, no such folder: nothing is wrong with the file
            raise OutputError(f"The ledger of runs {path} cannot be used: {error}.") from None
        if isinstance(error, sqlite3.DatabaseError):
            raise Damaged from None
        raise


def _migrate(connection: sqlite3.Connection, path: Path) -> bool:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise InputError(f"The ledger of runs {path} was made by a later version; update Mono Quant, or choose another folder.")
    if version < len(MIGRATIONS):
        script = "".join(MIGRATIONS[version:])
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {len(MIGRATIONS)}; COMMIT;")
    return version == 0


def _set_aside(path: Path) -> str:
    """Under a name that says what happened; what the file's log holds goes with it."""
    name = f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    aside = next(p for n in range(1000) if not (p := path.with_name(name + (f"-{n}" if n else ""))).exists())
    try:
        os.replace(path, aside)
        for ending in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}{ending}", f"{aside}{ending}")
    except OSError as error:
        raise OutputError(f"The ledger of runs {path} is damaged and cannot be set aside: {error.strerror}.") from None
    return aside.name


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time opens a ledger, so that none sets aside what another has just begun."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be renamed anyway
        yield
        return
    try:
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OutputError(f"The ledger of runs {path} cannot be opened: {error.strerror}.") from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
