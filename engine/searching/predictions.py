"""What a model predicts and what was to be predicted: next tokens, classes, or nothing known."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as functional

from engine.calibration.batches import Batch
from engine.errors import DataError
from engine.running.evaluation import judged


def predictions_of(output: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(predictions, classes) of logits in float32, with gradients where they are on; and the targets, None where there are none.

    Positions without a next token, and those that the attention mask leaves out, are none. Raises DataError.
    """
    logits = judged(output).float()
    tokens, mask = batch.keywords.get("input_ids"), batch.keywords.get("attention_mask")
    if (
        tokens is not None
        and logits.dim() == 3
        and logits.shape[1] == tokens.shape[1] > 1
        and int(tokens.max()) < logits.shape[-1]
    ):
        rows, targets = logits[:, :-1].reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1)
        if mask is not None:
            seen = (mask[:, 1:] != 0).reshape(-1)
            rows, targets = rows[seen], targets[seen]
        return rows, targets
    rows = logits.reshape(-1, logits.shape[-1]) if logits.dim() else logits.reshape(1, 1)
    labels = batch.labels
    if labels is None or labels.is_floating_point() or labels.numel() != len(rows) or rows.shape[1] < 2:
        return rows, None
    return rows, labels.reshape(-1).long()


class Judged:
    """Sums over predictions: loss and accuracy where there are targets, divergence from the float model where that is given."""

    def __init__(self) -> None:
        self.count = self.judged = self.correct = 0
        self.classes = False
        """Whether samples, not tokens, are predicted."""
        self.loss = self.divergence = 0.0

    def take(self, output: Any, batch: Batch, reference: torch.Tensor | None = None) -> torch.Tensor:
        """A batch's output; gives its predictions."""
        rows, targets = predictions_of(output, batch)
        self.classes = batch.labels is not None
        self.add(rows, targets, reference)
        return rows

    def add(self, rows: torch.Tensor, targets: torch.Tensor | None, reference: torch.Tensor | None) -> None:
        """``reference``: log probabilities of the float model. Raises DataError for NaN or Inf."""
        if not bool(torch.isfinite(rows).all()):
            raise DataError("The output of the quantized model holds NaN or Inf.")
        logs = functional.log_softmax(rows, -1)
        self.count += len(rows)
        if targets is not None:
            self.judged += len(targets)
            self.loss += float(functional.nll_loss(logs, targets, reduction="sum"))
            self.correct += int((rows.argmax(-1) == targets).sum())
        if reference is not None:
            self.divergence += float((reference.exp() * (reference - logs)).sum(dtype=torch.float64))

    @property
    def mean_loss(self) -> float | None:
        """Nats of a prediction."""
        return self.loss / self.judged if self.judged else None

    @property
    def mean_divergence(self) -> float:
        return max(self.divergence / self.count, 0.0) if self.count else 0.0

    @property
    def perplexity(self) -> float | None:
        return None if self.mean_loss is None else math.exp(min(self.mean_loss, 700))

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.judged if self.judged else None
