"""Hostile recipes: TOML that takes long, patterns that never end, numbers and commands where names belong."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.corpus.case import Case, written

NAME = "x.toml"


def _toml() -> Iterator[tuple[str, str, str]]:
    """(name, text, words of the refusal)"""
    part = '"\\"x"'
    yield "a key of 50,000 parts", ".".join("a" * 50_000) + " = 1", "more than 16 parts"
    yield "a quoted key of 50,000 parts", ".".join([part] * 50_000) + " = 1", "more than 16 parts"
    yield "a spaced key of 50,000 parts", "  . ".join("a" * 50_000) + " = 1", "more than 16 parts"
    yield "a table of 50,000 parts", "[" + ".".join("a" * 50_000) + "]", "more than 16 parts"
    yield "a list of tables of 50,000 parts", "[[ " + ".".join(["'a'"] * 50_000) + "]]", "more than 16 parts"
    yield "an inline key of 50,000 parts", "a = {b = 1, " + ".".join("a" * 50_000) + " = 1}", "more than 16 parts"
    yield "lists nested 50,000 deep", "a = " + "[" * 50_000, "nested too deeply"
    yield "tables nested 50,000 deep", "a = " + "{a = " * 50_000, "nested too deeply"
    yield "3 MB of nothing", "\n" * 3_000_000, "at most"
    yield "a number of 6,000 digits", "min_size = " + "9" * 6000, "thousands of digits"
    yield "NUL", "scheme = \0", "not valid TOML"
    yield "an unknown key with colours", '"\\u001b[31m" = 1', "unknown key"
    yield "HTML as a scheme", 'scheme = "<img src=x>"', "is not a scheme"
    yield "a scheme of 1 MB", f'scheme = "{"x" * 1_000_000}"', "is not a scheme"
    yield "a name of 1 MB", f'name = "{"x" * 1_000_000}"', "at most 1000 characters"
    yield "rules that are a number", "rules = 5", "rules"
    yield "rules of numbers", "rules = [1, 2]", "key '0'"
    yield "a rule without a scheme", "[[rules]]\nmatch = '*'", "missing"
    yield "an output inside", 'output = "/etc/passwd"', "unknown key"
    yield "a command inside", 'command = "rm -rf ~"', "unknown key"
    yield "an output inside a rule", "[[rules]]\nscheme = 'keep'\noutput = '../../x'", "unknown key"
    yield "an algorithm that is code", "algorithm = \"__import__('os').system('x')\"", "x.toml"
    yield "an option of 6,000 digits", f'algorithm = "mse:norm={"9" * 6000}"', "x.toml"
    yield "an option that is NaN", 'algorithm = "mse:norm=nan"', "x.toml"
    yield "an option that is infinite", 'algorithm = "mse:norm=inf"', "x.toml"
    yield "a chain of 10,000", f'algorithm = "{"+".join(["rtn"] * 10_000)}"', "x.toml"
    yield "an unknown kind", "[[rules]]\nscheme = 'keep'\nkind = 'linear; drop table'", "is not one of"
    yield "a size below zero", "[[rules]]\nscheme = 'keep'\nmin_size = -1", "min_size"
    yield "a size of 2^64", "[[rules]]\nscheme = 'keep'\nmin_size = 18446744073709551616", "min_size"
    yield "a size that is true", "[[rules]]\nscheme = 'keep'\nmin_size = true", "min_size"
    yield "a size that is NaN", "[[rules]]\nscheme = 'keep'\nmin_size = nan", "min_size"


def _bits() -> Iterator[tuple[str, str, str]]:
    for value in ("0", "-1", "4.5", '"4"', "true", "nan", "inf", "[4]", "{a = 4}"):
        yield f"a key bits that is {value}", f"bits = {value}", "unknown key"
        yield f"a scheme that is {value}", f"scheme = {value}", "is not a scheme" if value == '"4"' else "scheme"
    for bits in ("0", "-1", "4.5", "true", "nan", "99", "1e1", "4 2", "+4", "9" * 5000):
        yield f"int{bits[:10]} bits", f'scheme = "int{bits}:g128"', "x.toml"
    for group in ("0", "-1", "4.5", "nan", "9" * 5000, "1_0", "0x10", "³"):
        yield f"groups of {group[:10]}", f'scheme = "int4:g{group}"', "x.toml"


PATTERNS = (
    "re:(a|a)*$", "re:(a|aa)+$", "re:(.*a){20}$", "re:(a+)+$", r"re:(\w+\s?)+$", "re:((a{0,300}){0,300}){0,300}$",
    "re:(?:a?){300}a{300}b", r"re:(?=(a+))a*b\1", "re:([a-z]+)*0", "re:(.|\\n)*(.|\\n)*(.|\\n)*x$",
)  # fmt: skip
"""Regular expressions that may never end."""


def _wrong_patterns() -> Iterator[tuple[str, str, str]]:
    yield "a pattern of 10,000 brackets", "re:" + "(" * 10_000, "too long"
    yield "a pattern of 490 brackets", "re:" + "(" * 490 + ")" * 490, "nested"
    yield "a glob of 2,000 stars", "*a" * 2000, "too long"
    yield "a pattern that ends early", "re:[", "not a regular expression"
    yield "a repetition of 2^64", "re:a{18446744073709551616}", "repeated too much"
    yield "an empty pattern", "", "matches nothing"


def _rule(pattern: str) -> str:
    return f"[[rules]]\nscheme = 'keep'\nmatch = '{pattern}'\n"


def cases() -> Iterator[Case]:
    for name, text, says in (*_toml(), *_bits()):
        yield Case(f"recipe: {name}", written(NAME, text.encode()), says, "recipe")
    for name, pattern, says in _wrong_patterns():
        yield Case(f"recipe: {name}", written(NAME, _rule(pattern).encode()), says, "recipe")
    for pattern in PATTERNS:
        yield Case(f"recipe: the pattern {pattern}", written(NAME, _rule(pattern).encode()), None, "recipe")
    yield Case("recipe: a glob of 400 stars", written(NAME, _rule("*a" * 400).encode()), None, "recipe")
    yield Case("recipe: 20,000 rules", written(NAME, (_rule("a.b") * 20_000).encode()), None, "recipe")
    yield Case("recipe: 100,000 rules", written(NAME, (_rule("*.b") * 100_000).encode()), "at most", "recipe")
    yield Case("recipe: bytes that are no text", written(NAME, b"\xff\xfe\x00"), "not UTF-8", "recipe")
    yield Case("recipe: nothing", written(NAME, b""), None, "recipe")
    for name, make in _special():
        yield Case(f"recipe: {name}", make, "recipe", "recipe")


def _special() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    from tests.corpus.special_files import SPECIAL

    yield from ((name, lambda folder, make=make: make(folder, NAME)) for name, make in SPECIAL.items())
