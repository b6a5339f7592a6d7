"""The run ledger: what it keeps, with several processes at once, and after damage."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import engine
from engine.history import Ledger, owners, read_measurements, save_measurements
from engine.records.codec import to_data
from engine.records.report import ChannelRanges, Histogram, LayerReport

LAYER = LayerReport(
    "a.b", "int4 g128", "rtn", 20.5, 1e-4, 0.01, 0.0, 2.0, 1.0, 8, 16, 6, 0.1,
    Histogram(1.0, (1, 2)), ChannelRanges(1, (0.0,), (1.0,)),
)  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger(tmp_path / "runs") as found:
        yield found


def begin(ledger: Ledger, model: str = "/models/tiny", **more):
    return ledger.begin(model, 'name = "W4A16"', "tiny.safetensors", **more)


def in_process(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_ledger_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    code = "import sys, engine; engine.Ledger(sys.argv[1]); print(sorted({'torch', 'numpy', 'numba'} & set(sys.modules)))"
    assert in_process(code, tmp_path / "runs").communicate()[0].strip() == "[]"


def test_a_run_from_its_beginning_to_its_report(ledger: Ledger, tmp_path: Path) -> None:
    run = begin(ledger, name="W4A16", arguments={"how": {"trusted": ["ab"], "fold_batch_norm": True}})
    assert (run.number, run.state, run.artifact) == (1, "running", f"{run.folder}/tiny.safetensors")
    assert run.arguments == {"how": {"fold_batch_norm": True}}
    assert Path(run.folder).parent == tmp_path / "runs"
    done = ledger.finish(run.id, totals={"input_hash": "cd", "seconds": 3.0, "data": "texts"}, layers=[LAYER])
    assert (done.state, done.model_hash, done.seconds, done.data) == ("done", "cd", 3.0, "texts")
    assert ledger.layers(run.id) == [LAYER] and ledger.activities(run.id) == []
    with Ledger(tmp_path / "runs") as again:
        assert again.get(run.id) == done


def test_numbers_count_by_model_and_never_come_twice(ledger: Ledger) -> None:
    first, second, other = begin(ledger), begin(ledger), begin(ledger, "/models/other")
    assert (first.number, second.number, other.number) == (1, 2, 1)
    ledger.finish(second.id, "cancelled")
    ledger.delete(second.id)
    assert begin(ledger).number == 3


def test_names_notes_stars_and_tags_are_found(ledger: Ledger) -> None:
    run, other = begin(ledger), begin(ledger)
    ledger.rename(run.id, "Best 50% yet")
    ledger.annotate(run.id, "for the phone")
    ledger.star(run.id)
    ledger.tag(run.id, [" a ", "b", "a", ""])
    found = ledger.get(run.id)
    assert (found.name, found.note, found.starred, found.tags) == ("Best 50% yet", "for the phone", True, ("a", "b"))
    assert [r.id for r in ledger.find("BEST phone")] == [run.id]
    assert [r.id for r in ledger.find("50%")] == [run.id] and ledger.find("5%t") == []
    assert [r.id for r in ledger.find(starred=True)] == [run.id]
    assert [r.id for r in ledger.find(model="/models/tiny")] == [other.id, run.id] and ledger.find(model="/models") == []
    assert ledger.find(states=("done",)) == []


def test_deleting_removes_the_folder_and_hands_children_on(ledger: Ledger, tmp_path: Path) -> None:
    first = begin(ledger)
    second = begin(ledger, parent=first.id)
    third = begin(ledger, parent=second.id)
    outside = tmp_path / "out.safetensors"
    outside.write_bytes(b"x" * 10)
    fourth = ledger.begin("/models/tiny", "", str(outside))
    Path(second.folder, "tiny.safetensors").write_bytes(b"x" * 1000)
    used = ledger.disk_use(second.id)
    assert used == 1000 + Path(second.folder, "run.json").stat().st_size
    whole = ledger.disk_use()
    ledger.delete(second.id)
    assert not Path(second.folder).exists() and ledger.disk_use() <= whole - used + 4096 * 8
    assert ledger.get(third.id).parent == first.id
    with pytest.raises(engine.InputError, match="There is no run"):
        ledger.get(second.id)
    ledger.delete(fourth.id)
    assert outside.exists()


def test_a_run_of_a_living_process_is_neither_taken_over_nor_deleted(ledger: Ledger, tmp_path: Path) -> None:
    code = (
        "import sys, engine; l = engine.Ledger(sys.argv[1]);"
        "print(l.begin('/models/tiny', '', 'a').id, l.begin('/models/tiny', '', 'b', state='queued').id, flush=True);"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "runs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdin
    running, queued = process.stdout.readline().split()
    assert ledger.take_over() == []
    with pytest.raises(engine.OutputError, match="is running in another window"):
        ledger.delete(running)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert {run.id for run in ledger.take_over()} == {running, queued}
    assert {run.state for run in ledger.find()} == {"unfinished"} and ledger.take_over() == []
    again = ledger.update(running, state="running")
    assert again.owner == owners.this_process() and again.started > 0
    ledger.delete(queued)


def test_a_reused_process_number_is_not_the_owner() -> None:
    host, pid, _ = owners.this_process().rsplit(" ", 2)
    assert not owners.is_gone(owners.this_process())
    assert owners.is_gone(f"{host} {pid} 1000.00")
    assert not owners.is_gone(f"another-{host} {pid} 1000.00")


def test_two_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    code = """if 1:
        import sys, engine
        ledger = engine.Ledger(sys.argv[1])
        for i in range(40):
            run = ledger.begin('/models/tiny', '', 'a', name=f'{sys.argv[2]}-{i}')
            ledger.finish(run.id, 'cancelled', message=run.name)
        """
    processes = [in_process(code, tmp_path / "runs", n) for n in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    with Ledger(tmp_path / "runs") as ledger:
        found = ledger.find()
        assert {run.message for run in found} == {f"{n}-{i}" for n in range(3) for i in range(40)}
        assert sorted(run.number for run in found) == list(range(1, 121))
        assert ledger.set_aside == ""


@pytest.mark.parametrize("damage", ["text", "page", "cut"])
def test_a_damaged_ledger_is_set_aside_and_made_again_from_the_folders(tmp_path: Path, damage: str) -> None:
    root = tmp_path / "runs"
    with Ledger(root) as ledger:
        runs = [ledger.finish(begin(ledger).id, totals={"n": n}, layers=[LAYER]) for n in range(30)]
        ledger.star(runs[3].id)
    file = root / "runs.sqlite"
    raw = file.read_bytes()
    middle = len(raw) // 4096 // 2 * 4096
    garbled = {"text": b"<html>", "page": raw[:middle] + b"\xff" * 4096 + raw[middle + 4096 :], "cut": raw[: middle + 100]}
    file.write_bytes(garbled[damage])
    with Ledger(root) as ledger:
        assert ledger.set_aside.startswith("runs.sqlite.damaged-") and (root / ledger.set_aside).read_bytes() == garbled[damage]
        expected = {run.id: run for run in [*runs[:3], replace(runs[3], starred=True), *runs[4:]]}
        assert {run.id: run for run in ledger.find()} == expected
        assert begin(ledger).number == 31
    with Ledger(root) as ledger:
        assert ledger.set_aside == ""


def test_folders_from_before_there_was_a_ledger_are_taken_in_once(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    totals = {"started": 100.0, "seconds": 2.0, "input_hash": "ab", "engine_version": "0.1.0"}
    for number, model in ((1, "/m/a"), (2, "/m/a"), (1, "/m/b")):
        folder = root / f"2026-{number}-{Path(model).name}"
        folder.mkdir(parents=True)
        old = {"number": number, "name": "W4A16", "model_path": model, "artifact": "x.safetensors", "recipe": "r", "data": ""}
        (folder / "run.json").write_text(json.dumps(old | {"totals": totals}))
        (folder / "layers.json").write_text(json.dumps([to_data(LAYER)]))
    copied = root / "copied"
    copied.mkdir()
    record = {"id": "same", "number": 1, "model_path": "/m/c", "recipe": "", "artifact": "x", "folder": "copied"}
    (copied / "run.json").write_text(json.dumps(record))
    shutil.copytree(copied, root / "copy")
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{")
    (root / "abandoned").mkdir()
    (root / "abandoned" / "owner.pid").write_text("2147483646")
    with Ledger(root) as ledger:
        assert {(run.number, run.model_path) for run in ledger.find(states=["queued"])} == {(1, "/m/c"), (2, "/m/c")}
        assert {(run.number, run.model_path, run.state, run.started) for run in ledger.find(states=["done"])} == {
            (1, "/m/a", "done", 100.0), (2, "/m/a", "done", 100.0), (1, "/m/b", "done", 100.0)
        }  # fmt: skip
        assert all(ledger.layers(run.id) == [LAYER] for run in ledger.find(states=["done"]))
        assert begin(ledger, "/m/a").number == 3
        ids = {run.id for run in ledger.find()}
    assert not (root / "abandoned").exists() and (root / "broken").exists()
    with Ledger(root) as ledger:
        assert {run.id for run in ledger.find()} == ids


def test_a_ledger_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / "runs.sqlite") as database:
        database.execute("PRAGMA user_version = 999")
    with pytest.raises(engine.InputError, match="later version"):
        Ledger(tmp_path)


def test_runs_move_with_their_folder(tmp_path: Path) -> None:
    with Ledger(tmp_path / "runs") as ledger:
        run = begin(ledger)
    os.rename(tmp_path / "runs", tmp_path / "elsewhere")
    with Ledger(tmp_path / "elsewhere") as ledger:
        assert ledger.get(run.id).artifact == str(tmp_path / "elsewhere" / Path(run.folder).name / "tiny.safetensors")


def test_what_cannot_be_is_said_in_one_sentence(ledger: Ledger, tmp_path: Path) -> None:
    run = begin(ledger)
    with pytest.raises(engine.InputError, match="number cannot be changed"):
        ledger.update(run.id, number=7)
    with pytest.raises(engine.InputError, match="no state 'finished'"):
        ledger.update(run.id, state="finished")
    with pytest.raises(engine.InputError, match="There is no run nonsense"):
        ledger.star("nonsense")
    with pytest.raises(engine.InputError, match="is running: it has no report"):
        ledger.report(run.id)
    (tmp_path / "file").write_text("")
    with pytest.raises(engine.OutputError, match="cannot be made"):
        Ledger(tmp_path / "file")


def test_another_writer_is_noticed_and_our_own_writing_is_not(ledger: Ledger, tmp_path: Path) -> None:
    before = ledger.stamp()
    run = begin(ledger)
    assert ledger.stamp() == before
    with Ledger(tmp_path / "runs") as other:
        other.star(run.id)
    assert ledger.stamp() != before and ledger.stamp() == ledger.stamp()


def test_what_a_killed_writer_left_goes_once_the_run_has_ended(ledger: Ledger) -> None:
    run = begin(ledger)
    folder = Path(run.folder)
    (folder / ".a.safetensors.mono-quant-123-ab.tmp").write_bytes(b"x")
    (folder / ".b.mono-quant-123-cd.tmp").mkdir()
    (folder / ".b.mono-quant-123-cd.tmp" / "model.safetensors").write_bytes(b"x")
    (folder / "mine.tmp").write_bytes(b"x")
    ledger.clear_half_written(run.id)
    assert len(list(folder.iterdir())) == 4
    ledger.finish(run.id, "failed")
    ledger.clear_half_written(run.id)
    assert sorted(file.name for file in folder.iterdir()) == ["mine.tmp", "run.json"]


def test_measurements_that_another_process_put_there_stay(ledger: Ledger) -> None:
    run = begin(ledger)
    save_measurements(Path(run.folder), [LAYER], [])
    ledger.finish(run.id, totals={"seconds": 1.0}, layers=None)
    assert ledger.layers(run.id) == [LAYER] and read_measurements(Path(run.folder)) == ([to_data(LAYER)], [])
    assert read_measurements(Path(begin(ledger).folder)) == ([], [])
