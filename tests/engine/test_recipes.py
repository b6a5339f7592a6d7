"""Recipes: what TOML means, and what is said of a wrong one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.planning import recipe_files, recipes
from engine.records.model import KINDS, LayerInfo, TensorInfo
from engine.records.recipe import Recipe, Rule
from tests.engine.test_schemes import integers

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
rules = st.builds(
    Rule,
    scheme=integers,
    match=st.one_of(st.none(), st.sampled_from(["*.q_proj", "re:.*mlp.*", "lm_head"])),
    kind=st.one_of(st.none(), st.sampled_from(KINDS)),
    min_size=st.one_of(st.none(), st.integers(0, 10**12)),
    max_size=st.one_of(st.none(), st.integers(0, 10**12)),
    note=words,
)
whole = st.builds(
    Recipe, default=integers, rules=st.lists(rules, max_size=4).map(tuple), builtin=st.booleans(),
    activations=st.sampled_from(["none", "int8:token"]), name=words,
)  # fmt: skip


@given(recipe=whole)
def test_a_recipe_survives_its_file(recipe: Recipe) -> None:
    assert recipe_files.loads(recipe_files.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ('scheme = "int4:g128"\nshceme = "keep"\n', 2, "shceme"),
        ('name = "x"\nscheme = "int9"\n', 2, "scheme"),
        ('\n\nbuiltin = "yes"\n', 3, "builtin"),
        ('[[rules]]\nscheme = "keep"\n\n[[rules]]\nmatch = "re:("\nscheme = "keep"\n', 5, "match"),
        ('[[rules]]\nscheme = "keep"\n[[rules]]\nscheme = "keep"\nkidn = "linear"\n', 5, "kidn"),
        ('[[rules]]\nscheme = "keep"\nkind = "lineal"\n', 3, "kind"),
        ('[[rules]]\nmatch = "a"\n', 1, "scheme"),
        ('[[rules]]\nscheme = "keep"\nmin_size = -1\n', 3, "min_size"),
        ('algorithm = "magic"\n', 1, "algorithm"),
        ('activations = "int3"\n', 1, "activations"),
    ],
)
def test_a_wrong_recipe_is_told_by_line_and_key(text: str, line: int, key: str) -> None:
    with pytest.raises(engine.RecipeError) as error:
        recipe_files.loads(text, "my.toml")
    assert str(error.value).startswith(f"my.toml, line {line}:")
    assert repr(key) in str(error.value)


def test_text_that_is_not_toml_names_the_place() -> None:
    with pytest.raises(engine.RecipeError, match=r"not valid TOML.*line 2"):
        recipe_files.loads('scheme = "keep"\n= 3\n')


def _layer(name: str, kind: str = "linear", shape: tuple[int, ...] = (64, 64)) -> LayerInfo:
    return LayerInfo(name, kind, shape, "BF16", (TensorInfo(f"{name}.weight", "BF16", shape, 8192, 0, 0),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "matching", "other"),
    [
        (Rule(recipes.KEEP, match="*.down_proj"), "a.0.down_proj", "a.0.down_proj.x"),
        (Rule(recipes.KEEP, match="lm_head"), "lm_head", "model.lm_head"),
        (Rule(recipes.KEEP, match=r"re:.*\.mlp\."), "model.mlp.up", "model.attn.up"),
        (Rule(recipes.KEEP, match="layers.[01].*"), "layers.1.q", "layers.2.q"),
    ],
)
def test_patterns(rule: Rule, matching: str, other: str) -> None:
    matches = recipes.matcher(rule)
    assert matches(_layer(matching)) and not matches(_layer(other))


def test_conditions_are_joined_by_and() -> None:
    matches = recipes.matcher(Rule(recipes.KEEP, match="a*", kind="linear", min_size=4096, max_size=4096))
    assert matches(_layer("a"))
    assert not matches(_layer("a", "conv2d"))
    assert not matches(_layer("a", shape=(64, 63)))
    assert not matches(_layer("b"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.gate", "routers stay float"),
        ("model.layers.3.block.router", "routers stay float"),
        ("model.layers.3.mlp.shared_expert_gate", "routers stay float"),
        ("lm_head", "the output head stays float"),
        ("model.layers.3.mlp.gate_proj", None),
    ],
)
def test_builtin_rules_catch_routers_and_heads_only(name: str, expected: str | None) -> None:
    hit = next((rule.note for rule in recipes.BUILTIN_RULES if recipes.matcher(rule)(_layer(name))), None)
    assert hit == expected


@pytest.mark.parametrize(
    ("text", "scheme", "activations"),
    [
        ("MXFP4", "mxfp4", "mxfp4"), ("mxfp4", "mxfp4", "none"), ("FP8", "fp8_e4m3:tensor", "fp8:static"),
        ("fp8", "fp8_e4m3:channel", "none"), ("w8a8", "int8:channel", "int8:token"), ("nf4", "nf4:g64", "none"),
        ("FP8_BLOCK", "fp8_e4m3:b128x128", "fp8:token"), ("NVFP4", "nvfp4", "nvfp4"), ("NVFP4A16", "nvfp4", "none"),
    ],
)  # fmt: skip
def test_presets_are_in_capitals_and_schemes_in_small_letters(text: str, scheme: str, activations: str) -> None:
    found = engine.recipe(text)
    assert (engine.scheme_name(found.default), found.activations) == (scheme, activations)


@pytest.mark.parametrize(
    ("wrong", "right"), [("W4A17", "W4A16"), ("nvfp5", "NVFP4"), ("FP8_DINAMIC", "FP8_DYNAMIC"), ("nf3", "NF4")]
)
def test_an_unknown_name_gets_the_nearest_ones(wrong: str, right: str) -> None:
    with pytest.raises(engine.RecipeError, match=f"{wrong}.*did you mean.*{right}"):
        engine.recipe(wrong)


def test_algorithms_and_their_options_survive_a_file() -> None:
    text = 'scheme = "int4:g64"\nalgorithm = "mse:norm=2.4"\n[[rules]]\nmatch = "*.down"\nscheme = "int8"\nalgorithm = "hqq"\n'
    recipe = engine.recipe_from_text(text)
    assert engine.recipe_from_text(engine.recipe_to_text(recipe)) == recipe
    assert (recipe.algorithm, recipe.rules[0].algorithm) == ("mse:norm=2.4", "hqq")
    with pytest.raises(engine.RecipeError, match=r"line 2: key 'algorithm': .*norm is between"):
        engine.recipe_from_text(text.replace("2.4", "99"))


def test_patterns_speak_of_weights_and_names_of_what_they_name() -> None:
    bias = LayerInfo("a.key.bias", "bias", (512,), "F32", (TensorInfo("a.key.bias", "F32", (512,), 2048, 0, 0),))
    int8 = recipes.parse_scheme("int8:channel")
    assert not recipes.matcher(Rule(int8, match="a.*"))(bias)
    assert not recipes.matcher(Rule(int8, min_size=10))(bias)
    assert recipes.matcher(Rule(recipes.KEEP, match="a.*"))(bias)
    assert recipes.matcher(Rule(int8, match="a.key.bias"))(bias) and recipes.matcher(Rule(int8, kind="bias"))(bias)
