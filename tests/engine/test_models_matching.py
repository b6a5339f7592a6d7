"""Stored tensors found in modules: the oracle is what transformers and torch put there."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from engine.models import load_runnable
from engine.models.base import RunnableModel
from engine.models.matching import match
from engine.readers import open_path


def saved(module: torch.nn.Module, folder: Path) -> str:
    """A folder of transformers with random weights; norms and biases are made random too, so that no two are alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    module.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    return str(folder)


def llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2() -> torch.nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2))


def mixtral(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).to(dtype)


def vit() -> torch.nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
    )
    return transformers.ViTForImageClassification(config)


def assert_all_found(model: RunnableModel, folder: str) -> None:
    """Every stored tensor is where its place says, value by value."""
    stored = load_file(f"{folder}/model.safetensors")
    assert model.unmatched == ()
    assert set(model.places) == set(stored)
    for name, value in stored.items():
        assert torch.equal(model.weight(name).reshape(-1), value.reshape(-1)), name


@pytest.mark.parametrize("make", [llama, gpt2, mixtral, vit, lambda: mixtral(torch.bfloat16)])
def test_every_stored_tensor_is_found(make, tmp_path: Path) -> None:
    folder = saved(make(), tmp_path / "model")
    with load_runnable(folder) as model:
        assert_all_found(model, folder)


def test_experts_are_rows_of_joined_parameters(tmp_path: Path) -> None:
    """Hand-worked: transformers puts w1 above w3 in gate_up_proj (experts, 2 · 48, 32)."""
    folder = saved(mixtral(), tmp_path / "model")
    with load_runnable(folder) as model:
        stem = "model.layers.1.block_sparse_moe.experts"
        w1, w2, w3 = (model.places[f"{stem}.2.{name}.weight"] for name in ("w1", "w2", "w3"))
        assert (w1.parameter, w1.first, w1.rows, w1.columns) == ("model.layers.1.mlp.experts.gate_up_proj", 2 * 96, 48, 32)
        assert (w3.parameter, w3.first) == (w1.parameter, 2 * 96 + 48)
        assert (w2.parameter, w2.first, w2.rows, w2.columns) == ("model.layers.1.mlp.experts.down_proj", 2 * 32, 32, 48)


def test_joined_projections_and_their_biases(tmp_path: Path) -> None:
    """q, k and v on disk, one (3 · 8, 8) weight in the module."""
    module = nn.Module()
    module.attention = nn.Linear(8, 24)
    path = tmp_path / "model.safetensors"
    weight, bias = module.attention.weight.detach(), module.attention.bias.detach()
    parts = {f"attn.{name}.weight": weight[8 * i : 8 * i + 8].clone() for i, name in enumerate("qkv")}
    parts |= {f"attn.{name}.bias": bias[8 * i : 8 * i + 8].clone() for i, name in enumerate("qkv")}
    save_file(parts, path)
    places, unmatched = match(module, open_path(path))
    assert unmatched == ()
    found = {name: (place.parameter, place.first, place.rows) for name, place in places.items()}
    assert found == {
        f"attn.{name}.{kind}": (f"attention.{kind}", 8 * i, 8) for i, name in enumerate("qkv") for kind in ("weight", "bias")
    }


def test_transposed_experts_and_layers(tmp_path: Path) -> None:
    """Experts (E, in, out) in the module, (out, in) on disk; and a Linear stored as (in, out)."""
    torch.manual_seed(2)
    module = nn.Module()
    module.experts = nn.Parameter(torch.randn(3, 5, 7))
    module.layer = nn.Linear(6, 4)
    path = tmp_path / "model.safetensors"
    stored = {f"old.{i}.weight": module.experts.detach()[i].T.contiguous() for i in range(3)}
    stored["turned.weight"] = module.layer.weight.detach().T.contiguous()
    save_file(stored, path)
    places, unmatched = match(module, open_path(path))
    assert unmatched == ()
    for i in range(3):
        place = places[f"old.{i}.weight"]
        assert (place.parameter, place.first, place.rows, place.transposed, place.columns) == ("experts", 7 * i, 7, True, 5)
    assert (places["turned.weight"].parameter, places["turned.weight"].transposed) == ("layer.weight", True)


def test_values_decide_not_names(tmp_path: Path) -> None:
    """Two layers of the same shape that changed names, and one whose values are nowhere."""
    torch.manual_seed(3)
    module = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    path = tmp_path / "model.safetensors"
    a, b = (module[name].weight.detach().clone() for name in "ab")
    save_file({"a.weight": b, "b.weight": a, "c.weight": torch.randn(4, 4)}, path)
    places, unmatched = match(module, open_path(path))
    assert {name: place.parameter for name, place in places.items()} == {"a.weight": "b.weight", "b.weight": "a.weight"}
    assert unmatched == ("c.weight",)


def test_equal_layers_go_to_the_places_of_their_number(tmp_path: Path) -> None:
    """Zeros everywhere: content says nothing, names and what is free decide."""
    module = nn.Module()
    module.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(12)])
    for value in module.parameters():
        nn.init.zeros_(value)
    path = tmp_path / "model.safetensors"
    save_file(
        {f"layers.{i}.dense.{kind}": v.detach().clone() for i in range(12) for kind, v in module.blocks[i].named_parameters()},
        path,
    )
    places, unmatched = match(module, open_path(path))
    assert unmatched == ()
    wanted = {f"layers.{i}.dense.{kind}": f"blocks.{i}.{kind}" for i in range(12) for kind in ("weight", "bias")}
    assert {name: place.parameter for name, place in places.items()} == wanted


def test_what_is_not_stored_shifts_nothing(tmp_path: Path) -> None:
    """Equal layers, of which only some are stored: their numbers decide."""
    module = nn.Module()
    module.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(6)])
    for value in module.parameters():
        nn.init.ones_(value)
    path = tmp_path / "model.safetensors"
    save_file({f"layers.{i}.dense.weight": torch.ones(4, 4) for i in (5, 3, 4)}, path)
    places, _unmatched = match(module, open_path(path))
    wanted = {f"layers.{i}.dense.weight": f"blocks.{i}.weight" for i in (3, 4, 5)}
    assert {name: place.parameter for name, place in places.items()} == wanted


def test_what_reaches_beyond_a_parameter_is_not_in_it(tmp_path: Path) -> None:
    """The end of the parameter is the start of the stored tensor."""
    torch.manual_seed(6)
    module = nn.Linear(4, 6, bias=False)
    path = tmp_path / "model.safetensors"
    save_file({"old.weight": torch.cat([module.weight.detach()[3:], torch.randn(5, 4)])}, path)
    assert match(module, open_path(path)) == ({}, ("old.weight",))


def test_rows_of_zeros_do_not_lead_astray(tmp_path: Path) -> None:
    """The first rows are zeros, as in pruned weights and padded vocabularies; the place is still the right one."""
    torch.manual_seed(4)
    module = nn.Module()
    module.joined = nn.Parameter(torch.randn(40, 8))
    with torch.no_grad():
        module.joined[:5] = 0
        module.joined[20:23] = 0
    path = tmp_path / "model.safetensors"
    save_file({"second.weight": module.joined.detach()[20:30].clone(), "first.weight": module.joined.detach()[:20].clone()}, path)
    places, unmatched = match(module, open_path(path))
    assert unmatched == ()
    assert [(places[name].first, places[name].rows) for name in ("first.weight", "second.weight")] == [(0, 20), (20, 10)]


def test_buffers_and_integers_match_by_name(tmp_path: Path) -> None:
    module = nn.BatchNorm2d(4)
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    places, unmatched = match(module, open_path(path))
    assert unmatched == ()
    assert {name: place.parameter for name, place in places.items()} == {name: name for name in module.state_dict()}


def test_types_that_change_on_loading(tmp_path: Path) -> None:
    """float32 on disk, bfloat16 in the module: compared after the conversion that loading made."""
    torch.manual_seed(5)
    module = nn.Linear(16, 8)
    path = tmp_path / "model.safetensors"
    save_file({"weight": module.weight.detach(), "old.bias": module.bias.detach()}, path)
    places, unmatched = match(module.to(torch.bfloat16), open_path(path))
    assert unmatched == ()
    assert {name: place.parameter for name, place in places.items()} == {"weight": "weight", "old.bias": "bias"}


def test_values_handed_over_are_what_is_compared(tmp_path: Path) -> None:
    """Decoded weights replace those of the file; places are the same."""
    folder = saved(mixtral(), tmp_path / "model")
    weights = {name: value * 0.5 for name, value in load_file(f"{folder}/model.safetensors").items()}
    with load_runnable(folder) as plain, load_runnable(folder, weights=weights) as replaced:
        assert replaced.places == plain.places
        assert replaced.unmatched == ()
        for name, value in weights.items():
            assert torch.equal(replaced.weight(name).reshape(-1), value.reshape(-1))
