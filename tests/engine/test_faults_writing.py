"""Everything that writes fails once: what is at the destination is old, absent or complete, and nothing stays behind."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from tests.engine.faults import SOAK, Disk, contents, hidden, make_model, sentence

FORMS = {"out.safetensors": "safetensors", "out": "compressed-tensors"}


class Place:
    """A model, a destination with something old in it or nothing, and what a run should write there."""

    def __init__(self, root: Path, target: str, old: bool) -> None:
        self.model = make_model(root / "model")
        self.folder = root / "place"
        self.folder.mkdir()
        self.target, self.form = self.folder / target, FORMS[target]
        self.run(scheme="int8:channel")
        self.before = contents(self.target)
        self._kept = root / "kept"
        os.rename(self.target, self._kept)
        self.run()
        self.whole = contents(self.target)
        self._old = old
        self.reset()

    def run(self, scheme: str = "int4:g64", **more) -> None:
        engine.quantize_to(self.model, self.target, scheme, format=self.form, record=False, overwrite=True, **more)

    def reset(self) -> None:
        for path in list(self.folder.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._old:
            (shutil.copytree if self._kept.is_dir() else shutil.copyfile)(self._kept, self.target)

    def check(self) -> None:
        """Old, absent or complete; and after the next start nothing temporary."""
        assert contents(self.target) in (self.before if self._old else None, None, self.whole)
        engine.quantize_to(
            self.model, self.folder / "next.safetensors", "fp16", format="safetensors", record=False, overwrite=True
        )
        assert hidden(self.folder) == []
        # A folder that had stepped aside is back; a file is never away.
        assert contents(self.target) in ((self.before, self.whole) if self._old else (None, self.whole))


@pytest.mark.parametrize("old", [True, False] if SOAK else [True], ids=lambda old: "replaced" if old else "new")
@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("onward", [False, True], ids=["once", "from-then-on"])
def test_every_call_fails_in_turn(tmp_path: Path, target: str, old: bool, onward: bool) -> None:
    place, failed = Place(tmp_path, target, old), 0
    disk = Disk(place.folder)
    with disk.failing():
        place.run()
    assert {"pwrite", "fsync", "truncate", "mkdir", "rename" if old and target == "out" else "replace"} <= set(disk.seen)
    for number in range(1, disk.count + 1):
        place.reset()
        code = (errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EACCES)[number % 4]
        try:
            with disk.failing(number, code, onward):
                place.run()
        except engine.EngineError as error:
            failed += 1
            sentence(error)
            assert str(place.folder) in str(error) or "safetensors" in str(error)
        place.check()
    assert failed > 10


def test_a_disk_that_takes_a_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, "out.safetensors", False)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, position: real(descriptor, data[:97], position))
    place.run()
    assert contents(place.target) == place.whole


def test_a_failure_that_the_disk_tells_once_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reports a failed write-back to one fsync only: not to the last one, if an earlier one heard it."""
    from engine.writers import artifact

    place = Place(tmp_path, "out.safetensors", False)
    told = []

    def broken(descriptor: int) -> None:
        told.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    monkeypatch.setattr(artifact, "FLUSH_EVERY", 1)

    class Waiting(engine.Monitor):
        def layer_done(self, report: engine.LayerReport) -> None:
            while not told:
                pass

    with pytest.raises(engine.OutputError, match="Input/output error"):
        place.run(monitor=Waiting())
    monkeypatch.undo()
    place.check()


def test_a_folder_that_cannot_come_back_is_told_and_kept(tmp_path: Path) -> None:
    place = Place(tmp_path, "out", True)
    disk = Disk(place.folder, ("rename",))
    with pytest.raises(engine.OutputError, match="What was there before is in") as error, disk.failing(2, onward=True):
        place.run()
    sentence(error.value)
    (left,) = hidden(place.folder)
    assert contents(place.folder / left / "old") == place.before
    place.check()
    assert contents(place.target) == place.before


# -- real disks --------------------------------------------------------------------------------------------------------

LIMITED = """if 1:
    import engine, resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    engine.quantize_to(sys.argv[1], sys.argv[2] + ".first.safetensors", "int4:g64", format="safetensors", record=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    try:
        engine.quantize_to(sys.argv[1], sys.argv[2], "int4:g64", format="safetensors", record=False, overwrite=True)
    except engine.OutputError as error:
        print(error)
    """


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    place = Place(tmp_path, "out.safetensors", True)
    done = subprocess.run([sys.executable, "-c", LIMITED, place.model, place.target, "5000"], capture_output=True, text=True)
    assert "does not allow a file that large" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    (place.folder / "out.safetensors.first.safetensors").unlink()
    assert contents(place.target) == place.before and hidden(place.folder) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY and signal.SIGXFSZ


FULL = """
set -e
mount -t tmpfs -o size=200k none "$2" || exit 77
exec "$0" -c '
import engine, pathlib, sys
class Filling(engine.Monitor):
    def layer_done(self, report):
        with open(sys.argv[2] + "/filler", "ab") as file:
            try: file.write(bytes(1 << 20))
            except OSError: pass
            try: file.close()
            except OSError: pass
try:
    engine.quantize_to(sys.argv[1], sys.argv[2] + "/out.safetensors", "int8:channel", format="safetensors", record=False,
                       monitor=Filling())
except engine.OutputError as error:
    print(error)
print(sorted(path.name for path in pathlib.Path(sys.argv[2]).iterdir()))
' "$1" "$2"
"""


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """A small memory disk of our own, where the system lets us have one."""
    model, disk = make_model(tmp_path / "model", layers=12), tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    command = ["unshare", "-m", "sh", "-c", FULL, sys.executable, str(model), str(disk)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("this system lets us mount nothing")
    assert "the disk is full; free some space" in done.stdout and "['filler']" in done.stdout, done.stdout + done.stderr


READ_ONLY = """if 1:
    import engine, os, sys
    engine.quantize_to(sys.argv[1], sys.argv[3], "int8:channel", format="safetensors", record=False)  # all that is imported
    if os.geteuid() == 0:
        os.seteuid(65534)  # for whom permissions count
    try:
        engine.quantize_to(sys.argv[1], sys.argv[2], "int8:channel", format="safetensors", record=False, overwrite=True)
    except engine.OutputError as error:
        print(error)
    """


def test_a_read_only_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:  # pytest's own folders let nobody else in
        place = Place(Path(root), "out.safetensors", True)
        for path in (Path(root), place.model, *place.model.iterdir()):
            path.chmod(0o755)
        place.folder.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, place.model, place.target, Path(root) / "first.safetensors"]
        done = subprocess.run(command, capture_output=True, text=True)
        place.folder.chmod(0o755)
        assert "you may not write there" in done.stdout, done.stderr
        assert contents(place.target) == place.before and hidden(place.folder) == []


@pytest.mark.parametrize("what", ["folder", "workspace"])
@pytest.mark.parametrize("target", FORMS)
def test_the_place_is_removed_while_running(tmp_path: Path, target: str, what: str) -> None:
    place = Place(tmp_path, target, False)

    class Removing(engine.Monitor):
        def layer_done(self, report: engine.LayerReport) -> None:
            for path in place.folder.glob(".out*") if what == "workspace" else [place.folder]:
                shutil.rmtree(path, ignore_errors=True)

    with pytest.raises(engine.OutputError, match="Cannot write") as error:
        place.run(monitor=Removing())
    sentence(error.value)
    if what == "workspace":
        place.check()
    else:
        assert not place.folder.exists()


# -- links and inputs --------------------------------------------------------------------------------------------------


def test_a_link_keeps_pointing_where_it_points(tmp_path: Path) -> None:
    place = Place(tmp_path, "out.safetensors", True)
    other = tmp_path / "other"
    other.mkdir()
    os.rename(place.target, other / "real.safetensors")
    place.target.symlink_to(other / "real.safetensors")
    place.run()
    assert place.target.is_symlink() and place.whole
    assert (other / "real.safetensors").read_bytes() == place.whole["out.safetensors"]
    assert hidden(place.folder) == hidden(other) == []
    place.target.unlink()
    place.target.symlink_to(place.target)
    with pytest.raises(engine.OutputError) as error:
        place.run()
    sentence(error.value)


def test_the_output_is_never_the_input(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    before = contents(model)
    weights = model / "model.safetensors"
    (tmp_path / "link.safetensors").symlink_to(weights)
    (tmp_path / "folder").symlink_to(model)
    for source, target in (
        (weights, weights), (weights, tmp_path / "link.safetensors"), (model, model), (model, tmp_path / "folder"),
        (model, model / "inside.safetensors"), (weights, model / "." / "model.safetensors"), (tmp_path / "folder", model),
    ):  # fmt: skip
        with pytest.raises(engine.OutputError, match="input itself") as error:
            engine.quantize_to(source, target, "int8:channel", record=False, overwrite=True)
        sentence(error.value)
    # Another name of the same file: the name gets the new file, the input stays what it is.
    os.link(weights, tmp_path / "hard.safetensors")
    engine.quantize_to(weights, tmp_path / "hard.safetensors", "int8:channel", record=False, overwrite=True)
    assert contents(model) == before
