"""Batch norms folded into the layers before them. The oracle is torch's own fusion and the outputs before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from engine.errors import InputError
from engine.models import load_runnable
from engine.models.folding import fold_batch_norm
from engine.models.state import running
from engine.records.trust import Factory
from tests.engine.test_models import sha256


def settled(module: nn.Module) -> nn.Module:
    """With statistics and gains as training leaves them, in evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.2)
            if part.affine:
                part.weight.data.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
                part.bias.data.copy_(torch.randn(part.num_features, generator=generator))
    return module.eval()


CONVOLUTIONS = [
    (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 3, 8, 8)),
    (nn.Conv2d(4, 8, 3, groups=4, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8, affine=False), (2, 4, 8, 8)),
    (nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), (2, 3, 9)),
    (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), (2, 2, 4, 4, 4)),
    (nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6), (2, 3, 5, 5)),
    (nn.Linear(5, 7), nn.BatchNorm1d(7), (4, 5)),
    (nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), (4, 5)),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), CONVOLUTIONS, ids=lambda value: type(value).__name__)
def test_one_pair_against_torchs_own_fusion(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = settled(nn.Sequential(layer, norm, nn.ReLU()))
    layer, norm = module[0], module[1]
    if isinstance(layer, nn.Linear):
        oracle = fuse_linear_bn_eval(layer, norm)
    else:
        oracle = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
    x = torch.randn(shape)
    wanted = module(x).detach()
    found = fold_batch_norm(module, x)
    assert found.pairs == (("0", "1"),)
    assert isinstance(module[1], nn.Identity)
    assert torch.allclose(module[0].weight, oracle.weight, atol=1e-6) and torch.allclose(module[0].bias, oracle.bias, atol=1e-5)
    difference = (module(x) - wanted).abs().max().item()
    assert found.difference == pytest.approx(difference) and difference <= 1e-5 * wanted.abs().max().item()


NONE = "No batch norm follows a convolution or linear layer in a way that could be folded."


class Net(nn.Module):
    """A convolution and a norm that are put together by ``way``."""

    def __init__(self, way: str, layer: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.way, self.conv, self.norm = way, layer or nn.Conv2d(4, 4, 3, padding=1), norm or nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        if self.way == "residual":
            return self.norm(y) + y
        if self.way == "returned":
            return self.norm(y), y
        if self.way == "view returned":
            return self.norm(y), y[:, :1]
        if self.way == "twice":
            return self.conv(self.norm(y))
        if self.way == "norm twice":
            return self.norm(self.other(self.norm(y)))
        if self.way == "activation between":
            return self.norm(y.relu())
        if self.way == "in place between":
            return self.norm(y.relu_())
        if self.way == "turned":
            return self.norm(y.transpose(1, 2))
        if self.way == "norm first":
            return self.conv(self.norm(x))
        if self.way == "looked into":
            return self.norm(y) * self.norm.eps
        return self.norm(y)


@pytest.mark.parametrize(
    "way",
    [
        "residual",
        "returned",
        "view returned",
        "twice",
        "norm twice",
        "activation between",
        "in place between",
        "turned",
        "norm first",
    ],
)
def test_what_must_not_be_folded_is_not(way: str) -> None:
    torch.manual_seed(1)
    module = settled(Net(way))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(2, 4, 4, 4)
    found = fold_batch_norm(module, x)
    assert found.pairs == ()
    assert found.notes == (NONE,)  # it was not even tried
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_a_shared_weight_and_a_norm_of_its_own_class_are_left() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input).relu()

    assert fold_batch_norm(settled(Net("", norm=Activated(4))), torch.randn(2, 4, 4, 4)).notes == (NONE,)
    shared = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    shared[2].weight = shared[0].weight
    assert fold_batch_norm(settled(shared), torch.randn(2, 4, 4, 4)).notes == (NONE,)


def test_a_norm_on_the_statistics_of_the_batch_is_left() -> None:
    assert fold_batch_norm(Net("", norm=nn.BatchNorm2d(4, track_running_stats=False)), torch.randn(2, 4, 4, 4)).pairs == ()


def test_a_forward_that_looks_into_the_norm_gets_it_back() -> None:
    module = settled(Net("looked into"))
    norm, weight = module.norm, module.conv.weight
    found = fold_batch_norm(module, torch.randn(2, 4, 4, 4))
    assert found.pairs == () and "does not run without them (AttributeError)" in found.notes[0]
    assert module.norm is norm and module.conv.weight is weight


def test_a_variance_of_nothing_is_folded_with_its_epsilon() -> None:
    """Hand-worked: w = 2, v = 0, eps = 1e-4, so w' = 2 / sqrt(1e-4) = 200 and b' = -(1)/0.01 + 0.5 = -99.5 for mean 1."""
    module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1e-4)).eval()
    with torch.no_grad():
        module[0].weight.fill_(2)
        module[1].running_mean.fill_(1)
        module[1].running_var.fill_(0)
        module[1].bias.fill_(0.5)
    assert fold_batch_norm(module, torch.randn(2, 1, 3, 3)).pairs == (("0", "1"),)
    assert module[0].weight.item() == pytest.approx(200, rel=1e-6) and module[0].bias.item() == pytest.approx(-99.5, rel=1e-6)


@pytest.mark.parametrize(("variance", "eps"), [(-1.0, 1e-5), (0.0, 0.0), (float("nan"), 1e-5)])
def test_a_pair_that_would_not_be_finite_is_left_and_said(variance: float, eps: float) -> None:
    good = settled(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    bad = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, eps=eps)).eval()
    bad[1].running_var.fill_(variance)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.bad = good, bad

        def forward(self, x):
            return self.good(x), self.bad(x).isnan()

    found = fold_batch_norm(Both(), torch.randn(2, 4, 3, 3))
    assert found.pairs == (("good.0", "good.1"),)
    assert found.notes == ("bad.1 is not folded into bad.0: the weights would not be finite.",)
    assert isinstance(bad[1], nn.BatchNorm2d)


def test_outputs_that_move_put_everything_back() -> None:
    """In bfloat16 the folded weights are rounded, which moves outputs by far more than the limit."""
    torch.manual_seed(2)
    module = settled(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))).to(torch.bfloat16)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    found = fold_batch_norm(module, torch.randn(2, 4, 8, 8).to(torch.bfloat16))
    assert found.pairs == () and "outputs would differ by" in found.notes[0] and found.difference > 0
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_the_sample_is_folded_whole(digits: Path) -> None:
    factory, sha = Factory(str(digits / "factory.py"), "create_model"), sha256(digits / "factory.py")
    with np.load(digits / "evaluation.npz") as data:
        x = torch.from_numpy(data["images"][:32])
    with load_runnable(digits / "model.pt", factory=factory, trusted=[sha]) as plain, running(plain.module):
        wanted = plain.module(x)
    with load_runnable(digits / "model.pt", factory=factory, trusted=[sha], fold_batch_norm=True) as model, running(model.module):
        assert torch.allclose(model.module(x), wanted, atol=1e-5 * wanted.abs().max().item())
        names = {layer.name for layer in model.summary.layers}
        assert not any("norm" in name for name in names) and "stem.conv.bias" in names
        assert model.notes[0].startswith("6 batch norms were folded")
        assert model.unmatched == () and set(model.places) == {layer.tensor.name for layer in model.summary.layers}
        assert model.summary.path == str(digits / "model.pt") and model.snapshot


def test_without_known_inputs_an_example_is_asked_for() -> None:
    module = settled(Net(""))
    with pytest.raises(InputError, match="choose data first"):
        load_runnable(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(11)), fold_batch_norm=True)
    with load_runnable(module, fold_batch_norm=True, example={"x": torch.randn(2, 4, 4, 4)}) as model:
        assert isinstance(model.module.norm, nn.Identity)
    assert isinstance(module.norm, nn.BatchNorm2d)


def test_training_flags_survive() -> None:
    module = Net("").train()
    fold_batch_norm(module, torch.randn(2, 4, 4, 4))
    assert module.training and module.conv.training
