"""Hostile files, each made anew by code: nothing dangerous lies in the repository. ``cases()`` has every one by name."""

from collections.abc import Iterator

from tests.corpus import data_files, folders, pickles, recipe_files, safetensors_files, special_files
from tests.corpus.case import MARKER, Case

__all__ = ["MARKER", "Case", "cases"]


def cases() -> Iterator[Case]:
    for module in (safetensors_files, pickles, folders, special_files, recipe_files, data_files):
        yield from module.cases()
