"""A Hugging Face folder: config.json says the class, transformers builds it. Nothing is fetched."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import EngineError, InputError
from engine.models import claims
from engine.models.base import Loaded, Loader, Request
from engine.models.code import Code, first_line, require_trust
from engine.readers.text import read_json
from engine.records.model import ModelSummary


def load(request: Request) -> Loaded:
    """The module in evaluation mode with the folder's weights, or with ``request.weights`` by their stored names."""
    from engine.readers import open_path

    path = str(request.source)
    summary = open_path(path)
    _check_quantized(summary, request)
    claims.check(path, _config(path), summary)
    try:
        import transformers
    except ImportError:
        raise InputError(f"{path} needs transformers to run; install mono-quant-gui[hf].") from None
    notes: list[str] = []
    with _offline(), _quiet(transformers), _errors(path):
        config, build = _classes(path, request, notes)
        module, info = _instantiate(path, config, build, request)
    _check_loaded(path, info, notes)
    _off_the_file(module)
    return Loaded(module, path, summary.source, summary, config, path, filled=True, notes=notes)


def as_stored(path: str) -> Any:
    """A compressed-tensors folder as transformers loads it by itself, in evaluation mode; its own code is never run.

    Raises InputError in one sentence for whatever transformers raises.
    """
    import transformers

    from engine.readers import open_path

    claims.check(path, _config(path), open_path(path))
    notes: list[str] = []
    with _offline(), _quiet(transformers), _errors(path):
        config, build = _classes(path, Request(path), notes)
        module, info = build.from_pretrained(
            path, config=config, dtype="auto", local_files_only=True, weights_only=True, output_loading_info=True
        )
    _check_loaded(path, info, notes)
    return module.eval()


def _off_the_file(module: Any) -> None:
    """Weights into memory of their own: transformers maps files, and one cut short under a map ends the process (SIGBUS)."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _check_quantized(summary: ModelSummary, request: Request) -> None:
    quantized = summary.quantized
    if not quantized:
        return
    if not quantized.readable:
        raise InputError(f"{summary.path} is quantized by {quantized.method}, which cannot run here; open the original model.")
    if request.weights is None:
        raise InputError(f"{summary.path} is quantized: running it needs its decoded weights.")


def _instantiate(path: str, config: Any, build: Any, request: Request) -> tuple[Any, dict[str, Any]]:
    for key in ("quantization_config", "compression_config"):  # decoded weights go into ordinary layers
        if hasattr(config, key):
            delattr(config, key)
    options = {
        "config": config, "dtype": "auto", "local_files_only": True, "weights_only": True, "output_loading_info": True,
        "experts_implementation": "eager", "ignore_mismatched_sizes": True,
    }  # fmt: skip
    if request.weights is None:
        return build.from_pretrained(path, **options)
    # transformers renames and joins what it is given, so it gets a dictionary of its own.
    return build.from_pretrained(None, state_dict=dict(request.weights), **options)


def _classes(path: str, request: Request, notes: list[str]) -> tuple[Any, Any]:
    """The configuration and the class to build. The folder's own code runs only where transformers has none for it."""
    data = _config(path)
    architecture = next(iter(data.get("architectures") or ()), "")
    native = _native(data.get("model_type"), architecture)
    if data.get("auto_map") and native is None:
        return _custom(path, data, architecture, request)
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if "/" in str(getattr(config, "_attn_implementation", "")):
        config._attn_implementation = None  # a kernel from elsewhere is code
    if native is not None:
        return config, native
    causal = "CausalLM" in architecture or "LMHead" in architecture
    notes.append(f"transformers has no {architecture or 'architecture by name'}; its {type(config).__name__} decides the class.")
    return config, transformers.AutoModelForCausalLM if causal else transformers.AutoModel


def _native(model_type: Any, architecture: str) -> Any:
    """The class of transformers of that name, if it is a model of that type."""
    import transformers

    found = getattr(transformers, architecture, None) if architecture.isidentifier() else None
    known = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if known and model_type in transformers.CONFIG_MAPPING else None


def _custom(path: str, data: dict[str, Any], architecture: str, request: Request) -> tuple[Any, Any]:
    import transformers

    places = {
        key: _reference(path, key, value)
        for key, value in data["auto_map"].items()
        if key.startswith(("AutoConfig", "AutoModel"))
    }
    wanted = [place for key, place in places.items() if key != "AutoConfig"]
    model = next((place for place in wanted if place[1] == architecture), wanted[0] if wanted else None)
    if model is None:
        raise InputError(f"{path}: config.json names code of its own, but no model in it.")
    code = Code.of_folder(path)
    require_trust(code.sha256, request.trusted, path=path, what=f"its Python files {', '.join(code.files)}")
    made = {place: _attribute(path, code, place) for place in {model, places.get("AutoConfig", model)}}
    if "AutoConfig" in places:
        return made[places["AutoConfig"]].from_pretrained(path, local_files_only=True), made[model]
    return transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False), made[model]


def _reference(path: str, key: str, value: Any) -> tuple[str, str]:
    """File and class of ``"modeling_x.XForCausalLM"``."""
    file, dot, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
    if not dot or "--" in value or not name.isidentifier() or not all(part.isidentifier() for part in file.split(".")):
        raise InputError(f"{path}: config.json takes {key} from {value!r}; only code in the folder itself can be used.")
    return f"{file.replace('.', '/')}.py", name


def _attribute(path: str, code: Code, place: tuple[str, str]) -> Any:
    file, name = place
    if file not in code.files:
        raise InputError(f"{path}: config.json names {file}, which is not in the folder.")
    found = getattr(code.load(file), name, None)
    if not isinstance(found, type):
        raise InputError(f"{os.path.join(path, file)} has no class {name}, which config.json names.")
    return found


def _config(path: str) -> dict[str, Any]:
    """config.json."""
    return read_json(os.path.join(path, "config.json"))


def _check_loaded(path: str, info: dict[str, Any], notes: list[str]) -> None:
    """Weights that are not on disk would be random; those that the model has no use for are only said."""
    mismatched: list[Any] = sorted(info["mismatched_keys"], key=str)
    if mismatched:
        name, stored, wanted = mismatched[0]
        raise InputError(f"{path}: {name} is {list(stored)} on disk, but {list(wanted)} by config.json; one of them is wrong.")
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{path} lacks {len(missing)} weights of the model ({missing[0]}, ...); they would be random.")
    unused = sorted(info["unexpected_keys"])
    if unused:
        notes.append(f"{len(unused)} stored tensors are not used by the model ({unused[0]}, ...).")


def config_of(module: Any) -> Any:
    """The configuration of a module of transformers, with experts set to run one after the other; None for any other module."""
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "get_text_config"):
        return None
    config._experts_implementation = "eager"  # each expert is an ordinary product then, which can be observed
    return config


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """transformers raises whatever it likes for a folder that it cannot load."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be run by transformers: {first_line(error)}", details=traceback.format_exc()) from error


@contextmanager
def _offline() -> Iterator[None]:
    from huggingface_hub import constants

    before, flag = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = flag
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars, no reports: what matters of them is in the notes."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _accepts(request: Request) -> bool:
    return isinstance(request.source, str) and os.path.isfile(os.path.join(request.source, "config.json"))


LOADER = Loader("Hugging Face folder", _accepts, load)
