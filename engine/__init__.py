"""Mono Quant's engine: quantize PyTorch models from Python, without a window.

    import engine

    model = engine.open_model("path/to/model")            # headers only
    plan = engine.plan(model, "W4A16")                     # exact bytes and every problem, instantly
    report = engine.quantize_to(model, "out", recipe="W4A16")
    weights = engine.load_tensors("out")                   # decoded, as torch tensors

Importing the package imports neither torch nor numba; each call brings what it needs.
"""

from typing import TYPE_CHECKING, Any

from engine.version import VERSION as __version__

_API = (
    "open_model", "plan", "quantize_to", "export", "dequantize", "load_tensors", "layer_histogram",
    "try_scheme", "look_at_layer",
    "load_model", "load_runnable", "open_data", "preview_data", "calibrate", "evaluate", "certify",
    "consumers", "needs",
)  # fmt: skip
_MODULES = {
    "quantize": "in_memory.calls", "dynamic_quantize": "in_memory.calls", "static_quantize": "in_memory.calls",
    "QuantizationResult": "in_memory.result", "save_model": "in_memory.saving",
    "validate_quantization": "in_memory.validating", "calculate_sqnr": "in_memory.validating",
    "calculate_model_size": "in_memory.validating",
    "check_accuracy_warnings": "in_memory.validating", "dequantize_model": "nn", "revert_to_standard_modules": "nn",
    "convert_to_pytorch_native": "nn", "Ledger": "history", "runs_folder": "history",
    "sensitivity": "searching.calls", "save_sensitivity": "searching.calls", "load_sensitivity": "searching.calls",
    "search": "searching.calls", "search_within": "searching.calls", "search_measured": "searching.calls",
    "compare": "comparing", "diagnose": "looking.diagnosis", "SHORT_DB": "looking.diagnosis",
}  # fmt: skip
"""Calls on modules in memory, the ledger of runs, sensitivity and search."""
_CHOICES = (
    "recipe", "load_recipe", "save_recipe", "recipe_from_text", "recipe_to_text", "presets", "builtin_rules", "scheme_choices",
    "observer_choices", "algorithm_choices", "algorithm_name", "activation_choices", "activations_for", "formats",
    "describe_rule", "scheme_name", "parse_scheme", "wider_scheme", "algorithm_problem",
)  # fmt: skip
_RECORDS = {
    "ModelSummary": "model", "LayerInfo": "model", "TensorInfo": "model",
    "Scheme": "scheme", "SchemeChoices": "scheme", "Recipe": "recipe", "Rule": "recipe",
    "AlgorithmInfo": "recipe", "OptionInfo": "recipe", "ActivationInfo": "recipe",
    "Plan": "plan", "LayerPlan": "plan", "Problem": "plan",
    "RunReport": "report", "LayerReport": "report", "LayerFailure": "report", "Histogram": "report",
    "Monitor": "progress", "Progress": "progress", "OutputNoise": "report", "CalibrationNeed": "plan",
    "DataSpec": "calibration", "DataPreview": "calibration", "InputPreview": "calibration", "Activity": "calibration",
    "CalibrationReport": "calibration", "Evaluation": "calibration", "Scores": "calibration", "Skipped": "calibration",
    "Factory": "trust", "Trial": "look", "LayerDetail": "look", "Outlier": "look", "Diagnosis": "look", "Remedy": "look",
    "WeightFigures": "look",
    "QuantizationConfig": "quantization", "QuantizationInfo": "quantization", "LayerResult": "quantization",
    "ValidationResult": "quantization",
    "Comparison": "comparison", "ComparedLayer": "comparison", "LayerFigures": "comparison", "Side": "comparison",
    "SearchSpace": "search", "Sensitivity": "search", "SensitivityRow": "search", "Budget": "search", "Allocation": "search",
    "RunRecord": "run", "Certificate": "certificate", "Check": "certificate", "LayerProof": "certificate",
}  # fmt: skip
_ERRORS = (
    "EngineError",
    "InputError",
    "DataError",
    "RecipeError",
    "PlanError",
    "OutputError",
    "Cancelled",
    "Paused",
    "TrustNeeded",
    "ValidationError",
)

__all__ = ["__version__", *_API, *_MODULES, *_CHOICES, *_RECORDS, *_ERRORS]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from engine.api import (
        calibrate,
        certify,
        consumers,
        dequantize,
        evaluate,
        export,
        layer_histogram,
        load_model,
        load_runnable,
        load_tensors,
        look_at_layer,
        needs,
        open_data,
        open_model,
        plan,
        preview_data,
        quantize_to,
        try_scheme,
    )
    from engine.choices import (
        activation_choices,
        activations_for,
        algorithm_choices,
        algorithm_name,
        algorithm_problem,
        builtin_rules,
        describe_rule,
        formats,
        load_recipe,
        observer_choices,
        parse_scheme,
        presets,
        recipe,
        recipe_from_text,
        recipe_to_text,
        save_recipe,
        scheme_choices,
        scheme_name,
        wider_scheme,
    )
    from engine.comparing import compare
    from engine.errors import (
        Cancelled,
        DataError,
        EngineError,
        InputError,
        OutputError,
        Paused,
        PlanError,
        RecipeError,
        TrustNeeded,
        ValidationError,
    )
    from engine.history import Ledger, runs_folder
    from engine.in_memory.calls import dynamic_quantize, quantize, static_quantize
    from engine.in_memory.result import QuantizationResult
    from engine.in_memory.saving import save_model
    from engine.in_memory.validating import calculate_model_size, calculate_sqnr, check_accuracy_warnings, validate_quantization
    from engine.looking.diagnosis import SHORT_DB, diagnose
    from engine.nn import convert_to_pytorch_native, dequantize_model, revert_to_standard_modules
    from engine.records.calibration import (
        Activity,
        CalibrationReport,
        DataPreview,
        DataSpec,
        Evaluation,
        InputPreview,
        Scores,
        Skipped,
    )
    from engine.records.certificate import Certificate, Check, LayerProof
    from engine.records.comparison import ComparedLayer, Comparison, LayerFigures, Side
    from engine.records.look import Diagnosis, LayerDetail, Outlier, Remedy, Trial, WeightFigures
    from engine.records.model import LayerInfo, ModelSummary, TensorInfo
    from engine.records.plan import CalibrationNeed, LayerPlan, Plan, Problem
    from engine.records.progress import Monitor, Progress
    from engine.records.quantization import LayerResult, QuantizationConfig, QuantizationInfo, ValidationResult
    from engine.records.recipe import ActivationInfo, AlgorithmInfo, OptionInfo, Recipe, Rule
    from engine.records.report import Histogram, LayerFailure, LayerReport, OutputNoise, RunReport
    from engine.records.run import RunRecord
    from engine.records.scheme import Scheme, SchemeChoices
    from engine.records.search import Allocation, Budget, SearchSpace, Sensitivity, SensitivityRow
    from engine.records.trust import Factory
    from engine.searching.calls import load_sensitivity, save_sensitivity, search, search_measured, search_within, sensitivity


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _API:
        return getattr(import_module("engine.api"), name)
    if name in _MODULES:
        return getattr(import_module(f"engine.{_MODULES[name]}"), name)
    if name in _CHOICES:
        return getattr(import_module("engine.choices"), name)
    if name in _RECORDS:
        return getattr(import_module(f"engine.records.{_RECORDS[name]}"), name)
    if name in _ERRORS:
        return getattr(import_module("engine.errors"), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
