"""Weights that are computed from others on every forward (weight norm, spectral norm) become plain weights.

Resolved in place: modules come here from files, or as a copy of the user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.models.state import running

if TYPE_CHECKING:
    import torch


def resolve(module: torch.nn.Module) -> list[str]:
    """Replace every parametrized weight by its value in evaluation mode. Returns the names of these weights.

    A parametrization shared by several modules is resolved in each of them; what its value depends on stays behind nowhere.
    """
    from torch.nn.utils import parametrize

    resolved: list[str] = []
    with running(module):  # in training, spectral norm would take a step of its iteration
        for name, part in list(module.named_modules()):
            found = list(part.parametrizations) if parametrize.is_parametrized(part) else []  # pyright: ignore[reportArgumentType]
            if found:
                # A copy shares its class with the user's module, and resolving takes the class's property away.
                shared = type(part)
                part.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))  # pyright: ignore
            for tensor in found:
                parametrize.remove_parametrizations(part, tensor, leave_parametrized=True)
            resolved += [f"{name}.{tensor}" if name else tensor for tensor in [*found, *_hooked(part)]]
    return resolved


def _hooked(part: Any) -> list[str]:
    """The older form: a hook before each forward computes the weight. Returns the names of those it was taken from."""
    from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook
    from torch.nn.utils.weight_norm import WeightNorm

    found = []
    for key, hook in list(part._forward_pre_hooks.items()):
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            hook.remove(part)
            del part._forward_pre_hooks[key]
            found.append(hook.name)
    for hooks, kind in (
        (part._state_dict_hooks, SpectralNormStateDictHook),
        (part._load_state_dict_pre_hooks, SpectralNormLoadStateDictPreHook),
    ):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "hook", hook), kind):
                del hooks[key]
    return found
