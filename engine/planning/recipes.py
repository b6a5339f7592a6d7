"""Presets, built-in rules, and which layers a rule means."""

import difflib
from collections.abc import Callable

from engine.errors import RecipeError
from engine.patterns import compiled, is_name
from engine.records.model import LayerInfo
from engine.records.recipe import Recipe, Rule
from engine.records.scheme import KEEP
from engine.schemes import FAMILIES, family_of, parse_scheme

TINY = 255
HEAD = r"re:(.*\.)?(lm_head|embed_out)$"
"""The layer that gives logits."""
BUILTIN_RULES: tuple[Rule, ...] = (
    Rule(KEEP, kind="norm", note="norms stay float"),
    Rule(KEEP, kind="bias", note="biases stay float"),
    Rule(KEEP, kind="other", note="buffers and others stay"),
    Rule(KEEP, match=r"re:.*(router|[._]gate)$", note="routers stay float"),
    Rule(KEEP, kind="embedding", note="embeddings stay float"),
    Rule(KEEP, match=HEAD, note="the output head stays float"),
    Rule(KEEP, max_size=TINY, note="tiny tensors stay float"),
)


def _preset(name: str, scheme: str, activations: str = "none", builtin: bool = True) -> Recipe:
    return Recipe(default=parse_scheme(scheme), activations=activations, name=name, builtin=builtin)


PRESETS: tuple[Recipe, ...] = (
    _preset("W4A16", "int4:g128"),
    _preset("W4A16_ASYM", "int4:g128:asym"),
    _preset("W8A16", "int8:channel"),
    _preset("W8A8", "int8:channel", activations="int8:token"),
    _preset("W8A8_STATIC", "int8:channel", activations="int8:static"),
    _preset("FP8", "fp8_e4m3:tensor", activations="fp8:static"),
    _preset("FP8_DYNAMIC", "fp8_e4m3:channel", activations="fp8:token"),
    _preset("FP8_BLOCK", "fp8_e4m3:b128x128", activations="fp8:token"),
    _preset("MXFP8", "mxfp8", activations="mxfp8"),
    _preset("MXFP4", "mxfp4", activations="mxfp4"),
    _preset("NVFP4", "nvfp4", activations="nvfp4"),
    _preset("NVFP4A16", "nvfp4"),
    _preset("NF4", "nf4:g64"),
    _preset("FP16", "fp16", builtin=False),
    _preset("BF16", "bf16", builtin=False),
)


def preset(name: str) -> Recipe | None:
    """The preset of that name, whatever its case, or None."""
    return next((recipe for recipe in PRESETS if recipe.name.lower() == name.strip().lower()), None)


def recipe_for(text: str) -> Recipe:
    """A preset's name or a scheme's, as ``--scheme`` takes it. Raises RecipeError.

    Presets are written in capitals: ``MXFP4`` quantizes activations too, ``mxfp4`` is the scheme alone.
    """
    known = preset(text)
    if known and (text.strip() == known.name or not _is_other_scheme(text, known)):
        return known
    try:
        return Recipe(default=parse_scheme(text), name=text.strip())
    except RecipeError as error:
        names = [recipe.name for recipe in PRESETS]
        bases = {base.upper(): base for family in FAMILIES for base, _ in family.choices.bases}
        wanted = text.strip().upper()
        if "is not a scheme" not in str(error):  # a scheme with a wrong word: that is the thing to say
            raise
        near = list(dict.fromkeys(difflib.get_close_matches(wanted, [*names, *bases], 4)))[:3]
        near = list(dict.fromkeys(name if name in names else bases[name] for name in near))
        hint = f"did you mean {' or '.join(near)}?" if near else f"presets are {', '.join(names)}."
        raise RecipeError(f"{text!r} is neither a preset nor a scheme; {hint}") from None


def _is_other_scheme(text: str, known: Recipe) -> bool:
    """Whether a preset's name in small letters names a scheme that is less than the preset."""
    try:
        return (parse_scheme(text), "none") != (known.default, known.activations)
    except RecipeError:
        return False


def matcher(rule: Rule) -> Callable[[LayerInfo], bool]:
    """A fast test of one rule; its pattern is compiled once.

    A rule that quantizes speaks of weights: biases and norms that a pattern or a size happens to match are left to what comes
    after it. One that names them, by name or by kind, is taken at its word.
    """
    pattern = compiled(rule.match, own=any(rule is one for one in BUILTIN_RULES)) if rule.match else None
    weights = rule.kind is None and exact_name(rule) is None and bool(family_of(rule.scheme).quantization_args(rule.scheme))

    def matches(layer: LayerInfo) -> bool:
        return (
            (len(layer.shape) > 1 or not weights)
            and (rule.kind is None or rule.kind == layer.kind)
            and (rule.min_size is None or layer.parameters >= rule.min_size)
            and (rule.max_size is None or layer.parameters <= rule.max_size)
            and (pattern is None or pattern.match(layer.name) is not None)
        )

    return matches


def exact_name(rule: Rule) -> str | None:
    """The one name that a rule's pattern matches; None for a pattern that may match several."""
    return rule.match if rule.match is not None and is_name(rule.match) else None


def describe(rule: Rule) -> str:
    """The conditions of a rule in words, e.g. ``*.down_proj · linear``."""
    words = [rule.match or "", rule.kind or ""]
    words.append(f"≥ {rule.min_size:,} elements" if rule.min_size is not None else "")
    words.append(f"≤ {rule.max_size:,} elements" if rule.max_size is not None else "")
    return " · ".join(word for word in words if word) or "every layer"
