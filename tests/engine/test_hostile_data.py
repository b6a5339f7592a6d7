"""Hostile calibration data: one sentence or an ordinary batch, nothing run, no hang, little memory."""

from pathlib import Path

import pytest

from tests.corpus import Case, cases
from tests.corpus.judge import open_in_python

CASES = [case for case in cases() if case.door == "data"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_data(case: Case, tmp_path: Path) -> None:
    open_in_python(case, case.make(tmp_path))
