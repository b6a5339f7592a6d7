"""Hostile recipes through the real doors; patterns that may never end are stopped by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import engine
from engine import patterns
from engine.planning.deciding import decide
from tests.corpus import Case, cases
from tests.corpus.judge import open_in_python, open_on_the_command_line
from tests.corpus.recipe_files import PATTERNS

CASES = [case for case in cases() if case.door == "recipe"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_recipe(case: Case, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    open_in_python(case, path)
    open_on_the_command_line(case, path)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_that_may_never_end_matches_or_is_stopped(pattern: str, tmp_path: Path) -> None:
    save_file({"a" * 300 + "!.weight": torch.zeros(32, 32)}, tmp_path / "x.safetensors")
    recipe = engine.recipe_from_text(f"[[rules]]\nscheme = 'keep'\nmatch = '{pattern}'")
    try:
        engine.plan(tmp_path / "x.safetensors", recipe)
    except engine.RecipeError as error:
        assert "takes too long on 'aaa" in str(error)


def test_the_slowest_pattern_is_stopped() -> None:
    with pytest.raises(engine.RecipeError, match="takes too long"):
        patterns.compiled("re:(a|a)*$").match("a" * 300 + "!")


@pytest.mark.parametrize(
    "pattern",
    [r"re:(.*\.)?(q|k)_proj$", "re:model\\.layers\\.[0-3]\\.", "re:^x", "*.q_proj", "[ab]*", "re:", "a.q_proj", "b", "a]"],
)
def test_patterns_say_what_the_standard_library_says(pattern: str) -> None:
    import fnmatch
    import re

    names = [
        "a.q_proj",
        "q_proj",
        "model.layers.2.mlp",
        "model.layers.7.mlp",
        "xy",
        "b",
        "",
        "a\nq_proj",
        "a.q_proj.x",
        "a]",
        "bb",
    ]
    standard = re.compile(pattern[3:] if pattern.startswith("re:") else fnmatch.translate(pattern))
    assert [bool(patterns.compiled(pattern).match(name)) for name in names] == [bool(standard.match(name)) for name in names]


@pytest.mark.parametrize("match", ["*.b", "re:x$"])
def test_more_patterns_than_can_be_compared_are_refused(match: str, digits: Path) -> None:
    layers = engine.open_model(digits / "model.safetensors").layers[:1] * 90_000
    rule = f"[[rules]]\nscheme = 'keep'\nmatch = '{match}'\n"
    with pytest.raises(engine.RecipeError, match=r"1,000 patterns cannot be compared with 90,000 layers \(222 are the most\)"):
        decide(layers, engine.recipe_from_text(rule * 1_000))
    single = "[[rules]]\nscheme = 'keep'\nmatch = 'a.b'\n"  # by its name: nothing is compared
    assert len(decide(layers[:9_000], engine.recipe_from_text(single * 5_000 + rule))[1]) > 5_000


def test_all_comparisons_with_a_pattern_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "IN_ALL", 0.0)
    slow = patterns.compiled("re:(a|a)*$")
    assert slow.match("aa")
    with pytest.raises(engine.RecipeError, match="takes too long"):
        slow.match("a" * 300 + "!")
