"""What an algorithm must say about itself."""

from dataclasses import dataclass

from engine.schemes.base import Fit


@dataclass(frozen=True, slots=True)
class Algorithm:
    """``fit`` takes the ranges (low, high) of all groups and returns scale and zero point of each."""

    name: str
    title: str
    summary: str
    fit: Fit
