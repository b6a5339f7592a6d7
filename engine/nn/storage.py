"""What all quantized modules share: the stored parts of one layer as buffers, and their decoding."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine.decoding import from_bytes, torch_type
from engine.errors import DataError, InputError
from engine.layer_inputs import LayerInput
from engine.readers.source import from_rows
from engine.records.model import LayerInfo
from engine.schemes import family_of, parse_scheme
from engine.schemes.activations import NONE, STORED
from engine.schemes.base import Decoder, role_of
from engine.schemes.grouping import Grouping, Matrix

BLOCK = 8 << 20
"""Bytes of decoded weight that a thread makes at a time: few products are better for many rows."""
CACHED_BLOCK = 1 << 21
"""The same for few rows, whose product is bound by memory: a block stays in the cache between decoding and product."""
SMALL = 1 << 20
"""Bytes of decoded weight that are not worth waking a second thread."""


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor, flat; shares its memory."""
    return tensor.detach().reshape(-1).view(torch.uint8)


class QuantizedModule(torch.nn.Module):
    """One quantized layer: its stored parts as buffers ``weight_<role>`` (codes, scale, zero_point, ...), and what decodes them.

    ``scheme``, ``shape``, ``kind`` and ``dtype`` (of the decoded weight) describe the layer. Buffers follow the module to other
    devices and are never cast: ``.to(dtype)`` changes the bias and ``output_dtype`` only. ``inputs``: how the layer's input is
    quantized; its stored scales are buffers too.
    """

    bias: torch.Tensor | None

    def __init__(
        self,
        layer: LayerInfo,
        parts: Mapping[str, torch.Tensor],
        bias: torch.Tensor | None = None,
        *,
        inputs: LayerInput | None = None,
    ) -> None:
        """``parts``: tensors by role, of the types and shapes that ``layer.parts`` says. Raises InputError where they are not."""
        super().__init__()
        self.layer = replace(layer, parts=tuple(replace(p, file=0, offset=0, strides=None) for p in layer.parts))
        _check(self.layer, parts)
        self.scheme, self.shape, self.kind = layer.scheme, torch.Size(layer.shape), layer.kind
        self.dtype = torch_type(layer.dtype, layer.name)
        self.output_dtype = self.dtype
        # The decoder takes the codes for the first part.
        self.roles = tuple(role_of(part.name) for part in layer.parts)
        for role in self.roles:
            self.register_buffer(f"weight_{role}", parts[role].contiguous())
        self.activations = inputs.name if inputs else NONE
        self._input_group = inputs.group if inputs else None
        for name in STORED.get(self.activations, ()):
            self.register_buffer(name, inputs.stored[name].contiguous())  # pyright: ignore[reportOptionalMemberAccess]
        if isinstance(bias, torch.nn.Parameter) or bias is None:
            self.register_parameter("bias", bias)
        else:
            self.register_buffer("bias", bias)

    def stored(self) -> dict[str, torch.Tensor]:
        """The stored parts by role."""
        return {role: self._buffers[f"weight_{role}"] for role in self.roles}  # pyright: ignore

    def input_parts(self) -> dict[str, torch.Tensor]:
        """What is stored to quantize the input, by name (``input_scale``, ...)."""
        return {name: self._buffers[name] for name in STORED.get(self.activations, ())}  # pyright: ignore

    @property
    def inputs(self) -> LayerInput | None:
        """How the layer's input is quantized; None where it stays as it is."""
        return None if self.activations == NONE else LayerInput(self.activations, self.input_parts(), self._input_group)

    def incoming(self, x: torch.Tensor) -> torch.Tensor:
        """The input as codes of its format decode it, in its own type; gradients pass as if it were not rounded."""
        if self.activations == NONE or x.is_meta:
            return x
        stored = {name: value if value.dtype == torch.int8 else value.to(x.dtype) for name, value in self.input_parts().items()}
        try:
            seen = LayerInput(self.activations, stored, self._input_group).quantized(x.detach())
        except DataError as error:
            raise DataError(f"{self.layer.name}: {error}") from None
        return x + (seen - x.detach()) if torch.is_grad_enabled() and x.requires_grad else seen

    @property
    def nbytes(self) -> int:
        """Bytes of everything held: stored parts, bias, and what a kernel holds beside them."""
        bias = self.bias.nbytes if self.bias is not None else 0
        beside = sum(value.nbytes for value in self.input_parts().values())
        return sum(part.nbytes for part in self.stored().values()) + beside + bias

    @property
    def weight(self) -> torch.Tensor:
        """The whole weight, decoded anew at every call, in its own shape and ``dtype``."""
        codes = self.stored()["codes"]
        if codes.is_meta:
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        decoder = self.decoder()
        raw = from_rows(decoder.decode(bytes_of(codes).cpu().numpy(), 0, self.grouping.matrix.rows), self.layer, decoder.dtype)
        return from_bytes(raw, decoder.dtype, self.layer.shape, self.layer.name).to(codes.device)

    @property
    def grouping(self) -> Grouping:
        return Grouping(Matrix.of(self.layer), parse_scheme(self.layer.scheme or "keep"))

    def decoder(self) -> Decoder:
        """What turns codes into values; may hold zero points as float32, so it is made for one call."""
        scheme = parse_scheme(self.layer.scheme or "keep")
        return family_of(scheme).decoder(scheme, self.layer, self.stored_bytes())

    def stored_bytes(self) -> dict[str, np.ndarray]:
        """The bytes of every part but the codes, by role, on the CPU."""
        return {role: bytes_of(part).cpu().numpy() for role, part in self.stored().items() if role != "codes"}

    def rows(self, decoder: Decoder, first: int, count: int) -> torch.Tensor:
        """``count`` decoded output rows from ``first`` on, (count, cols); a group of several rows begins at ``first``."""
        codes, cols = self.stored()["codes"], self.grouping.matrix.cols
        if codes.is_meta:
            return torch.empty(count, cols, dtype=self.dtype, device="meta")
        size = decoder.codes_row_bytes
        raw = decoder.decode(bytes_of(codes)[first * size : (first + count) * size].cpu().numpy(), first, count)
        return from_bytes(raw, decoder.dtype, (count, cols), self.layer.name).to(codes.device)

    def chunks(self, size: int = BLOCK) -> list[tuple[int, int]]:
        """(first row, rows) of the whole weight, about ``size`` decoded bytes each; as many for one of torch's threads as for
        another."""
        threads, whole = torch.get_num_threads(), self.shape.numel() * self.dtype.itemsize
        rounds = max(math.ceil(whole / (threads * size)), 1)
        even = math.ceil(whole / (threads * rounds)) if whole > SMALL else size
        return list(self.grouping.chunks(self.grouping.matrix.cols * self.dtype.itemsize, even))

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(first row, rows, decoded rows) of the whole weight, one chunk after the other."""
        decoder: Any = None if self.stored()["codes"].is_meta else self.decoder()
        for first, count in self.chunks(size):
            yield first, count, self.rows(decoder, first, count)

    def forget(self) -> None:
        """Drop whatever was derived from the stored parts."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "QuantizedModule":
        """Move what is stored without casting it: ``fn`` sees its bytes, which no conversion of floats touches."""
        parts = {name: self._buffers.pop(name) for name in self._kept_names()}
        device = parts["weight_codes"].device  # pyright: ignore[reportOptionalMemberAccess]
        try:
            super()._apply(fn, recurse)
            self.output_dtype = fn(torch.empty(0, dtype=self.output_dtype, device=device)).dtype
            for name, part in parts.items():
                assert part is not None
                parts[name] = _moved(part, fn)
        finally:
            self._buffers.update(parts)
        self.forget()
        return self

    def _kept_names(self) -> list[str]:
        """Buffers that no cast may touch."""
        return [*(f"weight_{role}" for role in self.roles), *STORED.get(self.activations, ())]

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        """As any module does, except that a part of another type is refused instead of cast."""
        for role, part in self.stored().items():
            given = state_dict.get(f"{prefix}weight_{role}")
            if given is not None and given.dtype != part.dtype:
                error_msgs.append(f"{prefix}weight_{role} is {given.dtype}, but {self.scheme} stores {part.dtype} here.")
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        """Stored floats of 8 bits go as bytes: plain pickle writes a tensor of theirs that it cannot read (torch 2.13)."""
        buffers = {
            name: part.view(torch.uint8) if part is not None and _is_float8(part) else part
            for name, part in self._buffers.items()
        }
        return self.__dict__ | {"_buffers": buffers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for part in self.layer.parts:
            name = f"weight_{role_of(part.name)}"
            held, kind = self._buffers[name], torch_type(part.dtype, part.name)
            if held is not None and held.dtype != kind:  # else the very tensor, which may be another module's too
                self._buffers[name] = held.view(kind)

    def extra_repr(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        inputs = f", inputs={self.activations}" if self.activations != NONE else ""
        return f"{self.scheme}, shape={list(self.shape)}, kind={self.kind}, dtype={dtype}, bias={self.bias is not None}{inputs}"


def _is_float8(part: torch.Tensor) -> bool:
    return part.is_floating_point() and part.itemsize == 1


def _check(layer: LayerInfo, parts: Mapping[str, torch.Tensor]) -> None:
    """Decoding does not check bounds, so parts must be what the layer says, and the layer what its scheme stores."""
    if not layer.scheme:
        raise InputError(f"{layer.name} is not quantized.")
    for part in layer.parts:
        given = parts.get(role_of(part.name))
        if given is None or given.dtype != torch_type(part.dtype, part.name) or tuple(given.shape) != part.shape:
            found = "missing" if given is None else f"{given.dtype} {list(given.shape)}"
            raise InputError(f"{part.name} should be {part.dtype} {list(part.shape)}, but is {found}.")
    scheme = parse_scheme(layer.scheme)
    problem = family_of(scheme).stored_problem(scheme, layer)
    if problem:
        raise InputError(f"{layer.name}: {problem}.")


def _moved(part: torch.Tensor, fn: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A stored part after ``fn``, of the same type; the same tensor object wherever torch can keep it, so that ties hold."""
    given = bytes_of(part)
    seen = fn(given)
    # Module.type() casts integers too; what is stored then only follows to the device.
    seen = seen if seen.dtype == torch.uint8 else given.to(seen.device)
    moved = seen.view(part.dtype).reshape(part.shape)
    if seen.device == part.device and seen.data_ptr() == part.data_ptr():
        return part
    if torch._has_compatible_shallow_copy_type(part, moved):  # pyright: ignore[reportPrivateImportUsage]
        part.data = moved
        return part
    return moved


def options_of(module: torch.nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
    """Some plain attributes of a module, by name."""
    return {name: getattr(module, name) for name in names}
