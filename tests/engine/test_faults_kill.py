"""``kill -9`` at seeded points: the destination is old, absent or complete, and the next start clears up."""

import json
import subprocess
import sys
from pathlib import Path

from tests.engine.faults import SOAK, make_model

KILLS, WINDOW = (200, 50) if SOAK else (24, 10)


def test_kills_at_seeded_points(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=8)
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-m", "tests.engine.killing", model, tmp_path / "place", "7", str(KILLS), str(WINDOW)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert sum(told["found"].get(what, 0) for what in ("old", "absent", "whole")) == KILLS
    assert told["found"]["killed"] > 0.8 * KILLS and told["found"]["whole"] > 0
    print(told)
