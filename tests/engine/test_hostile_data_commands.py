"""Hostile data given to ``calibrate --data`` and ``evaluate --data``: exit code 2 and one sentence, nothing run."""

import json
from pathlib import Path

import pytest

from engine import cli
from tests.corpus import Case, cases
from tests.corpus.judge import SAMPLES, check_nothing_ran, guarded, read_answer

IMAGES = [str(SAMPLES / "digits_cnn" / "model.pt2"), "--trust"]
TEXTS = [str(SAMPLES / "docstring_lm")]
NAMES = {
    "array: objects with a payload": IMAGES, "array: 2^60 numbers": IMAGES, "array: a header nested 50,000 deep": IMAGES,
    "archive of arrays: a bomb": IMAGES, "archive of arrays: an object inside": IMAGES, "saved data: REDUCE": IMAGES,
    "pictures: a bomb of 60,000 by 60,000": IMAGES, "pictures: cut short": IMAGES, "pictures: a sound and a broken one": IMAGES,
    "pictures: one cut short among ten": IMAGES, "pictures: no pictures": IMAGES, "data: a pipe, called x.npy": IMAGES,
    "text: a bad line 7": TEXTS, "text: a lone surrogate": TEXTS, "text: a bad line 9 among texts": TEXTS,
    "text: bytes that are no text": TEXTS, "text: a line nested 100,000 deep": TEXTS,
    "token ids: -1": TEXTS, "token ids: 2^62": TEXTS, "token ids: one bad among good ones": TEXTS,
}  # fmt: skip
CASES = {case.name: case for case in cases() if case.name in NAMES}


def test_every_name_is_a_case() -> None:
    assert CASES.keys() == NAMES.keys()


@pytest.mark.parametrize("number", range(len(NAMES)), ids=list(NAMES))
def test_hostile_data_on_the_command_line(number: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    name = list(NAMES)[number]
    case: Case = CASES[name]
    path = case.make(tmp_path)
    with guarded():
        code = cli.main([("calibrate", "evaluate")[number % 2], *NAMES[name], "--data", str(path), "--json"])
    out, err = capsys.readouterr()
    assert code == 2 and json.loads(out)["error"]
    read_answer(case, path, code, "", err.splitlines(keepends=True)[-1])
    check_nothing_ran(case, path)
