"""An exported program (``.pt2``): torch.export.load runs code that the file describes, so its bytes must be trusted first."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.models.base import Loaded, Loader, Request
from engine.models.code import first_line, read_bytes, require_trust
from engine.records.calibration import InputInfo, ModelInputs
from engine.records.model import Kind

if TYPE_CHECKING:
    import torch

_KINDS: dict[str, Kind] = {
    "linear": "linear", "conv1d": "conv1d", "conv2d": "conv2d", "conv3d": "conv3d", "conv_transpose1d": "transposed",
    "conv_transpose2d": "transposed", "conv_transpose3d": "transposed", "embedding": "embedding", "layer_norm": "norm",
    "native_layer_norm": "norm", "batch_norm": "norm", "group_norm": "norm", "instance_norm": "norm", "rms_norm": "norm",
    "_native_batch_norm_legit_no_training": "norm", "native_group_norm": "norm",
}  # fmt: skip
_WEIGHT_AT = {"embedding": 0, "layer_norm": 2, "native_layer_norm": 2, "group_norm": 2, "rms_norm": 2}
"""Which argument is the weight; elsewhere the second."""
_CONV: dict[int, Kind] = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


def load(request: Request) -> Loaded:
    """The program as a module; keyword arguments work though the program takes them by position."""
    import torch

    path = str(request.source)
    data = read_bytes(path)
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise InputError(f"{path} is not an exported program, or is cut short.")
    digest = hashlib.sha256(data).hexdigest()
    require_trust(digest, request.trusted, path=path, what="an exported program")
    try:
        program = torch.export.load(io.BytesIO(data))
        module = program.module()
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be loaded by torch.export: {type(error).__name__}: {first_line(error)}") from error
    notes: list[str] = []
    inputs = _inputs(program, notes)
    _by_name(module, [argument.name for argument in inputs.arguments])
    return Loaded(module, path, "exported", inputs=inputs, kinds=kinds_in(module), notes=notes)


def _inputs(program: Any, notes: list[str]) -> ModelInputs:
    """Names, types and shapes as they were exported; sizes that may vary are None."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    arguments, batches = [], set()
    for name in program.graph_signature.user_inputs:
        value = values.get(name) if isinstance(name, str) else None
        if value is None or not hasattr(value, "shape"):
            notes.append(f"The program takes {name!r}, which is no tensor; it cannot be given data here.")
            continue
        sizes = [size if isinstance(size, int) else None for size in value.shape]
        batches |= {sizes[0]} if sizes else set()
        arguments.append(_argument(name, value, tuple(sizes[1:])))
    notes.extend(f"The program was exported for batches of exactly {size}." for size in batches if size is not None)
    return ModelInputs(tuple(arguments), known=bool(arguments))


def _argument(name: str, value: torch.Tensor, shape: tuple[int | None, ...]) -> InputInfo:
    from engine.models.inputs import dtype_name, role_of

    role = role_of(name)
    if role == "tensor" and not value.dtype.is_floating_point and len(shape) == 1:
        role = "tokens"
    return InputInfo(name, role, dtype_name(value.dtype), shape)


def _by_name(module: Any, names: list[str]) -> None:
    """An exported module refuses keywords for what was exported by position; put them back into their places."""

    def reorder(
        _module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        order = [name for name in names[len(given) :] if name in named]
        return (*given, *(named[name] for name in order)), {k: v for k, v in named.items() if k not in order}

    if not module._in_spec.children()[1].num_leaves:  # nothing was exported by keyword
        module.register_forward_pre_hook(reorder, with_kwargs=True, prepend=True)


def kinds_in(module: Any) -> dict[str, tuple[Kind, int]]:
    """What the graph does with each parameter: its kind and output axis. A parameter used in two ways keeps the first."""
    found: dict[str, tuple[Kind, int]] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "overloadpacket"):
            continue
        name = node.target.overloadpacket.__name__
        if name == "convolution":
            _note(found, node.args[1], None, 1 if node.args[6] else 0)
        elif name in ("mm", "addmm"):
            _note_matrix(found, node.args[2 if name == "addmm" else 1])
        elif name in _KINDS:
            place = _WEIGHT_AT.get(name, 1)
            if len(node.args) > place:
                _note(found, node.args[place], _KINDS[name], 1 if _KINDS[name] == "transposed" else 0)
    return found


def _note_matrix(found: dict[str, tuple[Kind, int]], operand: Any) -> None:
    """Decomposed graphs multiply by a transposed parameter, which then is a Linear's; by the parameter itself, (in, out)."""
    turned = getattr(operand, "op", "") == "call_function" and str(operand.target).split(".")[1] in ("permute", "t", "transpose")
    _note(found, operand.args[0] if turned else operand, "linear", 0 if turned else 1)


def _note(found: dict[str, tuple[Kind, int]], operand: Any, kind: Kind | None, axis: int) -> None:
    if getattr(operand, "op", "") != "get_attr":
        return
    value = operand.meta.get("val")
    if kind is None:
        kind = "transposed" if axis else _CONV.get(getattr(value, "ndim", 0), "other")
    found.setdefault(operand.target, (kind, axis))


LOADER = Loader("exported program", lambda request: isinstance(request.source, str) and request.source.endswith(".pt2"), load)
