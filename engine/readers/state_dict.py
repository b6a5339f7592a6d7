"""A PyTorch state dict: ``.pt``, ``.pth``, ``.bin``. Only ever read with ``weights_only=True``.

What its pickle would do is looked at before (``pickle_scan``). torch unpickles it with fake tensors, which say where each storage
lies and hold no data; the bytes are then read from there, one tensor at a time. Never retried in a weaker mode.
"""

import io
import logging
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engine.errors import InputError
from engine.readers import kinds, prequantized
from engine.readers.archive import Archive, Storage, open_archive
from engine.readers.base import Reader
from engine.readers.header import check_names, check_rank
from engine.readers.pickle_scan import Refused, scan
from engine.readers.source import file_info, storage_of
from engine.records.dtypes import BITS, numel
from engine.records.model import FileInfo, ModelSummary, TensorInfo

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
METADATA_KEY = "mono_quant.metadata"
"""Beside the tensors of a quantized module: what the header of a safetensors file would say, texts by key."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")


def open_state_dict(path: str) -> ModelSummary:
    """A summary without tensor data. Raises InputError saying what the file really is."""
    file, tensors, metadata = _read(path, 0)
    layers = kinds.describe(tensors, None)
    config = prequantized.configuration(None, metadata)
    quantized = prequantized.recognize(config, tensors)
    if quantized and quantized.readable and config:
        layers = prequantized.assemble(tensors, layers, config, metadata)
    summary = ModelSummary(path, "state_dict", (file,), layers, metadata=metadata, quantized=quantized)
    return prequantized.with_shapes(summary, config)


def read_tensors(path: str, number: int = 0) -> tuple[FileInfo, tuple[TensorInfo, ...]]:
    """Names, shapes and places of all tensors of one file. Raises InputError."""
    return _read(path, number)[:2]


def _read(path: str, number: int) -> tuple[FileInfo, tuple[TensorInfo, ...], dict[str, str]]:
    info = file_info(path)
    if info.nbytes == 0:
        raise InputError(f"{path} is empty (0 bytes).")
    archive = _checked(path)
    stand_in, places = archive.stand_in()
    loaded = _load(path, stand_in)
    entries, metadata = _flatten(path, loaded), _metadata(loaded)
    check_names(path, entries)
    tensors = tuple(_tensor(path, name, value, number, places) for name, value in entries.items())
    return info, tensors, metadata


def _metadata(loaded: Any) -> dict[str, str]:
    found = loaded.get(METADATA_KEY) if isinstance(loaded, dict) else None
    found = found if isinstance(found, dict) else {}
    return {key: text for key, text in found.items() if isinstance(key, str) and isinstance(text, str)}


def _checked(path: str) -> Archive:
    """The archive's records; what its pickle would do was looked at. Raises InputError."""
    found = open_archive(path)
    try:
        scan(found.pickle, len(found.storages))
    except Refused as reason:
        raise InputError(f"{path} {reason}.") from None
    return found


def _load(path: str, stand_in: bytes) -> Any:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode(), warnings.catch_warnings(), _unlogged():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(stand_in), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        wanted = _unsafe_globals(stand_in)
        if not wanted:
            raise InputError(f"{path} cannot be read as a state dict; its pickle is damaged.") from None
        raise InputError(
            f"{path} is a pickled object ({', '.join(wanted[:3])}), not plain weights; opening it would run code from the file. "
            "Save model.state_dict() instead."
        ) from None
    except Exception as error:  # torch raises whatever a damaged pickle leads to
        raise InputError(f"{path} cannot be read as a state dict; it is damaged.", details=type(error).__name__) from None


@contextmanager
def _unlogged() -> Iterator[None]:
    """torch logs a traceback for what a damaged file leads to, and then raises it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _unsafe_globals(stand_in: bytes) -> list[str]:
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(stand_in)))
    except Exception:  # the file is refused either way; this only words the refusal
        return []


def _flatten(path: str, loaded: Any) -> dict[str, Any]:
    """The tensors of a state dict, also of one nested under a usual key."""
    import torch

    for key in WRAPPERS:
        inner = loaded.get(key) if isinstance(loaded, dict) else None
        if isinstance(inner, dict) and any(isinstance(value, torch.Tensor) for value in inner.values()):
            loaded = inner
            break
    if isinstance(loaded, torch.Tensor):
        return {os.path.splitext(os.path.basename(path))[0]: loaded}
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors.")
    found = [(str(key), value) for key, value in loaded.items() if isinstance(value, torch.Tensor)]
    tensors = dict(found)
    if len(tensors) != len(found):
        raise InputError(f"{path} has the same name twice, as a number and as a text; save it with texts alone.")
    if not tensors:
        raise InputError(f"{path} holds no tensors at its top level, under {' or '.join(WRAPPERS[:2])}.")
    return tensors


def _tensor(path: str, name: str, value: Any, number: int, places: Mapping[int, Storage]) -> TensorInfo:
    import torch

    dtype = _DTYPES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None or value.layout != torch.strided:
        raise InputError(f"{path}: {name} is a {value.layout} tensor of {value.dtype}, which is not supported.")
    offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    shape, strides, itemsize = tuple(value.shape), tuple(value.stride()), BITS[dtype] // 8
    check_rank(path, name, len(shape))
    storage = places.get(offset) if offset is not None else None
    if storage is None:
        raise InputError(f"{path}: torch does not say where {name} lies; save the file again with a current torch.")
    contiguous, reach = storage_of(shape, strides)
    if min(strides, default=0) < 0 or (value.storage_offset() + reach) * itemsize > storage.nbytes:
        raise InputError(f"{path}: {name} reaches beyond its storage; the file is damaged.")
    if numel(shape) > reach:
        raise InputError(f"{path}: {name} repeats its elements (an expanded tensor); save it with .contiguous().")
    start = storage.start + value.storage_offset() * itemsize
    return TensorInfo(name, dtype, shape, reach * itemsize, number, start, None if contiguous else strides)


_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "complex64": "C64", "complex128": "C128",
}  # fmt: skip

READER = Reader("state_dict", "PyTorch state dict", SUFFIXES, lambda path: path.endswith(SUFFIXES), open_state_dict)
