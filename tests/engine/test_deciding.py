"""What every rule of a recipe comes to: deciding, overtaken, matching nothing."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.cli import main
from engine.planning import recipes
from engine.planning.deciding import choices, decide
from engine.records.model import LayerInfo
from engine.records.plan import RuleEffect
from engine.records.recipe import Recipe, Rule
from engine.schemes import parse_scheme

INT4, INT8, KEEP = map(parse_scheme, ("int4:g128", "int8:channel", "keep"))

# The bundled model has 4 blocks of q, k, v, o, gate, up and down, 9 norms, an embedding and a head.
RULES = (
    Rule(INT8, match="*.0.*_proj"),  # 7
    Rule(KEEP, match="*.up_proj"),  # 4, the first of which is taken
    Rule(KEEP, match="model.layers.0.mlp.up_proj"),  # taken by rule 1
    Rule(KEEP, match="*.experts.*"),  # none
    Rule(INT8, match="model.layers.3.mlp.down_proj"),  # one by name
    Rule(INT8, match="re:.*layers\\.0\\..*up_proj|.*layers.1.mlp.up_proj"),  # taken by rules 1 and 2
)


def test_effects_are_counted_as_by_hand(language_model: Path) -> None:
    plan = engine.plan(language_model, Recipe(INT4, rules=RULES))
    assert plan.rules[:6] == (
        RuleEffect("own", 7, 7),
        RuleEffect("own", 3, 4, ((0, 1),)),
        RuleEffect("own", 0, 1, ((0, 1),)),
        RuleEffect("own", 0, 0),
        RuleEffect("own", 1, 1),
        RuleEffect("own", 0, 2, ((0, 1), (1, 1))),
    )
    builtin = {rule.note: effect.decides for rule, effect in zip(recipes.BUILTIN_RULES, plan.rules[6:], strict=False)}
    assert builtin["norms stay float"] == 9 and builtin["embeddings stay float"] == 1
    assert builtin["the output head stays float"] == 1 and sum(builtin.values()) == 11
    assert plan.rules[-1] == RuleEffect("default", 17, 17)
    assert len(plan.rules) == 6 + len(recipes.BUILTIN_RULES) + 1
    assert sum(effect.decides for effect in plan.rules) == len(plan.layers) == 39


def test_a_layer_knows_the_rule_that_decided_it(language_model: Path) -> None:
    plan = engine.plan(language_model, Recipe(INT4, rules=RULES))
    found = {line.layer.name: line.decided_by for line in plan.layers}
    assert (found["model.layers.0.mlp.up_proj"], found["model.layers.2.mlp.up_proj"]) == (0, 1)
    assert (found["model.layers.3.mlp.down_proj"], found["model.layers.3.mlp.gate_proj"]) == (4, len(plan.rules) - 1)


NAMES = [f"layers.{n}.{part}" for n in range(3) for part in ("q", "k", "norm")]
layers = [LayerInfo(name, "norm" if "norm" in name else "linear", (8, 8), "BF16", ()) for name in NAMES]
patterns = st.sampled_from([*NAMES, "*.q", "layers.[01].*", "re:.*1", "other", "*", "layers.1.Q"])
some = st.builds(Rule, scheme=st.just(INT8), match=patterns, kind=st.sampled_from([None, "linear", "norm"]))


@given(rules=st.lists(some, max_size=5), builtin=st.booleans())
def test_the_first_match_wins_however_it_is_found(rules: list[Rule], builtin: bool) -> None:
    """Against rules tried one after the other on every layer."""
    recipe = Recipe(INT4, rules=tuple(rules), builtin=builtin)
    every = [*rules, *(recipes.BUILTIN_RULES if builtin else ()), Rule(INT4)]
    expected = [next(n for n, rule in enumerate(every) if recipes.matcher(rule)(layer)) for layer in layers]
    found, effects = decide(layers, recipe)
    assert found == expected and len(choices(recipe)) == len(effects) == len(every)
    for n, rule in enumerate(rules):
        matched = [place for place, layer in enumerate(layers) if recipes.matcher(rule)(layer)]
        assert effects[n].matches == len(matched) and effects[n].decides == expected.count(n)
        assert dict(effects[n].taken) == {m: k for m in range(n) if (k := sum(expected[place] == m for place in matched))}


def test_the_command_line_tells_of_rules_that_decide_nothing(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text(engine.recipe_to_text(Recipe(INT4, rules=RULES)))
    words = ["plan", str(language_model), "--recipe", str(tmp_path / "r.toml")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "note: rule 3 (model.layers.0.mlp.up_proj) decides nothing: rule 1 took what it matches." in text
    assert "note: rule 4 (*.experts.*) matches no layer." in text
    assert "rules 1 and 2 took" in text and "note: rule 5" not in text
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rules"][1] == {"source": "own", "decides": 3, "matches": 4, "taken": [[0, 1]]}
