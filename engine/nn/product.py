"""The reference product: a quantized weight decoded in blocks of rows, each multiplied at once and dropped."""

from typing import Any

import torch

from engine.nn.storage import BLOCK, CACHED_BLOCK, QuantizedModule
from engine.nn.threads import in_parallel
from engine.numerics.products import linear, onednn_is_fast

FEW = 4
"""Rows up to which a product is bound by memory."""


def reference(module: QuantizedModule, x: torch.Tensor) -> torch.Tensor:
    """``linear(x, weight.to(x.dtype), bias)`` of x (rows, in); gradients flow to x and the bias.

    Every block is that call on some rows of the weight. It sums as the call on the whole weight does up to the order of
    float additions, which a matrix library chooses by shape.
    """
    bias = module.bias if module.bias is None else module.bias.to(x.dtype)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return _Product.apply(x, bias, module)  # pyright: ignore[reportReturnType]
    return _blockwise(module, x, bias)


def _blockwise(module: QuantizedModule, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out = x.new_empty(x.shape[0], module.shape[0])
    x = x.contiguous()
    onednn_is_fast()  # tried here once, before several threads would at the same time
    meta = x.is_meta or module.stored()["codes"].is_meta
    decoder: Any = None if meta else module.decoder()

    def multiply(chunk: tuple[int, int]) -> None:
        part = slice(chunk[0], sum(chunk))
        weight = module.rows(decoder, *chunk).to(x.dtype)
        out[:, part] = linear(x, weight, None if bias is None else bias[part])

    chunks = module.chunks(CACHED_BLOCK if len(x) <= FEW else BLOCK)
    if x.device.type == "cpu":
        in_parallel(multiply, chunks)
    else:
        for chunk in chunks:
            multiply(chunk)
    return out


class _Product(torch.autograd.Function):
    """Decodes once more on the way back, where autograd would keep every decoded block."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, module: QuantizedModule) -> torch.Tensor:
        ctx.module = module
        return _blockwise(module, x, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        back = None
        if ctx.needs_input_grad[0]:
            back = grad.new_zeros(grad.shape[0], ctx.module.shape[1])
            for first, count, weight in ctx.module.blocks():
                back += grad[:, first : first + count] @ weight.to(grad.dtype)
        return back, grad.sum(0) if ctx.needs_input_grad[1] else None, None
