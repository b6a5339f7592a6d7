"""Sound files changed at random: each opens or is refused by one sentence. ``make soak`` tries 10,000 of them."""

from pathlib import Path

import pytest

from tests.corpus.judge import open_in_python
from tests.corpus.mutations import mutations


@pytest.mark.parametrize("part", range(5))
def test_mutations(part: int, tmp_path: Path) -> None:
    for number, case in enumerate(list(mutations(200))[part::5]):
        folder = tmp_path / str(number)
        folder.mkdir()
        open_in_python(case, case.make(folder))


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        for case in list(mutations(20, seed=5))[:4]:
            case.make(tmp_path / name)
    first, again = (sorted((tmp_path / name).iterdir()) for name in ("first", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
