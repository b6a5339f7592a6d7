"""What an output format must say about itself. Formats describe files to the byte; they write nothing."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import Consumer, FilePlan, LayerPlan, Problem


class Format(ABC):
    """One output: ``name`` for the command line, ``title`` and ``summary`` for people."""

    name: str
    title: str
    summary: str
    is_folder: bool

    def keeps(self, layer: LayerInfo) -> str:
        """Why this format leaves a layer float unless a rule names it; empty when it can hold it quantized."""
        return ""

    @abstractmethod
    def problems(self, summary: ModelSummary, layers: Sequence[LayerPlan]) -> list[Problem]:
        """What this format cannot hold, layer by layer."""

    @abstractmethod
    def files(
        self,
        summary: ModelSummary,
        layers: Sequence[LayerPlan],
        quantization: dict[str, Any] | None,
        shard_size: int | None,
    ) -> tuple[FilePlan, ...]:
        """Every file of the artifact. ``quantization`` is the quantization_config, None for a float model."""

    @abstractmethod
    def consumers(self, summary: ModelSummary, layers: Sequence[LayerPlan], activations: str) -> tuple[Consumer, ...]:
        """Who loads the artifact."""
