"""Modules, state dicts and paths quantized in one call, validated unless that is switched off.

The work is that of every run: weights are laid on disk, a plan is made and carried out, and the module is loaded from what was
written; so what these calls say describes what would be saved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from engine import choices
from engine.errors import Cancelled, EngineError, InputError
from engine.in_memory.result import QuantizationResult, carried_out, loaded
from engine.in_memory.selecting import Names, Types, config_of, recipe_of, scheme_for, selected
from engine.in_memory.validating import check_accuracy_warnings, check_choice, fail
from engine.records.quantization import OnFailure, QuantizationConfig, QuantizationInfo
from engine.records.recipe import Recipe, Rule
from engine.records.scheme import KEEP, Scheme
from engine.schemes.activations import NONE


def dynamic_quantize(
    model: torch.nn.Module,
    dtype: Any = torch.qint8,
    symmetric: bool = False,
    per_channel: bool = True,
    config: QuantizationConfig | None = None,
    modules_to_not_convert: Names = None,
    skip_layer_types: Types = None,
    skip_layer_names: Names = None,
    skip_param_threshold: int = 0,
    *,
    on_failure: OnFailure = "error",
    run_validation: bool = True,
) -> tuple[torch.nn.Module, list[str]]:
    """Quantize the weights of linear and convolution layers, and at run time the inputs of int8 linear layers, token by token.

    dtype                   ``torch.qint8``, ``torch.float16``, another torch type or a scheme's name (``int4:g64``)
    modules_to_not_convert  names of modules, whose parts stay as they are too
    skip_layer_names        glob patterns; skip_layer_types: classes or their names
    skip_param_threshold    weights with fewer elements stay as they are

    Returns (a new module in evaluation mode, names of the layers that were skipped); the given module is untouched. Raises
    InputError, RecipeError; ValidationError as ``on_failure`` says.
    """
    given = {key: value for key, value in locals().items() if key not in ("model", "config")}
    asked = config_of(config, given, torch.qint8)
    scheme = scheme_for(asked.dtype, symmetric=asked.symmetric, per_channel=asked.per_channel, group_size=asked.group_size)
    activations = "int8:token" if "int8:token" in choices.activations_for(scheme) else NONE
    made, info = _quantized(model, scheme, activations, asked, None)
    return made, list(info.skipped_layers)


def static_quantize(
    model: torch.nn.Module,
    calibration_data: Any,
    dtype: Any = torch.qint8,
    symmetric: bool = False,
    per_channel: bool = True,
    layer_types: Types = None,
    skip_types: Types = None,
    layer_names: Names = None,
    skip_names: Names = None,
    num_calibration_samples: int = 150,
    config: QuantizationConfig | None = None,
    on_failure: OnFailure = "error",
    run_validation: bool = True,
    modules_to_not_convert: Names = None,
    skip_layer_types: Types = None,
    skip_layer_names: Names = None,
    skip_param_threshold: int = 0,
    group_size: int | None = 128,
    accuracy_warning: OnFailure = "warn",
    sqnr_warning_threshold: float = 20.0,
    sqnr_error_threshold: float = 10.0,
) -> tuple[torch.nn.Module, QuantizationInfo]:
    """Quantize weights, and the inputs of 8-bit layers with ranges found by running the model on data.

    calibration_data   tensors, batches, a DataLoader, a Dataset, or a path; of which ``num_calibration_samples`` are used
    dtype              as in ``dynamic_quantize``; types of 4 bits and fewer share a scale in groups of ``group_size`` weights
    layer_types, layer_names   what to quantize: classes or their names, glob patterns; by default linear and convolution layers
    skip_*, modules_to_not_convert   what to leave, as in ``dynamic_quantize``
    accuracy_warning   see ``check_accuracy_warnings``; thresholds in dB

    Returns (a new module in evaluation mode, QuantizationInfo); the given module is untouched. Raises InputError, RecipeError,
    DataError (layer and sample named); ValidationError as ``on_failure`` and ``accuracy_warning`` say.
    """
    given = {key: value for key, value in locals().items() if key not in ("model", "calibration_data", "config")}
    asked = config_of(config, given, torch.qint8)
    scheme = scheme_for(asked.dtype, symmetric=asked.symmetric, per_channel=asked.per_channel, group_size=asked.group_size)
    wanted = ("int8:static" if asked.symmetric else "int8:static:asym", "fp8:static")
    activations = next((name for name in wanted if name in choices.activations_for(scheme)), NONE)
    made, info = _quantized(model, scheme, activations, asked, calibration_data)
    said = check_accuracy_warnings(info, asked.accuracy_warning, asked.sqnr_warning_threshold, asked.sqnr_error_threshold)
    return made, replace(info, warnings=(*info.warnings, *said))


def quantize(
    model: torch.nn.Module | Mapping[str, torch.Tensor] | str | os.PathLike[str],
    *,
    bits: int | None = None,
    scheme: str | Scheme | Recipe | None = None,
    dynamic: bool = False,
    calibration_data: Any = None,
    symmetric: bool = True,
    group_size: int | None = 128,
    algorithm: str = "rtn",
    run_validation: bool = True,
    on_failure: OnFailure = "ignore",
) -> QuantizationResult:
    """Quantize a module, a state dict, or what is at a path, by a scheme or a width; nothing that was given is changed.

    bits              2 to 8 (8: a scale per channel; fewer: groups of ``group_size``), or 16; 8 where nothing is said
    scheme            a preset (``W4A16``), a scheme's name (``int4:g64``), or a Recipe, instead of ``bits``
    dynamic           quantize inputs of 8-bit linear layers at run time, token by token
    calibration_data  as in ``static_quantize``; for algorithms that need it, and with ``bits=8`` for ranges of inputs
    algorithm         such as ``mse`` or ``gptq``; not with a Recipe, which names its own

    Embeddings, norms, the output head and tiny tensors stay float by the built-in rules. What goes wrong with the model or its
    data is in the result's ``errors``; with ``on_failure="error"`` it raises, with ``"warn"`` it warns. Arguments that contradict
    each other raise InputError or RecipeError at once.
    """
    check_choice("on_failure", on_failure)
    recipe = recipe_of(bits, scheme, dynamic, calibration_data is not None, symmetric, group_size, algorithm)
    result = QuantizationResult()
    try:
        if isinstance(model, torch.nn.Module):
            result.of_module(model, recipe, calibration_data, run_validation)
        else:
            result.of_tensors(model, recipe, calibration_data, run_validation)
    except Cancelled:
        raise
    except EngineError as error:
        if on_failure == "error":
            raise
        result.errors.append(str(error))
    fail(result.errors, on_failure, result)
    return result


def _quantized(
    model: torch.nn.Module, scheme: Scheme, activations: str, asked: QuantizationConfig, data: Any
) -> tuple[torch.nn.Module, QuantizationInfo]:
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"A module is quantized here, not a {type(model).__name__}; quantize() takes paths and state dicts.")
    with loaded(model) as running:
        chosen, skipped = selected(running, asked)
        names = "|".join(map(re.escape, chosen))
        rule = Rule(scheme, asked.algorithm, match=f"re:(?:{names or 'weight'})$")
        recipe = Recipe(rules=(rule,), default=KEEP, builtin=False, activations=activations, observer=asked.observer)
        run = carried_out(running, recipe, data, asked.num_calibration_samples)
    validation = None
    if asked.run_validation:
        validation = run.validated(model)
        fail(validation.errors, asked.on_failure, validation)
    told = run.info(model, validation, tuple(skipped), asked.dtype, scheme)
    return run.module, replace(told, selected_layers=tuple(chosen))
