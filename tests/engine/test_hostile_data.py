"""Hostile calibration data: one sentence or an ordinary batch, nothing run, no hang, little memory."""

import json
from pathlib import Path

import pytest

from engine import cli
from tests.corpus import Case, cases
from tests.corpus.judge import SAMPLES, check_nothing_ran, guarded, open_in_python, read_answer

CASES = [case for case in cases() if case.door == "data"]
ON_THE_COMMAND_LINE = ("array: objects with a payload", "saved data: REDUCE", "pictures: a bomb of 60,000 by 60,000")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_data(case: Case, tmp_path: Path) -> None:
    open_in_python(case, case.make(tmp_path))


@pytest.mark.parametrize("name", ON_THE_COMMAND_LINE)
def test_hostile_data_on_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    case = next(case for case in CASES if case.name == name)
    path = case.make(tmp_path)
    program = str(SAMPLES / "digits_cnn" / "model.pt2")
    with guarded():
        code = cli.main(["calibrate", program, "--trust", "--data", str(path), "--json"])
    out, err = capsys.readouterr()
    assert code == 2 and json.loads(out)["error"]
    read_answer(case, path, code, "", err.splitlines(keepends=True)[-1])
    check_nothing_ran(case, path)
