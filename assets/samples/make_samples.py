"""Rebuild the bundled sample models from data that needs no download.

    python assets/samples/make_samples.py [digits|lm|all] [--check]

Seeds, thread count and data splits are fixed: the same machine with the same package
versions writes the same models. The language model takes about a quarter of an hour on one
core. With --check nothing is trained: the saved files are loaded, their figures measured
again, and both compared with each sample's metrics.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ["HF_HUB_OFFLINE"] = "1"  # Nothing here may be fetched; set before the libraries load.

from making import common, digits, language_model

HERE = Path(__file__).resolve().parent
SAMPLES: dict[str, tuple[ModuleType, str]] = {
    "digits": (digits, "digits_cnn"),
    "lm": (language_model, "docstring_lm"),
}
TOLERANCE = 1e-3
"""How far a figure may move, relatively, between machines before --check complains."""


def main(arguments: list[str] | None = None) -> int:
    """Build or check the chosen samples; return the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild the bundled sample models.")
    parser.add_argument("sample", nargs="?", choices=[*SAMPLES, "all"], default="all")
    parser.add_argument("--check", action="store_true", help="measure the saved files instead of training")
    options = parser.parse_args(arguments)
    names = list(SAMPLES) if options.sample == "all" else [options.sample]
    act: Callable[[str], bool] = _check if options.check else _build
    done = [act(name) for name in names]
    return 0 if all(done) else 1


def _build(name: str) -> bool:
    recipe, folder = SAMPLES[name]
    (HERE / folder).mkdir(exist_ok=True)
    recipe.build(HERE / folder)
    return _check(name)


def _check(name: str) -> bool:
    recipe, folder = SAMPLES[name]
    measured = recipe.measure(HERE / folder)
    for figure, value in measured.items():
        print(f"{folder}: {figure} = {value:.6g}")
    problems = common.differences(HERE / folder, measured, TOLERANCE)
    for problem in problems:
        print(problem, file=sys.stderr)
    return not problems


if __name__ == "__main__":
    sys.exit(main())
