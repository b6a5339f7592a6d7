"""Weights in one file, the network in another: a Python function builds it."""

from __future__ import annotations

import os
from typing import Any

from engine.errors import EngineError, InputError
from engine.models.base import Loaded, Loader, Request
from engine.models.code import Code, first_line, require_trust
from engine.models.tensors import fill, read_all
from engine.records.trust import Factory


def load(request: Request) -> Loaded:
    """The factory's module with the file's weights, or with ``request.weights``. Trust is bound to the ``.py`` file's bytes."""
    from engine.readers import open_path

    path, factory = str(request.source), request.factory
    assert factory is not None
    summary = open_path(path)
    if summary.quantized and request.weights is None:
        raise InputError(f"{path} is quantized: running it needs its decoded weights.")
    module = build(factory, request)
    fill(module, request.weights if request.weights is not None else read_all(summary), path)
    return Loaded(module, path, summary.source, summary, filled=True)


def build(factory: Factory, request: Request) -> Any:
    """Run the factory once it is trusted. Raises TrustNeeded, InputError."""
    import torch

    path = os.path.expanduser(factory.path)
    code = Code.of_file(path)
    require_trust(code.sha256, request.trusted, path=path, what=f"its function {factory.name}")
    function = getattr(code.load(os.path.basename(path)), factory.name, None)
    if not callable(function):
        raise InputError(f"{path} has no function {factory.name}.")
    try:
        module = function(**factory.arguments)
    except EngineError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: {factory.name} failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{path}: {factory.name} returned a {type(module).__name__}, not a torch.nn.Module.")
    return module


LOADER = Loader("weights and a factory", lambda request: isinstance(request.source, str) and request.factory is not None, load)
