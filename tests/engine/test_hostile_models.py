"""Hostile model files through the real doors: one sentence or an ordinary answer, nothing run, no hang, little memory."""

from pathlib import Path

import pytest

from tests.corpus import Case, cases
from tests.corpus.judge import open_in_python, open_on_the_command_line

CASES = [case for case in cases() if case.door == "model"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_model(case: Case, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    open_in_python(case, path)
    open_on_the_command_line(case, path)
