"""A model is left as it was found: modes and global switches that a forward here needs are put back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def _without_onednn() -> Iterator[None]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of GPUs that nobody asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextmanager
def running(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Evaluation mode, no gradients, no fused attention that passes layers by, the same result every time.

    Training flags of every submodule and torch's global flags are as before afterwards, also after an exception. Flags are
    set one by one, because ``train()`` may be overridden (an exported program's raises).
    """
    import torch

    flags = [(part, part.training) for part in module.modules()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    # oneDNN carries out a whole LSTM as one operator, inside which no single product can be seen.
    fused = not any(isinstance(part, torch.nn.RNNBase) for part in module.modules())
    try:
        for part, _ in flags:
            part.training = False
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cudnn.benchmark = False
        # An operation without a deterministic form is still better run than refused.
        torch.use_deterministic_algorithms(True, warn_only=True)
        with torch.no_grad(), contextlib.nullcontext() if fused else _without_onednn():
            yield module
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for part, training in flags:
            part.training = training
