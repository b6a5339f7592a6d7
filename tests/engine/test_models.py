"""Models that run. Their oracle is what transformers and torch load from the same files; code runs only when it is trusted."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from engine.errors import InputError, TrustNeeded
from engine.models import load_runnable
from engine.models.state import running
from engine.records.trust import Factory
from tests.engine.test_models_matching import gpt2, llama, mixtral, saved, vit

IDS = torch.arange(24).reshape(2, 12)


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def digits_factory(digits: Path) -> tuple[Factory, str]:
    return Factory(str(digits / "factory.py"), "create_model"), sha256(digits / "factory.py")


def images(digits: Path) -> torch.Tensor:
    with np.load(digits / "evaluation.npz") as data:
        return torch.from_numpy(data["images"][:16])


# Hugging Face folders


@pytest.mark.parametrize("make", [llama, gpt2, mixtral])
def test_a_language_model_gives_the_outputs_of_transformers(make, tmp_path: Path) -> None:
    folder = saved(make(), tmp_path / "model")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager")
    with load_runnable(folder) as model, running(model.module):
        assert torch.equal(model.module(input_ids=IDS).logits, oracle(input_ids=IDS).logits)
        tokens, mask = model.inputs.arguments
        assert (tokens.name, tokens.role, tokens.high, mask.name, mask.required) == (
            "input_ids",
            "tokens",
            63,
            "attention_mask",
            False,
        )
        assert (model.inputs.max_length, model.inputs.folder, model.summary.path) == (64, folder, folder)
        assert model.snapshot == ""


def test_an_image_model_names_its_pixels(tmp_path: Path) -> None:
    folder = saved(vit(), tmp_path / "model")
    pixels = torch.randn(2, 3, 16, 16)
    oracle = transformers.ViTForImageClassification.from_pretrained(folder)
    with load_runnable(folder) as model, running(model.module):
        assert torch.equal(model.module(pixel_values=pixels).logits, oracle(pixel_values=pixels).logits)
        (info,) = model.inputs.arguments
        assert (info.name, info.role, info.shape) == ("pixel_values", "pixels", (3, 16, 16))


def test_the_sample_runs_in_its_own_type(language_model: Path) -> None:
    with load_runnable(language_model) as model:
        assert {value.dtype for value in model.module.parameters()} == {torch.bfloat16}
        assert not any(part.training for part in model.module.modules())


def test_experts_run_one_after_the_other(tmp_path: Path) -> None:
    with load_runnable(saved(mixtral(), tmp_path / "model")) as model:
        assert model.module.config._experts_implementation == "eager"


@pytest.mark.parametrize("make", [llama, gpt2, mixtral, vit])
def test_weights_handed_over_replace_those_on_disk(make, tmp_path: Path) -> None:
    """Oracle: transformers loads a folder in which these weights are stored."""
    folder = saved(make(), tmp_path / "model")
    weights = {name: value * 1.25 for name, value in load_file(f"{folder}/model.safetensors").items()}
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with load_runnable(folder, weights=weights) as model, load_runnable(other) as oracle:
        wanted = dict(oracle.module.named_parameters())
        for name, value in model.module.named_parameters():
            assert torch.equal(value, wanted[name]), name


def test_a_quantized_folder_runs_on_its_decoded_weights(tmp_path: Path) -> None:
    import engine

    folder = saved(llama(), tmp_path / "model")
    engine.quantize_to(folder, tmp_path / "out", "W8A16")
    with pytest.raises(InputError, match="needs its decoded weights"):
        load_runnable(tmp_path / "out")
    decoded = engine.load_tensors(tmp_path / "out")
    with load_runnable(tmp_path / "out", weights=decoded) as model:
        assert model.unmatched == ()
        for name, value in decoded.items():
            assert torch.equal(model.weight(name).reshape(-1), value.reshape(-1)), name


def test_missing_and_wrong_weights_are_named(tmp_path: Path) -> None:
    folder = saved(llama(), tmp_path / "model")
    stored = load_file(f"{folder}/model.safetensors")
    short = {name: value for name, value in stored.items() if "layers.1.mlp.up_proj" not in name}
    save_file(short, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights of the model \(model.layers.1.mlp.up_proj.weight"):
        load_runnable(folder)
    wrong = stored | {"model.norm.weight": torch.ones(16)}
    save_file(wrong, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model.norm.weight is \[16\] on disk, but \[32\]"):
        load_runnable(folder)


CUSTOM = """
from pathlib import Path

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from .parts import double

Path({marker!r}).touch()


class OwnConfig(PretrainedConfig):
    model_type = "own"


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(4, 3)
        self.post_init()

    def forward(self, x):
        return double(self.layer(x))
"""


def own_folder(tmp_path: Path) -> tuple[Path, Path]:
    folder, marker = tmp_path / "own", tmp_path / "ran"
    folder.mkdir()
    (folder / "modeling_own.py").write_text(CUSTOM.format(marker=str(marker)))
    (folder / "parts.py").write_text("def double(x):\n    return x * 2\n")
    auto = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "architectures": ["OwnModel"], "auto_map": auto}))
    save_file({"layer.weight": torch.ones(3, 4), "layer.bias": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    return folder, marker


def test_code_of_a_folder_runs_only_when_trusted(tmp_path: Path) -> None:
    folder, marker = own_folder(tmp_path)
    with pytest.raises(TrustNeeded, match="runs code") as refused:
        load_runnable(folder)
    assert not marker.exists()
    assert "modeling_own.py" in refused.value.what and "parts.py" in refused.value.what
    with load_runnable(folder, trusted=[refused.value.sha256]) as model, running(model.module):
        assert model.module(torch.ones(1, 4)).tolist() == [[8, 8, 8]]  # 2 · (1·1 · 4)
    assert marker.exists()


def test_trust_ends_when_a_file_changes(tmp_path: Path) -> None:
    folder, marker = own_folder(tmp_path)
    with pytest.raises(TrustNeeded) as refused:
        load_runnable(folder)
    (folder / "parts.py").write_text("def double(x):\n    return x * 3\n")
    with pytest.raises(TrustNeeded):
        load_runnable(folder, trusted=[refused.value.sha256])
    assert not marker.exists()


def test_code_from_elsewhere_is_refused(tmp_path: Path) -> None:
    folder, _marker = own_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "someone/else--modeling_own.OwnModel"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="only code in the folder itself"):
        load_runnable(folder, trusted=["0" * 64])


# Factories


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_factory_builds_the_network(digits: Path, name: str) -> None:
    factory, sha = digits_factory(digits)
    program = torch.export.load(digits / "model.pt2").module()
    with load_runnable(digits / name, factory=factory, trusted=[sha]) as model, running(model.module):
        assert torch.allclose(model.module(images(digits)), program(images(digits)), atol=1e-5)
        assert model.unmatched == () and len(model.places) == len(load_file(digits / "model.safetensors"))
        (info,) = model.inputs.arguments
        assert (info.name, info.shape, info.required) == ("images", (1, None, None), True)
        kinds = {layer.name: (layer.kind, layer.guessed) for layer in model.summary.layers}
        assert kinds["stem.conv"] == ("conv2d", False) and kinds["stem.norm"] == ("norm", False)


def test_a_factory_runs_only_when_trusted(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "build.py"
    path.write_text(f"from pathlib import Path\nfrom torch import nn\nPath({str(marker)!r}).touch()\nmake = nn.Linear\n")
    save_file(nn.Linear(4, 3).state_dict(), tmp_path / "w.safetensors")
    factory = Factory(str(path), "make", {"in_features": 4, "out_features": 3})
    for trusted in ([], [sha256(tmp_path / "w.safetensors")], [sha256(path)[:-1] + "x"]):
        with pytest.raises(TrustNeeded) as refused:
            load_runnable(tmp_path / "w.safetensors", factory=factory, trusted=trusted)
        assert not marker.exists()
        assert (refused.value.path, refused.value.sha256) == (str(path), sha256(path))
    load_runnable(tmp_path / "w.safetensors", factory=factory, trusted=[sha256(path)])
    assert marker.exists()


@pytest.mark.parametrize(
    ("source", "arguments", "said"),
    [
        ("make = 3", {}, "has no function make"),
        ("def make(): return 5", {}, "returned a int, not a torch.nn.Module"),
        ("def make(): raise KeyError('x')", {}, "make failed: KeyError"),
        ("def make(): raise SystemExit(1)", {}, "make failed: SystemExit"),
        ("import no_such_package_at_all", {}, "imports no_such_package_at_all"),
        ("def make(:", {}, "SyntaxError"),
        ("from torch import nn\ndef make(n): return nn.Linear(4, n)", {"n": 5}, r"bias is \[3\], but the network's is \[5\]"),
        ("from torch import nn\ndef make(): return nn.Linear(4, 3, bias=False)", {}, "1 tensors that the network lacks: bias"),
        ("from torch import nn\ndef make(): return nn.Bilinear(4, 4, 3)", {"m": 1}, "make failed: TypeError"),
        (
            "from torch import nn\ndef make():\n    m = nn.Linear(4, 3)\n    m.more = nn.Linear(2, 2)\n    return m",
            {},
            "lacks 2 tensors of the network: more.weight, more.bias",
        ),
    ],
)
def test_what_is_wrong_with_a_factory_is_one_sentence(tmp_path: Path, source: str, arguments: dict, said: str) -> None:
    path = tmp_path / "build.py"
    path.write_text(source)
    save_file(nn.Linear(4, 3).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=said):
        load_runnable(tmp_path / "w.safetensors", factory=Factory(str(path), "make", arguments), trusted=[sha256(path)])


def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    path = tmp_path / "build.py"
    path.write_text(
        "from torch import nn\n"
        "def make():\n    m = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))\n"
        "    m[1].weight = m[0].weight\n    return m\n"
    )
    save_file({"0.weight": torch.randn(6, 4)}, tmp_path / "w.safetensors")
    with load_runnable(tmp_path / "w.safetensors", factory=Factory(str(path), "make"), trusted=[sha256(path)]) as model:
        assert model.module[1].weight is model.module[0].weight


def test_weights_alone_ask_for_a_factory(digits: Path) -> None:
    for name in ("model.pt", "model.safetensors"):
        with pytest.raises(InputError, match="factory"):
            load_runnable(digits / name)
    with pytest.raises(InputError, match="does not exist"):
        load_runnable(digits / "nothing.pt")


def test_factories_are_written_as_file_and_function() -> None:
    assert Factory.parse("C:\\models\\net.py:make", {"n": 2}) == Factory("C:\\models\\net.py", "make", {"n": 2})
    for wrong in ("net.py", "net.txt:make", "net.py:1x", ""):
        with pytest.raises(InputError, match=r"file\.py:function"):
            Factory.parse(wrong)


# Pickles and exported programs


class Touches:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin"])
def test_a_pickle_runs_only_when_trusted(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / name
    torch.save(Touches(marker), path)
    with pytest.raises(TrustNeeded) as refused:
        load_runnable(path)
    assert not marker.exists()
    assert refused.value.sha256 == sha256(path) and "imports builtins.getattr, pathlib" in refused.value.what
    with pytest.raises(InputError, match="holds a NoneType"):
        load_runnable(path, trusted=[sha256(path)])
    assert marker.exists()


def test_old_pickles_are_refused_even_when_trusted(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "m.pt"
    path.write_bytes(pickle.dumps(Touches(marker)))
    with pytest.raises(InputError, match="from before 1\\.6"):
        load_runnable(path, trusted=[sha256(path)])
    assert not marker.exists()


def test_a_pickled_module_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 64, 5))
    path = tmp_path / "m.pt"
    torch.save(module, path)
    x = torch.randn(2, 3, 8, 8)
    with load_runnable(path, trusted=[sha256(path)]) as model, running(model.module):
        assert torch.equal(model.module(x), module(x))
        assert (model.summary.path, model.summary.source) == (str(path), "pickled")
        found = {
            layer.name: (layer.kind, layer.axis, layer.guessed) for layer in model.summary.layers if "bias" not in layer.name
        }
        assert found == {"0": ("conv2d", 0, False), "2": ("transposed", 1, False), "4": ("linear", 0, False)}
        assert Path(model.snapshot).stat().st_mode & 0o077 == 0
    assert not Path(model.snapshot).exists()


def test_an_exported_program_runs_only_when_trusted(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = digits / "model.pt2"

    def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("loaded without trust")

    with monkeypatch.context() as patched:
        patched.setattr(torch.export, "load", never)
        with pytest.raises(TrustNeeded) as refused:
            load_runnable(path)
    assert refused.value.sha256 == sha256(path)
    factory, sha = digits_factory(digits)
    x = images(digits)
    with load_runnable(path, trusted=[sha256(path)]) as model, running(model.module):
        with load_runnable(digits / "model.pt", factory=factory, trusted=[sha]) as oracle, running(oracle.module):
            wanted = oracle.module(x)
        assert torch.allclose(model.module(images=x), wanted, atol=1e-5)
        (info,) = model.inputs.arguments
        assert (info.name, info.shape, info.dtype) == ("images", (1, 8, 8), "F32")
        kinds = {layer.name: layer.kind for layer in model.summary.layers if not layer.guessed}
        assert (kinds["stem.conv"], kinds["fc1"], kinds["stem.norm"]) == ("conv2d", "linear", "norm")
        assert model.unmatched == () and model.summary.source == "exported"


def test_the_bytes_that_were_agreed_to_are_the_ones_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced right after it was read; what was hashed is loaded."""
    from engine.models import pickled

    path, marker = tmp_path / "m.pt", tmp_path / "ran"
    torch.save(nn.Linear(2, 2), path)
    agreed = sha256(path)
    read = pickled.read_bytes

    def replaced(name: str) -> bytes:
        data = read(name)
        torch.save(Touches(marker), name)
        return data

    monkeypatch.setattr(pickled, "read_bytes", replaced)
    load_runnable(path, trusted=[agreed]).close()
    assert not marker.exists()


# Modules


def test_the_users_module_is_left_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    torch.nn.utils.parametrizations.weight_norm(module[0])
    names = list(module.state_dict())
    with load_runnable(module) as model:
        assert list(model.module.state_dict()) == ["0.bias", "0.weight"]
        assert model.summary.path == "Sequential" and model.summary.source == "module"
    assert list(module.state_dict()) == names
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize(
    "normed",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.parametrizations.orthogonal,
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parametrized_weights_become_plain_ones(normed) -> None:
    """Oracle: the module's own forward in evaluation mode."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), normed(nn.Linear(5, 4)))
    x = torch.randn(3, 6)
    module(x)  # the older forms compute their weight on the first forward
    wanted = module.eval()(x).detach()
    module.train()
    with load_runnable(module) as model, running(model.module):
        assert torch.allclose(model.module(x), wanted, atol=1e-6)
        assert {layer.name for layer in model.summary.layers} == {"0", "0.bias", "2", "2.bias"}
        assert model.unmatched == () and "2.weight" in model.notes[0]


def test_resolving_takes_the_weight_of_evaluation_mode() -> None:
    """In training, spectral norm takes a step with each look at the weight; modes are left as they were."""
    from engine.models.parametrizations import resolve

    torch.manual_seed(0)
    module = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(64, 48)))
    wanted = module.eval()[0].weight.detach().clone()
    module.train()
    assert resolve(module) == ["0.weight"]
    assert torch.equal(module[0].weight, wanted) and module.training and module[0].training


def test_tied_tensors_are_written_once() -> None:
    module = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    module[1].weight = module[0].weight
    with load_runnable(module) as model:
        (layer,) = model.summary.layers
        assert (layer.name, layer.kind, layer.tied) == ("0", "embedding", ("1.weight",))


def test_a_module_of_transformers_says_what_it_takes() -> None:
    with load_runnable(gpt2()) as model:
        kinds = {layer.name: (layer.kind, layer.axis) for layer in model.summary.layers}
        assert kinds["transformer.h.0.attn.c_attn"] == ("linear", 1)
        assert model.inputs.arguments[0].name == "input_ids" and model.inputs.max_length == 64
    with load_runnable(mixtral()) as model:
        kinds = {layer.name: (layer.kind, layer.axis) for layer in model.summary.layers}
        assert kinds["model.layers.0.mlp.experts.gate_up_proj"] == ("experts", 1)


def test_weights_replace_those_of_a_module() -> None:
    module = nn.Linear(4, 3)
    with load_runnable(module, weights={"weight": torch.full((3, 4), 2.0)}) as model:
        assert model.module.weight.eq(2).all() and torch.equal(model.module.bias, module.bias)
        assert model.unmatched == ()
    with pytest.raises(InputError, match="1 tensors that the network lacks: other"):
        load_runnable(module, weights={"other": torch.zeros(1)})


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engine.errors import OutputError

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OutputError, match=r"need .* GB"):
        load_runnable(nn.Linear(4, 3))
    assert list(tmp_path.iterdir()) == []


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 3)

    def forward(self, first, second, scale=1.0):
        return self.layer(first + second) * scale


def test_inputs_from_signature_and_example() -> None:
    with load_runnable(Two()) as model:
        assert [(info.name, info.required, info.shape) for info in model.inputs.arguments] == [
            ("first", True, None), ("second", True, None), ("scale", False, None),
        ]  # fmt: skip
        assert not model.inputs.known
    with load_runnable(Two(), example=(torch.zeros(5, 7), torch.zeros(5, 7))) as model:
        assert [(info.name, info.shape, info.dtype) for info in model.inputs.arguments] == [
            ("first", (7,), "F32"),
            ("second", (7,), "F32"),
        ]
        assert model.inputs.known
    with load_runnable(nn.Sequential(nn.Linear(9, 2))) as model:
        (info,) = model.inputs.arguments
        assert (info.name, info.shape) == ("input", (9,))


def test_inputs_of_other_models_of_transformers() -> None:
    """Oracle: transformers runs on tensors of the shapes said, without what is said not to be required."""
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = text | {"image_size": 16, "patch_size": 8}
    speech = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "num_mel_bins": 10, "max_source_positions": 20, "vocab_size": 64, "pad_token_id": 0,
    }  # fmt: skip
    t5 = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, num_layers=1, num_heads=4)
    made = [
        transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)),
        transformers.T5ForConditionalGeneration(t5),
        transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**speech)),
    ]
    names = []
    for module in made:
        with load_runnable(module) as model, running(model.module):
            wanted = [info for info in model.inputs.arguments if info.required]
            names.append([info.name for info in wanted])
            batch = {}
            for info in wanted:
                shape = (2, *(size or 8 for size in info.shape or ()))
                batch[info.name] = torch.full(shape, int(info.high or 0)) if info.role == "tokens" else torch.randn(shape)
            model.module(**batch)
    assert names == [["input_ids", "pixel_values"], ["input_ids", "decoder_input_ids"], ["input_features", "decoder_input_ids"]]


# State


def test_modes_and_switches_are_put_back_after_an_error() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    module[1].eval()
    flags = torch.backends.mha.get_fastpath_enabled(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), running(module):
        assert not any(part.training for part in module.modules())
        assert not torch.backends.mha.get_fastpath_enabled() and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [part.training for part in module.modules()] == [True, True, False]
    assert flags == (
        torch.backends.mha.get_fastpath_enabled(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(),
    )  # fmt: skip
