"""What killed and paused writers left beside a target: put back, gone on with, kept for its run, or cleared away."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from engine.errors import Paused
from engine.writers.workspace import Workspace, clear, discard
from tests.engine.faults import hidden

GONE = 2**22 + 1
"""No process has this number: Linux's greatest is 2 ** 22."""


def left(folder: Path, name: str = "out", pid: int = GONE, ending: str = "", **files: str) -> Path:
    """A workspace whose process is gone, with an artifact and what else is given."""
    space = folder / f".{name}.mono-quant-{pid}-0a0b{ending}.tmp"
    space.mkdir()
    for file, text in ({"artifact": "half"} | files).items():
        (space / file).write_text(text)
    return space


@pytest.mark.parametrize("there", [False, True], ids=["away", "replaced"])
def test_a_folder_that_had_stepped_aside_comes_back_unless_another_is_there(tmp_path: Path, there: bool) -> None:
    (left(tmp_path) / "old").mkdir()
    (next(tmp_path.iterdir()) / "old" / "weights").write_text("old")
    if there:
        (tmp_path / "out").mkdir()
    clear(tmp_path, "other")
    assert hidden(tmp_path) == [] and (tmp_path / "out" / "weights").exists() is not there


@pytest.mark.parametrize("there", [False, True], ids=["away", "replaced"])
def test_so_does_what_earlier_versions_put_aside(tmp_path: Path, there: bool) -> None:
    left(tmp_path, ending=".old")
    if there:
        (tmp_path / "out").write_text("new")
    clear(tmp_path)
    assert hidden(tmp_path) == []
    assert (tmp_path / "out").read_text() == "new" if there else (tmp_path / "out" / "artifact").read_text() == "half"


def test_what_a_run_answers_for_is_kept_as_long_as_the_run_is(tmp_path: Path) -> None:
    run, place = tmp_path / "run", tmp_path / "place"
    run.mkdir()
    place.mkdir()
    space = left(place, run=str(run))
    clear(place, "other")
    assert space.exists()
    run.rmdir()
    clear(place, "other")
    assert not space.exists()


def test_the_next_run_to_the_same_place_does_not_ask(tmp_path: Path) -> None:
    left(tmp_path, run=str(tmp_path))
    left(tmp_path, "other", run=str(tmp_path / "gone"))
    (tmp_path / f".file.mono-quant-{GONE}-0c.tmp").write_text("of an earlier version")
    clear(tmp_path, "out")
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("pid", [os.getppid(), GONE], ids=["by its number", "by its lock"])
def test_what_somebody_works_on_is_left_alone(tmp_path: Path, pid: int) -> None:
    space = left(tmp_path, pid=pid)
    held = os.open(space, os.O_RDONLY)
    if pid == GONE:  # on another machine its number says nothing
        fcntl.flock(held, fcntl.LOCK_EX)
    clear(tmp_path, "out")
    if pid != GONE:
        discard(tmp_path / "out")
    assert (space / "artifact").exists()
    os.close(held)


def test_a_file_system_without_locks_is_cleared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    left(tmp_path)
    monkeypatch.setattr(fcntl, "flock", none)
    clear(tmp_path, "out")
    assert hidden(tmp_path) == []


def test_what_is_not_wanted_any_more_goes_and_what_it_had_put_aside_returns(tmp_path: Path) -> None:
    (left(tmp_path, run=str(tmp_path)) / "old").mkdir()
    other = left(tmp_path, "other")
    discard(tmp_path / "out")
    assert hidden(tmp_path) == [other.name] and list((tmp_path / "out").iterdir()) == []


def test_a_paused_one_is_gone_on_with_by_its_own_key_only(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(Paused), Workspace(target, key="this") as space:
        (space.calibrated / "layer").write_text("found")
        assert space.calibrated.stat().st_mode & 0o777 == 0o700
        raise Paused("later")
    assert len(hidden(tmp_path)) == 1
    with pytest.raises(Paused), Workspace(target, key="this", resume=True) as space:
        assert space.resumed and (space.calibrated / "layer").read_text() == "found"
        raise Paused("later again")
    with Workspace(target, key="that", resume=True) as space:
        assert not space.resumed and list(space.calibrated.iterdir()) == []
    assert hidden(tmp_path) == []
