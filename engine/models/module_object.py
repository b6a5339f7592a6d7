"""A module handed over in Python."""

from __future__ import annotations

import copy
from typing import Any

from engine.errors import InputError
from engine.models.base import Loaded, Loader, Request
from engine.models.code import first_line


def load(request: Request) -> Loaded:
    """A deep copy, so that nothing done here (folding, resolved parametrizations, evaluation mode) reaches the user's module."""
    title = type(request.source).__name__
    try:
        module = copy.deepcopy(request.source, _computed(request.source))
    except Exception as error:
        raise InputError(
            f"The {title} cannot be copied ({first_line(error)[:-1]}); detach what its tensors depend on."
        ) from error
    assert not isinstance(module, str)
    return Loaded(module.cpu(), title, "module")


def _computed(module: Any) -> dict[int, Any]:
    """Present values of tensors in plain attributes that depend on parameters (weight norm's weight): deepcopy refuses them."""
    import torch

    values = (value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor))
    return {id(value): value.detach().clone() for value in values if not value.is_leaf}


LOADER = Loader("module", lambda request: not isinstance(request.source, str), load)
