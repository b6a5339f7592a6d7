"""Configurations that lie about the size of their network are refused before anything is built."""

import json
import shutil
from pathlib import Path

import pytest

import engine
from engine.models import claims
from engine.models.base import Request
from engine.models.hugging_face import load
from engine.readers import open_path

LIES = [
    ("hidden_size", 2**40, "1,099,511,627,776"),
    ("intermediate_size", 2**40, "parameters"),
    ("vocab_size", 10**15, "parameters"),
    ("num_hidden_layers", 10**9, "1,000,000,000"),
    ("num_hidden_layers", 1e9, "tensors"),
    ("n_layer", 10**9, "tensors"),
    ("num_local_experts", 10**8, "tensors"),
    ("hidden_size", 10**600, "a number of 1,994 bits"),
    ("hidden_sizes", [64, 2**50], "parameters"),
    ("text_config", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
]


@pytest.mark.parametrize(("key", "value", "words"), LIES, ids=[f"{key}-{number}" for number, (key, _, _) in enumerate(LIES)])
def test_a_size_that_no_file_holds_is_refused(
    key: str, value: object, words: str, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(language_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    monkeypatch.setattr("engine.models.hugging_face._classes", lambda *_: pytest.fail("something was built"))
    with pytest.raises(engine.InputError, match=r"config\.json says .*; one of them is wrong\.$") as error:
        load(Request(str(folder)))
    assert words in str(error.value) and len(str(error.value)) < 500


def test_ordinary_configurations_are_believed(language_model: Path) -> None:
    summary = open_path(str(language_model))
    config = json.loads((language_model / "config.json").read_text())
    claims.check("x", config, summary)
    large = {"max_position_embeddings": 10_485_760, "eos_token_id": 200_000_000, "sliding_window": 2**40, "rope_theta": 1e9}
    claims.check("x", config | large, summary)
