"""A PyTorch state dict: ``.pt``, ``.pth``, ``.bin``. Only ever read with ``weights_only=True``.

torch unpickles it with fake tensors, which say where each storage lies in the archive and hold no data; the
bytes are then read from there, one tensor at a time. Never retried in a weaker mode.
"""

import os
import pickle
import struct
import warnings
import zipfile
from typing import Any

from engine.errors import InputError
from engine.readers import kinds, prequantized
from engine.readers.base import Reader
from engine.readers.header import identify
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
    _check_archive(path)
    loaded = _load(path)
    entries, metadata = _flatten(path, loaded), _metadata(loaded)
    tensors = tuple(_tensor(path, name, value, number, info.nbytes) for name, value in entries.items())
    return info, tensors, metadata


def _metadata(loaded: Any) -> dict[str, str]:
    found = loaded.get(METADATA_KEY) if isinstance(loaded, dict) else None
    found = found if isinstance(found, dict) else {}
    return {key: text for key, text in found.items() if isinstance(key, str) and isinstance(text, str)}


def _check_archive(path: str) -> None:
    """The file must be torch's zip archive with uncompressed records, and neither a program nor a script."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            start = file.read(4)
        if start[:2] == b"PK":
            raise InputError(f"{path} is cut short: the zip archive has no directory at its end.")
        if start[:1] == b"\x80":
            raise InputError(f"{path} is in PyTorch's format from before 1.6; load it with torch and torch.save it again.")
        raise InputError(f"{path} is not a PyTorch file: it looks like {identify(path) or 'something unknown'}.")
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:  # the last: a zip feature unknown to it
        raise InputError(f"{path} is damaged: {error}.") from None
    inner = {record.filename.split("/", 1)[-1] for record in records}
    if any(name.startswith("code/") for name in inner):
        raise InputError(f"{path} is a TorchScript program, which runs code when loaded; save its state_dict() instead.")
    if any(name.startswith(("models/", "serialized_exported_program")) for name in inner):
        raise InputError(f"{path} is an exported program (.pt2), which runs code when loaded; save its state_dict instead.")
    if "data.pkl" not in inner:
        raise InputError(f"{path} is a zip archive, but not one that torch.save wrote.")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise InputError(f"{path} has compressed records, which torch.save never writes; it is refused.")


def _load(path: str) -> Any:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        wanted = _unsafe_globals(path)
        what = f" ({', '.join(wanted[:3])})" if wanted else ""
        raise InputError(
            f"{path} is a pickled object{what}, not plain weights; opening it would run code from the file. "
            "Save model.state_dict() instead."
        ) from None
    except Exception as error:
        raise InputError(f"{path} cannot be read as a state dict; it is damaged.", details=str(error)) from None


def _unsafe_globals(path: str) -> list[str]:
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
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
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no tensors at its top level, under {' or '.join(WRAPPERS[:2])}.")
    return tensors


def _tensor(path: str, name: str, value: Any, number: int, size: int) -> TensorInfo:
    import torch

    dtype = _DTYPES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None or value.layout != torch.strided:
        raise InputError(f"{path}: {name} is a {value.layout} tensor of {value.dtype}, which is not supported.")
    offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    shape, itemsize = tuple(value.shape), BITS[dtype] // 8
    contiguous, reach = storage_of(shape, value.stride())
    if offset is None:
        raise InputError(f"{path}: torch does not say where {name} lies; save the file again with a current torch.")
    start = offset + value.storage_offset() * itemsize
    if numel(shape) > reach:
        raise InputError(f"{path}: {name} repeats its elements (an expanded tensor); save it with .contiguous().")
    if reach * itemsize > value.untyped_storage().nbytes() or start + reach * itemsize > size:
        raise InputError(f"{path}: {name} reaches beyond its storage; the file is damaged.")
    strides = None if contiguous else tuple(value.stride())
    return TensorInfo(name, dtype, shape, reach * itemsize, number, start, strides)


_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "complex64": "C64", "complex128": "C128",
}  # fmt: skip

READER = Reader("state_dict", "PyTorch state dict", SUFFIXES, lambda path: path.endswith(SUFFIXES), open_state_dict)
