"""Quantized modules: the values are the file's, products are torch's on them, and what is stored never changes."""

import copy
import io
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compressed_tensors.compressors import unpack_from_int32
from safetensors.torch import load_file, save_file
from torch.nn import functional

import engine
from engine.layer_inputs import LayerInput
from engine.nn import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedModule,
    choice,
    dequantize_model,
    is_quantized,
    kernels,
    quantized_module,
    threads,
)
from engine.nn.fused import FusedKernel
from engine.readers import open_path

SCHEMES = ("int8:channel", "int4:g32", "int4:g32:asym", "int3:g32", "fp8:channel", "nf4:g64", "mxfp4", "ternary")
Load = Callable[..., torch.nn.Module]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """``load(module, scheme, dtype)`` quantizes a module's weights and gives the quantized module."""

    def make(given: torch.nn.Module, scheme: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        torch.manual_seed(3)
        module = given if list(given.children()) else torch.nn.Sequential(given)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        module.to(dtype)
        state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        save_file(state, tmp_path / "model.safetensors")
        engine.quantize_to(tmp_path / "model.safetensors", tmp_path / "out.safetensors", everywhere(scheme), overwrite=True)
        made = quantized_module(module, open_path(tmp_path / "out.safetensors"))
        return made if module is given else made[0]

    return make


def everywhere(scheme: str) -> engine.Recipe:
    """The same scheme for everything that quantized modules can hold."""
    kinds = ("linear", "conv1d", "conv2d", "conv3d", "embedding")
    return engine.Recipe(rules=tuple(engine.Rule(engine.parse_scheme(scheme), kind=kind) for kind in kinds), builtin=False)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, float8 and NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def parts(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: raw(value) for name, value in module.state_dict().items() if "weight_" in name}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_linear_layer_is_torchs_on_the_decoded_weight(scheme: str, dtype: torch.dtype, load: Load, tmp_path: Path) -> None:
    module = load(torch.nn.Sequential(torch.nn.Linear(128, 96)), scheme, dtype)
    layer = module[0]
    assert isinstance(layer, QuantizedLinear) and is_quantized(module)
    weight = engine.load_tensors(tmp_path / "out.safetensors")["0.weight"]
    assert same(layer.weight, weight)
    layer.kernel = "reference"
    for shape in ((128,), (1, 128), (7, 128), (2, 3, 128), (0, 128), (2, 0, 128)):
        x = torch.randn(shape).to(dtype)
        expected = functional.linear(x, weight.to(dtype), layer.bias)
        found = module(x)
        assert found.dtype == dtype and found.shape == expected.shape
        # One block here; torch still sums in another order where it folds dimensions.
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:g32", "int4:g32:asym"])
def test_integers_decode_as_compressed_tensors_unpacks_them(scheme: str, load: Load, tmp_path: Path) -> None:
    layer = load(torch.nn.Linear(128, 96, bias=False), scheme)
    stored = {name.removeprefix("0."): value for name, value in load_file(tmp_path / "out.safetensors").items()}
    bits = int(scheme[3])
    codes = unpack_from_int32(stored["weight_packed"], bits, torch.Size((96, 128))).float()
    zero = torch.zeros_like(stored["weight_scale"])
    if "weight_zero_point" in stored:
        zero = unpack_from_int32(stored["weight_zero_point"], bits, zero.shape, packed_dim=0).float()
    columns = 128 // zero.shape[1]
    wide = (values.repeat_interleave(columns, 1) for values in (zero, stored["weight_scale"]))
    expected = (codes - next(wide)) * next(wide)
    assert same(layer.weight, expected)
    assert parts(layer) == {
        name.replace("packed", "codes"): raw(value) for name, value in stored.items()
    }  # what is held is what is stored


@pytest.mark.parametrize("scheme", SCHEMES)
def test_copies_and_files_keep_every_bit(scheme: str, load: Load) -> None:
    module = load(torch.nn.Sequential(torch.nn.Linear(128, 64), torch.nn.Linear(64, 64)), scheme)
    before, x = parts(module), torch.randn(3, 128)
    expected = module(x)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)):
        assert parts(other) == before and same(other(x), expected)
        assert other[0].scheme == module[0].scheme and other[0].shape == (64, 128)
        assert module[0].scheme in repr(other)
    blank = copy.deepcopy(module)
    for value in blank.state_dict().values():
        bytes_of = value.detach().reshape(-1).view(torch.uint8)
        bytes_of.zero_()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    blank.load_state_dict(torch.load(file))
    assert parts(blank) == before and same(blank(x), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double(), lambda m: m.to("cpu")]
)
def test_casting_a_module_leaves_codes_and_scales_alone(scheme: str, cast: Callable, load: Load) -> None:
    module = load(torch.nn.Sequential(torch.nn.Linear(128, 64)), scheme)
    before, weight, types = parts(module), module[0].weight, [b.dtype for b in module.buffers()]
    cast(module)
    assert parts(module) == before and same(module[0].weight, weight) and types == [b.dtype for b in module.buffers()]
    x = torch.randn(2, 128, dtype=module[0].bias.dtype)
    assert module(x).dtype == x.dtype
    shaped = module.to("meta")
    assert shaped(x.to("meta")).shape == (2, 64) and shaped[0].weight.shape == (64, 128)


def test_another_type_is_refused_instead_of_cast(load: Load) -> None:
    module = load(torch.nn.Sequential(torch.nn.Linear(128, 64)), "int4:g32")
    state = module.state_dict() | {"0.weight_scale": module[0].weight_scale.half()}
    with pytest.raises(RuntimeError, match=r"0.weight_scale is torch.float16"):
        module.load_state_dict(state)


@pytest.mark.parametrize(("scheme", "least"), [("int8:channel", 3.5), ("int4:g128", 7.0)])
def test_memory_is_what_is_stored(scheme: str, least: float, load: Load, tmp_path: Path) -> None:
    layer = load(torch.nn.Linear(1024, 256, bias=False), scheme)
    stored = sum(tensor.nbytes for tensor in load_file(tmp_path / "out.safetensors").values())
    assert sum(buffer.nbytes for buffer in layer.buffers()) == layer.nbytes == stored
    layer(torch.randn(3, 1024))
    assert stored <= layer.nbytes < 1.01 * stored  # a kernel may hold the scales once more, but nothing decoded
    assert 1024 * 256 * 4 / layer.nbytes >= least


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:channel", "int3:channel:asym", "int5:tensor", "ternary", "int8:b32x32"])
@pytest.mark.parametrize(("cols", "rows"), [(37, 5), (101, 1), (64, 33)])
def test_odd_shapes(scheme: str, cols: int, rows: int, load: Load, tmp_path: Path) -> None:
    layer = load(torch.nn.Linear(cols, rows), scheme)
    assert is_quantized(layer)
    assert same(layer.weight, engine.load_tensors(tmp_path / "out.safetensors")["0.weight"])
    x = torch.randn(4, cols)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:channel:asym", "int8:b64x64", "int8:tensor", "fp8:channel"])
def test_a_weight_of_several_blocks(scheme: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = load(torch.nn.Linear(128, 200), scheme)
    monkeypatch.setattr("engine.nn.product.BLOCK", 1)
    monkeypatch.setattr("engine.nn.product.CACHED_BLOCK", 1)
    assert len(list(layer.blocks(1))) > 3
    for rows in (1, 5):
        x = torch.randn(rows, 128)
        torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_gradients_flow_to_the_input_and_the_bias(load: Load) -> None:
    layer = load(torch.nn.Linear(128, 96), "int4:g32")
    weight, bias = layer.weight, layer.bias.detach().clone().requires_grad_()
    x, y = (torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    layer(x).square().sum().backward()
    functional.linear(y, weight, bias).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(layer.bias.grad, bias.grad)


def test_autocast_does_to_it_what_it_does_to_torchs(load: Load) -> None:
    layer, x = load(torch.nn.Linear(128, 96), "nf4:g64"), torch.randn(4, 128)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = layer(x), functional.linear(x, layer.weight, layer.bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)


CONVOLUTIONS = [
    (torch.nn.Conv1d(8, 6, 3, padding=1), QuantizedConv1d, (2, 8, 11)),
    (torch.nn.Conv1d(8, 6, 3, padding=2, padding_mode="circular", stride=2), QuantizedConv1d, (2, 8, 11)),
    (torch.nn.Conv2d(8, 12, 3, groups=4, dilation=2, bias=False), QuantizedConv2d, (2, 8, 9, 9)),
    (torch.nn.Conv2d(8, 12, (3, 5), padding="same", padding_mode="reflect"), QuantizedConv2d, (2, 8, 9, 9)),
    (torch.nn.Conv2d(3, 1, 2, padding=(1, 0), padding_mode="replicate"), QuantizedConv2d, (3, 5, 5)),
    (torch.nn.Conv3d(4, 6, (1, 3, 2), padding=1), QuantizedConv3d, (1, 4, 5, 5, 5)),
]


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:channel"])
@pytest.mark.parametrize(("conv", "kind", "shape"), CONVOLUTIONS)
def test_convolutions_are_torchs_on_the_decoded_weight(
    conv: torch.nn.Module, kind: type, shape: tuple[int, ...], scheme: str, load: Load, tmp_path: Path
) -> None:
    made = load(torch.nn.Sequential(copy.deepcopy(conv)), scheme)
    assert type(made[0]) is kind
    assert same(made[0].weight, engine.load_tensors(tmp_path / "out.safetensors")["0.weight"])
    x = torch.randn(shape)
    plain = copy.deepcopy(conv)
    plain.weight = torch.nn.Parameter(made[0].weight)
    plain.bias = made[0].bias
    assert same(made(x), plain(x))
    assert same(dequantize_model(made)(x), plain(x))


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:g32", "int4:g32:asym", "int8:tensor", "int8:b32x32", "nf4:g64"])
def test_an_embedding_decodes_the_rows_asked_for(scheme: str, load: Load, tmp_path: Path) -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = torch.nn.Embedding(100, 64, padding_idx=2)

    table = load(Table(), scheme).embed_tokens
    assert isinstance(table, QuantizedEmbedding)
    weight = engine.load_tensors(tmp_path / "out.safetensors")["embed_tokens.weight"]
    assert table.padding_idx == 2 and same(table.weight, weight)
    for ids in (torch.tensor([[5, 99, 2], [3, 4, 5]]), torch.tensor(7), torch.empty(0, 3, dtype=torch.long), torch.arange(100)):
        assert same(table(ids), functional.embedding(ids, weight))
    for wrong in (-1, 100):
        with pytest.raises(IndexError):
            table(torch.tensor([1, wrong]))
    assert table.to(torch.bfloat16)(torch.tensor([1])).dtype == torch.bfloat16


def suiting(layer: QuantizedModule) -> set[str]:
    return {kind.name for kind in choice.KERNELS if kind.suits(layer)}


BYTES = {"bfloat16 codes", "int8 digits"}
FUSED = {"fused"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("int8:channel", {"int8pack", *BYTES}), ("int8:channel:restricted", {"int8pack", *BYTES}),
        ("int8:tensor", {"int8pack", *BYTES}), ("int8:channel:asym", BYTES), ("int4:g32", {"int4pack"}),
        ("int4:g64:asym", {"int4pack"}), ("int4:g128", {"int4pack"}), ("int4:g128:floatzero", {"int4pack"}),
    ],
)  # fmt: skip
def test_every_kernel_that_suits_gives_the_references_product(asked: str, names: set, dtype: torch.dtype, load: Load) -> None:
    layer = load(torch.nn.Linear(512, 272), asked, dtype)
    assert suiting(layer) == names | FUSED
    for kind in (kind for kind in choice.KERNELS if kind.suits(layer)):
        kernel = kind()
        kernel.prepare(layer)
        for rows in (1, 2, 16, 33, 70):
            x = torch.randn(rows, 512, generator=torch.Generator().manual_seed(rows)).to(kind.dtypes[0])
            expected = x.double() @ layer.weight.double().T
            off = (kernel.run(x).double() - expected).abs()
            if kind.dtypes[0] == torch.bfloat16:
                assert off.max() < 0.02 * expected.std() + 2**-7 * expected.abs().max()
            elif dtype == torch.float32:
                # As near as float32's own sum of 512 products.
                assert off.max() < 512 * 2**-24 * (x.double().abs() @ layer.weight.double().abs().T).max()
            # To float32 activations a weight rounded to bfloat16 is another than its codes.
            rounds = kind.name in FUSED
            assert choice.agrees(layer, kernel, x) is (x.dtype == torch.bfloat16 or dtype == torch.float32 or rounds)


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:channel:asym", "fp8:channel", "nf4:g64"])
def test_fused_products_of_any_number_of_rows(scheme: str, load: Load) -> None:
    """Rows by threes, outputs by fours and columns by eights and in spans of 1,024: what is left over counts."""
    layer = load(torch.nn.Linear(1093, 37), scheme)
    kernel = FusedKernel()
    kernel.prepare(layer)
    weight = layer.weight.double()
    for rows in (1, 2, 3, 4, 7, 32, FusedKernel.MOST_ROWS):
        x = torch.randn(rows, 1093, generator=torch.Generator().manual_seed(rows))
        found = kernel.run(x)
        assert found is not None
        off = (found.double() - x.double() @ weight.T).abs()
        assert bool((off <= 1093**0.5 * 2**-22 * (x.double().abs() @ weight.abs().T)).all())
    assert kernel.run(torch.zeros(FusedKernel.MOST_ROWS + 1, 1093)) is None


@pytest.mark.parametrize("scheme", ["int3:g32", "fp8:channel", "nf4:g64", "mxfp4", "ternary", "int4:channel", "int8:g128"])
def test_no_kernel_claims_what_it_cannot_compute(scheme: str, load: Load) -> None:
    assert suiting(load(torch.nn.Linear(512, 272), scheme)) == FUSED


def test_digits_keep_what_float32_keeps_of_rows_of_any_size(load: Load) -> None:
    layer = load(torch.nn.Linear(512, 64), "int8:channel:asym")
    kernel = kernels.DigitsKernel()
    kernel.prepare(layer)
    x = torch.randn(5, 512) * torch.tensor([1e-29, 1e-3, 1.0, 1e30, 0.0])[:, None]
    x[2, 7] = 1e6
    expected = x.double() @ layer.weight.double().T
    # A row's values are whole multiples of a step of its largest one.
    size = x.double().abs().amax(1, keepdim=True) * layer.weight.double().abs().sum(1)
    assert ((kernel.run(x).double() - expected).abs() <= 2**-23 * size).all()
    assert kernel.run(x * 1e-8) is None  # steps would not be normal numbers
    for bad in (float("nan"), float("inf")):
        x[2, 3] = bad
        assert kernel.run(x) is None
        assert torch.equal(layer(x).isfinite(), functional.linear(x, layer.weight, layer.bias).isfinite())


def with_inputs(layer: QuantizedLinear, name: str, dtype: torch.dtype) -> QuantizedLinear:
    """The layer with int8 inputs of a scale (and zero point) that fits a standard normal."""
    stored = {"input_scale": torch.tensor([0.03], dtype=dtype), "input_zero_point": torch.tensor([-17], dtype=torch.int8)}
    wanted = {"int8:token": 0, "int8:static": 1, "int8:static:asym": 2}[name]
    inputs = LayerInput(name, dict(list(stored.items())[:wanted]))
    return QuantizedLinear(layer.layer, layer.stored(), layer.bias, inputs=inputs)


VNNI = torch.cpu._is_vnni_supported()
"""Without it oneDNN's sums of 8-bit products saturate, and must not be used."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["int8:token", "int8:static", "int8:static:asym"])
@pytest.mark.parametrize("scheme", ["int8:channel", "int8:tensor", "int8:channel:asym"])
def test_integer_products_are_those_of_quantized_inputs(scheme: str, name: str, dtype: torch.dtype, load: Load) -> None:
    layer = with_inputs(load(torch.nn.Linear(512, 272), scheme, dtype), name, dtype)
    integers = {"int_mm"} if scheme.endswith("asym") or not VNNI else {"int_mm", "onednn int8"}
    assert integers < suiting(layer) and ("onednn int8" in suiting(layer)) == ("onednn int8" in integers)
    for kind in (kind for kind in choice.KERNELS if kind.name in integers):
        kernel = kind()
        kernel.prepare(layer)
        for rows in (1, 5, 70):
            x = torch.randn(rows, 512, generator=torch.Generator().manual_seed(rows)).to(dtype)
            # Codes by hand, each operation in the model's type; products in float64.
            step = x.abs().amax(1, keepdim=True) / 127.5 if name == "int8:token" else torch.tensor([0.03], dtype=dtype)
            zero = -17 if name.endswith("asym") else 0
            codes = (x / step + zero).clamp(-128, 127).round()
            expected = ((codes - zero).double() * step.double()) @ layer.weight.double().T
            found = kernel.run(x)
            assert (
                found.dtype == dtype
                and (found.double() - expected).abs().max() < 4 * torch.finfo(dtype).eps * expected.abs().max()
            )
            assert choice.agrees(layer, kernel, x)
    x[0, 0] = float("nan")
    assert kernel.run(x) is None and layer(x)[0].isnan().all() and layer(x)[1:].isfinite().all()


def test_a_kernel_is_used_only_where_it_agrees_and_is_faster(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = load(torch.nn.Linear(512, 272), "int4:g32", torch.bfloat16), torch.randn(3, 512).bfloat16()
    with torch.no_grad():
        monkeypatch.setattr(choice, "_fastest", {})
        monkeypatch.setattr(choice, "fastest", lambda module, kernels, x: None)
        reference, stored = layer(x), layer.nbytes
        monkeypatch.setattr(choice, "_fastest", {})
        monkeypatch.setattr(choice, "fastest", lambda module, kernels, x: kernels[-1])
        layer.forget()
        found = layer(x)
        assert layer.nbytes > stored  # the kernel's copy is counted
        torch.testing.assert_close(found, reference, atol=0.05, rtol=0.02)
        layer.kernel = "compact"
        layer.forget()
        torch.testing.assert_close(layer(x), reference, atol=0.05, rtol=0.02)
        assert layer.nbytes == stored
        layer.kernel = "auto"
        monkeypatch.setattr(kernels.Int4Kernel, "run", lambda self, x: x.new_zeros(len(x), 272))
        monkeypatch.setattr(choice.FusedKernel, "run", lambda self, x: x.new_zeros(len(x), 272))
        layer.forget()
        assert same(layer(x), reference) and layer.nbytes == stored
    monkeypatch.undo()
    assert copy.deepcopy(layer).nbytes == stored == layer.float().nbytes - 272 * 2


def test_a_kernel_right_for_one_type_of_inputs_may_be_wrong_for_another(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """To float32 inputs, weights that a reader rounds to bfloat16 are others than their codes."""
    monkeypatch.setattr(choice, "_fastest", {})
    monkeypatch.setattr(choice, "fastest", lambda module, kernels, x: next((k for k in kernels if k.name == "fused"), None))
    layer, x = load(torch.nn.Linear(512, 272), "int8:channel", torch.bfloat16), torch.randn(1, 512)
    given = QuantizedModule.decoder

    def that_never_rounds(module: QuantizedModule) -> Any:
        decoder = given(module)
        multiplier = decoder.multiplier
        decoder.multiplier = lambda *arguments, rounded: multiplier(*arguments, rounded=False)  # pyright: ignore
        return decoder

    monkeypatch.setattr(QuantizedModule, "decoder", that_never_rounds)
    with torch.no_grad():
        layer(x.bfloat16())
        found = layer(x)
    assert {key: kernel and kernel.name for key, kernel in layer._choice.chosen.items()} == {
        (torch.bfloat16, 0): "fused", (torch.float32, 0): None,
    }  # fmt: skip
    torch.testing.assert_close(found, functional.linear(x, layer.weight.float(), layer.bias.float()))


def test_the_fastest_is_taken(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, clock = load(torch.nn.Linear(64, 64), "int8:channel"), [0.0]

    class Slow:
        quantizes = True

        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def run(self, x: torch.Tensor) -> torch.Tensor:
            clock[0] += self.seconds
            return x

    def takes_one_second(module: QuantizedModule, x: torch.Tensor) -> torch.Tensor:
        clock[0] += 1.0
        return x

    monkeypatch.setattr(choice, "reference", takes_one_second)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])
    candidates = [Slow(0.5), Slow(0.2), Slow(2.0)]
    assert choice.fastest(layer, candidates, torch.zeros(1, 64)) is candidates[1]
    assert choice.fastest(layer, [Slow(0.95)], torch.zeros(1, 64)) is None


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(96, 64)
        self.norm = torch.nn.BatchNorm1d(64)
        self.head = torch.nn.Linear(64, 96, bias=False)
        self.head.weight = self.embed_tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed_tokens(ids)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tied_weight_is_held_once(device: str, tmp_path: Path) -> None:
    model = Tied().eval()
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "head.weight"}
    save_file(state, tmp_path / "model.safetensors")
    engine.quantize_to(tmp_path / "model.safetensors", tmp_path / "out.safetensors", everywhere("int8:channel"))
    with torch.device(device):
        blank = Tied().eval()  # moving a module to the meta device would part its ties
    made = quantized_module(blank, open_path(tmp_path / "out.safetensors"))
    again = [made, copy.deepcopy(made), pickle.loads(pickle.dumps(made)), copy.deepcopy(made).to(torch.float32)]
    plain = dequantize_model(made)
    assert plain.head.weight is plain.embed_tokens.weight and not is_quantized(plain)
    ids = torch.arange(5)
    for each in again:
        if isinstance(each.head, QuantizedModule):
            assert each.head.weight_codes.data_ptr() == each.embed_tokens.weight_codes.data_ptr()
        else:
            assert each.head.weight is each.embed_tokens.weight
        assert not any(value.is_meta for value in each.state_dict().values())
        torch.testing.assert_close(each(ids), plain(ids))


def test_a_module_is_left_as_it_was(load: Load) -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(64, 64))
    made = load(plain, "int8:channel").eval()
    assert type(plain[0]) is torch.nn.Linear and not plain[0].weight.is_meta
    back = dequantize_model(made)
    assert type(back[0]) is torch.nn.Linear and is_quantized(made) and not back[0].training
    assert same(back[0].weight.detach(), made[0].weight)


def test_a_whole_network_runs_as_its_decoded_self(language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "out", "W4A16")
    config = transformers.AutoConfig.from_pretrained(language_model)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    made = quantized_module(model, open_path(tmp_path / "out"))
    assert is_quantized(made)
    ids = torch.arange(12)[None]
    decoded = dequantize_model(made)
    dtype = decoded.lm_head.weight.dtype
    assert dtype == made.lm_head.weight.dtype
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, QuantizedLinear):
                part.kernel = "reference"
        torch.testing.assert_close(made(ids).logits, decoded(ids).logits)


def test_what_does_not_fit_is_told_in_one_sentence(load: Load, tmp_path: Path) -> None:
    load(torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 32)), "int8:channel")
    artifact = open_path(tmp_path / "out.safetensors")
    for module, words in (
        (torch.nn.Sequential(torch.nn.Linear(64, 32)), r"^out.safetensors has 1\.\w+, which the module lacks\.$"),
        (
            torch.nn.Sequential(*(torch.nn.Linear(a, 32) for a in (64, 32, 32))),
            r"^The module needs 2.weight, which out.safe\S+ lacks",
        ),
        (
            torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Linear(32, 32)),
            r"^0\.\w+ is \[32.*\] in out.safetensors, but \[16",
        ),
    ):
        with pytest.raises(engine.InputError, match=words) as error:
            quantized_module(module, artifact)
        assert str(error.value).rstrip(".").count(". ") == 0


def test_parts_that_are_not_the_layers_are_refused(load: Load) -> None:
    layer = load(torch.nn.Linear(64, 32), "int8:channel")
    given = layer.stored()
    for wrong in (given | {"codes": given["codes"][:4]}, {"codes": given["codes"]}, given | {"scale": given["scale"].half()}):
        with pytest.raises(engine.InputError, match=r"should be .* but is"):
            QuantizedLinear(layer.layer, wrong)
    with pytest.raises(engine.InputError, match="cannot hold"):
        QuantizedConv1d(layer.layer, given)
    with pytest.raises(engine.InputError, match="not 'fast'"):
        QuantizedLinear(layer.layer, given, kernel="fast")
    with pytest.raises(RuntimeError, match="takes 64 values"):
        layer(torch.randn(2, 63))


def test_rows_are_shared_out_once_and_nobody_waits_for_a_thread_that_is_busy_elsewhere() -> None:
    """Worked by hand: whoever takes them, six items are six; and one thread has done them all while the others were held up."""
    done: list[int] = []
    threads.kernels_in_parallel(done.append, range(6))
    assert sorted(done) == list(range(6))
    held, count = threading.Event(), torch.get_num_threads()
    others = [threads._pool(count).submit(held.wait) for _ in range(count)]
    try:
        threads.kernels_in_parallel(done.append, range(6, 12))
        assert sorted(done) == list(range(12))
    finally:
        held.set()
    assert all(other.result() for other in others)
