"""Quantizing with data from Python: what it gains, what it keeps, and that a model comes back as it was."""

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import engine
from engine.errors import Cancelled, DataError, InputError, TrustNeeded
from engine.records.calibration import DataSpec
from engine.records.progress import Monitor, Progress
from engine.records.recipe import Recipe
from engine.running import kept_statistics


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_statistics, "cache_folder", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache"


def recipe(scheme: str, algorithm: str = "rtn", **others: Any) -> Recipe:
    return dataclasses.replace(engine.recipe(scheme), algorithm=algorithm, **others)


class Net(nn.Module):
    """Two residual layers and a head; counts the forwards of all its instances."""

    forwards = 0

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 16)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        type(self).forwards += 1
        hidden = torch.relu(self.first(x if bias is None else x + bias))
        return self.out(self.drop(hidden + self.second(hidden)))


def inputs(count: int = 96, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path if path.is_file() else path / "model.safetensors")


# -- what it gains -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perplexity_of_float() -> float:
    samples = Path(__file__).parents[2] / "assets" / "samples" / "docstring_lm"
    found = engine.evaluate(samples, DataSpec(str(samples / "evaluation.txt"), samples=0)).quantized.perplexity
    assert found is not None
    return found


def test_the_float_perplexity_is_that_of_transformers(perplexity_of_float: float, language_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32).eval()
    text = (language_model / "evaluation.txt").read_text()
    ids = AutoTokenizer.from_pretrained(language_model)(text, return_tensors="pt").input_ids[0]
    windows = ids[: len(ids) // 256 * 256].view(-1, 256)
    with torch.no_grad():
        losses = [model(part, labels=part).loss for part in windows.split(16)]
    weights = torch.tensor([len(part) for part in windows.split(16)], dtype=torch.float32)
    # Samples begin elsewhere here (texts are joined with separators), so only about the same.
    assert perplexity_of_float == pytest.approx(((torch.stack(losses) * weights).sum() / weights.sum()).exp().item(), rel=0.1)


@pytest.mark.parametrize("bits", [3, 4])
def test_data_bring_a_language_model_nearer_to_the_float_one(
    bits: int, language_model: Path, tmp_path: Path, perplexity_of_float: float
) -> None:
    found = {}
    for algorithm, samples in (("rtn", 1), ("gptq", 32), ("awq", 128 if bits == 3 else 32)):
        out, data = tmp_path / algorithm, DataSpec(str(language_model / "calibration.txt"), samples=samples)
        engine.quantize_to(language_model, out, recipe(f"int{bits}:g128", algorithm), data=data, measure=0)
        judged = engine.evaluate(out, DataSpec(str(language_model / "evaluation.txt"), samples=0))
        found[algorithm] = judged.quantized.perplexity or 0
    assert perplexity_of_float < found["gptq"] < found["rtn"]
    assert perplexity_of_float < found["awq"] < found["rtn"]


def trusted_digits(digits: Path) -> dict[str, Any]:
    digest = hashlib.sha256((digits / "factory.py").read_bytes()).hexdigest()
    return {"factory": f"{digits / 'factory.py'}:create_model", "trusted": [digest]}


@pytest.mark.parametrize(("wanted", "points"), [(recipe("W8A8_STATIC"), 0.5), (recipe("int4:channel", "mse"), 1.5)])
def test_accuracy_of_the_digits(wanted: Recipe, points: float, digits: Path, tmp_path: Path) -> None:
    out, judged = tmp_path / "q.safetensors", np.load(digits / "evaluation.npz")
    with engine.load_runnable(digits / "model.safetensors", **trusted_digits(digits)) as model:
        engine.quantize_to(model, out, wanted, data=DataSpec(str(digits / "calibration.npz")), measure=0)
        found = engine.evaluate(out, DataSpec(str(digits / "evaluation.npz"), samples=0), original=model)
    images, labels = (torch.from_numpy(judged[name]) for name in ("images", "labels"))
    spec = importlib.util.spec_from_file_location("digits_factory", digits / "factory.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.create_model().eval()
    network.load_state_dict(load_file(digits / "model.safetensors"))
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels.reshape(-1)).double().mean().item()
    assert found.original is not None and found.original.accuracy == pytest.approx(accuracy)
    assert found.quantized.accuracy is not None and found.samples == len(images)
    assert 100 * abs(accuracy - found.quantized.accuracy) <= points


# -- statistics --------------------------------------------------------------------------------------------------------

RECIPES = {
    "gptq": recipe("int4:g128", "gptq", sequential=False),
    "static": recipe("int8:channel", activations="int8:static", sequential=False),
    "asymmetric": recipe("int8:channel", activations="int8:static:asym", observer="percentile", sequential=False),
    "smooth": recipe("int8:channel", "smoothquant+gptq", activations="int8:static", sequential=False),
    "awq": recipe("int4:g128", "awq+gptq", sequential=False),
    "bias": recipe("int4:g128", "equalize+gptq+bias", sequential=False),
}
CACHED = dict.fromkeys(RECIPES, 1 << 30)
# Statistics too large to be kept: the model is run instead. Where scale was moved it is then run again, on weights that were
# rounded to bfloat16 after the move, so that equal bytes are promised only without transforms.
FROM_MODEL = dict.fromkeys(("gptq", "static", "asymmetric"), 0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=512, max_position_embeddings=64,
        )
    )  # fmt: skip
    nn.Module.to(model, torch.bfloat16)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("name", "cached"), [*CACHED.items(), *FROM_MODEL.items()])
def test_statistics_stand_in_for_the_data(
    name: str, cached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: Path
) -> None:
    monkeypatch.setattr(kept_statistics, "CACHED", cached)
    wanted, kept = RECIPES[name], tmp_path / "s.safetensors"
    data = [{"input_ids": torch.randint(0, 512, (16, 32), generator=torch.Generator().manual_seed(4))}]
    engine.calibrate(llama, data, kept, observers=sorted({"minmax", wanted.observer}), second=True)
    engine.quantize_to(llama, tmp_path / "a", wanted, data=data, measure=0)
    engine.quantize_to(llama, tmp_path / "b", wanted, statistics=kept)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    if wanted.algorithm != "rtn":  # and the algorithm was at work
        engine.quantize_to(llama, tmp_path / "c", dataclasses.replace(wanted, algorithm="rtn"), statistics=kept)
        assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


@pytest.fixture
def statistics(tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    with engine.load_runnable(Net()) as model:
        engine.calibrate(model, [inputs()], tmp_path / "s.safetensors")
        yield model, tmp_path / "s.safetensors"


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 8)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a model":
        save_file(Net().state_dict(), path, {"format": "pt"})
    else:
        with safe_open(path, "pt") as file:
            values, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        described = json.loads(metadata["mono_quant.calibration"])
        metadata["mono_quant.calibration"] = {
            "version": json.dumps(described | {"version": "999"}),
            "words": "no json {",
            "list": "[]",
            "partial": json.dumps({"version": described["version"]}),
        }[how]
        save_file(values, path, metadata)


@pytest.mark.parametrize("how", ["cut", "noise", "empty", "a model", "version", "words", "list", "partial"])
def test_statistics_that_are_none(how: str, statistics: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = statistics
    spoil(path, how)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        engine.quantize_to(model, tmp_path / "q.safetensors", recipe("int8:channel", activations="int8:static"), statistics=path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert ("another version" in str(caught.value)) == (how == "version")
    assert sorted(tmp_path.iterdir()) == before


def test_statistics_of_something_else(statistics: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = statistics
    out = tmp_path / "q.safetensors"
    with engine.load_runnable(Net(seed=1)) as other, pytest.raises(InputError, match="are of another model"):
        engine.quantize_to(other, out, recipe("int8:channel", activations="int8:static"), statistics=path)
    with pytest.raises(InputError, match=r"no second moments.*--second"):
        engine.quantize_to(model, out, recipe("int8:channel", "gptq"), statistics=path)
    with pytest.raises(InputError, match=r"no ranges by entropy.*--observer entropy"):
        engine.quantize_to(model, out, recipe("int8:channel", activations="int8:static", observer="entropy"), statistics=path)
    with pytest.raises(InputError, match="does not exist"):
        engine.quantize_to(model, out, recipe("int8:channel", "gptq"), statistics=tmp_path / "no.safetensors")
    assert not out.exists()


def test_a_second_recipe_on_the_same_data_does_not_run_the_model(cache: Path, tmp_path: Path) -> None:
    wanted, names = recipe("int8:channel", activations="int8:static"), iter("abcdefgh")

    def forwards(net: Net, data: torch.Tensor, asked: Recipe = wanted) -> int:
        before = Net.forwards
        with engine.load_runnable(net) as model:
            engine.quantize_to(model, tmp_path / f"{next(names)}.safetensors", asked, data=[data], measure=0)
        return Net.forwards - before

    tried = 1  # one batch, before anything is written
    assert forwards(Net(), inputs()) > tried
    (first,) = cache.iterdir()
    assert forwards(Net(), inputs()) <= tried
    assert forwards(Net(), inputs(), dataclasses.replace(wanted, activations="int8:static:asym")) <= tried
    assert list(cache.iterdir()) == [first]
    assert forwards(Net(), inputs(seed=2)) > tried  # other data
    assert forwards(Net(seed=1), inputs()) > tried  # another model
    assert forwards(Net(), inputs(), dataclasses.replace(wanted, observer="percentile")) > tried
    assert len(list(cache.iterdir())) == 4
    first.write_bytes(first.read_bytes()[:100])
    assert forwards(Net(), inputs()) > tried  # a spoilt file is made again
    made = [tensors(tmp_path / f"{name}.safetensors") for name in "abg"]
    assert all(torch.equal(value, other[key]) for other in made[1:] for key, value in made[0].items())
    assert not torch.equal(tensors(tmp_path / "d.safetensors")["first.input_scale"], made[0]["first.input_scale"])


# -- consent -----------------------------------------------------------------------------------------------------------


def test_code_that_changed_since_it_was_agreed_to_is_not_run(tmp_path: Path) -> None:
    mark, file = tmp_path / "it-ran", tmp_path / "network.py"
    file.write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(64, 64))\n")
    save_file(nn.Sequential(nn.Linear(64, 64)).state_dict(), tmp_path / "w.safetensors", {"format": "pt"})
    arguments: dict[str, Any] = {"factory": f"{file}:make"}
    with pytest.raises(TrustNeeded) as asked:
        engine.load_runnable(tmp_path / "w.safetensors", **arguments)
    need = asked.value
    assert (need.path, need.sha256) == (str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    assert "make" in need.what and need.sha256[:12] in str(need)
    file.write_text(f"open({str(mark)!r}, 'w').close()\n" + file.read_text())
    with pytest.raises(TrustNeeded) as again:
        engine.load_runnable(tmp_path / "w.safetensors", **arguments, trusted=[need.sha256])
    assert not mark.exists()
    with engine.load_runnable(tmp_path / "w.safetensors", **arguments, trusted=[again.value.sha256]):
        assert mark.exists()


# -- a model that is handed over ---------------------------------------------------------------------------------------


def state(module: nn.Module) -> dict[str, Any]:
    """All of a module that a run could change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs", "_state_dict_hooks")
    return {
        "parameters": {name: (id(p), id(p.grad), p.requires_grad, p.data_ptr()) for name, p in module.named_parameters()},
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "training": [part.training for part in module.modules()],
        "hooks": [len(getattr(part, name, ())) for part in module.modules() for name in hooks],
        "forward": [part.__dict__.get("forward") for part in module.modules()],
        "torch": (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    values = before.pop("values"), after.pop("values")
    assert before == after
    assert all(torch.equal(value, values[1][name]) for name, value in values[0].items())


DATA = {
    "a tensor": lambda: inputs(),
    "a list of batches": lambda: list(inputs().split(32)),
    "a generator": lambda: iter(inputs().split(32)),
    "tuples": lambda: [(part, torch.zeros(len(part), 64)) for part in inputs().split(32)],
    "mappings": lambda: [{"x": part} for part in inputs().split(32)],
    "mappings of two": lambda: [{"bias": torch.zeros(len(part), 64), "x": part} for part in inputs().split(32)],
    "a DataLoader": lambda: DataLoader(TensorDataset(inputs()), batch_size=24),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_of_any_kind_quantize_a_module_and_leave_it_alone(kind: str, tmp_path: Path) -> None:
    net = Net().train()
    net.second.eval()
    net.out.weight.requires_grad_(False)
    before = state(net)
    report = engine.quantize_to(net, tmp_path / "q.safetensors", recipe("int4:g64", "awq+gptq+bias"), data=DATA[kind]())
    assert_same(before, state(net))
    assert {layer.name for layer in report.layers if layer.output} == {"first", "second", "out"}
    engine.quantize_to(Net(), tmp_path / "same.safetensors", recipe("int4:g64", "awq+gptq+bias"), data=[inputs()], measure=0)
    one, other = tensors(tmp_path / "q.safetensors"), tensors(tmp_path / "same.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Stopping(Monitor):
    """Asks to stop at the n-th report of a stage."""

    def __init__(self, stage: str, number: int = 1) -> None:
        self.stage, self.left, self.stages = stage, number, []

    def progress(self, progress: Progress) -> None:
        self.stages.append(progress.stage)
        self.left -= progress.stage == self.stage

    def cancelled(self) -> bool:
        return self.left <= 0


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(("stage", "number"), [("calibrating", 1), ("solving", 1), ("solving", 3), ("quantizing", 1)])
def test_a_stopped_run_leaves_the_model_and_the_folder_alone(stage: str, number: int, sequential: bool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with engine.load_runnable(Net().train()) as model:
        before, monitor = state(model.module), Stopping(stage, number)
        with pytest.raises(Cancelled):
            engine.quantize_to(
                model, tmp_path / "out" / "q.safetensors", recipe("int4:g64", "awq+gptq", sequential=sequential),
                data=[inputs()], monitor=monitor,
            )  # fmt: skip
        assert_same(before, state(model.module))
        assert monitor.stages[-1] == stage and not list((tmp_path / "out").iterdir())
        # And it can be run again, to the same end as if nothing had been.
        wanted = recipe("int4:g64", "awq+gptq", sequential=sequential)
        engine.quantize_to(model, tmp_path / "again.safetensors", wanted, data=[inputs()], measure=0)
        assert_same(before | {"values": model.module.state_dict()}, state(model.module))
    engine.quantize_to(Net(), tmp_path / "fresh.safetensors", wanted, data=[inputs()], measure=0)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "fresh.safetensors").read_bytes()


class Sometimes(Net):
    """NaN inside for a sample of threes."""

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        spoilt = (x == 3).all(-1, keepdim=True)
        return self.out(torch.where(spoilt, torch.nan, hidden) + self.second(hidden))


@pytest.mark.parametrize("algorithm", ["gptq", "awq", "smoothquant", "adaround", "bias"])
def test_nan_inside_the_model_names_layer_and_sample_and_changes_nothing(algorithm: str, tmp_path: Path) -> None:
    data = inputs(24)
    data[13] = 3
    with engine.load_runnable(Sometimes().train()) as model:
        before = state(model.module)
        with pytest.raises(DataError, match=r"The input of out holds NaN or Inf among the samples 8, .*13, .*rtn") as caught:
            engine.quantize_to(model, tmp_path / "q.safetensors", recipe("int4:g64", algorithm), data=[data])
        assert "\n" not in str(caught.value)
        assert_same(before, state(model.module))
    assert not (tmp_path / "q.safetensors").exists() and not list(tmp_path.glob(".*"))


def test_a_module_without_data_says_that_it_needs_some(tmp_path: Path) -> None:
    with pytest.raises(engine.EngineError, match="needs calibration"):
        engine.quantize_to(Net(), tmp_path / "q.safetensors", recipe("int4:g64", "gptq"))
    with pytest.raises(DataError, match="no samples"):
        engine.quantize_to(Net(), tmp_path / "q.safetensors", recipe("int4:g64", "gptq"), data=[])
    with pytest.raises(InputError, match="no data"):
        engine.quantize_to(Net(), tmp_path / "q.safetensors", recipe("int4:g64", "gptq"), data=3)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*"))
