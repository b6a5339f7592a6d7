"""Commands with data and code from files: answers, consent, and every mistake told in one sentence with nothing left behind."""

import hashlib
import json
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine import api, cli
from engine.cli import text as cli_text
from engine.records.progress import Progress
from engine.running import kept_statistics

NETWORKS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(64, 64), nn.Linear(32, 64), nn.Linear(64, 16)
    def forward(self, left, right):
        return self.out(torch.relu(self.left(left) + self.right(right)))

class Needs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(64, 64), nn.Linear(64, 16)
    def forward(self, x, *, memory, scale):
        return self.out(self.first(x) * scale + memory)

class Plain(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.first, self.out = nn.Linear(width, 64), nn.Linear(64, 16)
    def forward(self, x):
        return self.out(torch.relu(self.first(x)))

class Spare(Plain):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(64, 64)

class Infinite(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 16)
    def forward(self, x):
        hidden = self.first(x)
        return self.out(self.second(hidden / (hidden - hidden)))

class Greedy(Plain):
    def forward(self, x):
        return super().forward(x) + torch.zeros(1 << 45).sum()

class Fails(Plain):
    def forward(self, x):
        raise RuntimeError("the tide is out" + chr(10) + "second line")

class Told(Plain):
    def forward(self, x):
        return {"scores": super().forward(x), "note": "fine"}

def broken():
    raise ValueError("no parts today")

def number():
    return 42
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """Lines of stderr, without those that say whose code runs."""
        return [line for line in self.err.splitlines() if not line.startswith("mono-quant: running code from")]


@dataclass
class Shop:
    """A folder with models and data, one for what commands write, and the command line in this very process."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def out(self) -> Path:
        return self.root / "out"

    def run(self, *arguments: object, expect: int = 0) -> Done:
        self.capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        said = self.capsys.readouterr()
        done = Done(code, said.out, said.err)
        assert code == expect, done.err
        return done

    def refuse(self, words: str, *arguments: object, expect: int = 2) -> Done:
        """Exit code, one sentence, the same as a document, and nothing left anywhere."""
        before = self._everything()
        done = self.run(*arguments, expect=expect)
        assert len(done.said) == 1 and done.said[0].startswith("mono-quant: "), done.err
        assert words in done.said[0] and done.out == ""
        assert "Traceback" not in done.err and "\x1b" not in done.err
        document = json.loads(self.run(*arguments, "--json", expect=expect).out)
        assert done.said[0] == f"mono-quant: {document['error']}" and document["kind"].isidentifier()
        assert self._everything() == before
        return done

    def _everything(self) -> dict[Path, bytes]:
        """Every file and folder but the cache, in which there are whole files only."""
        cached = self.root / "cache"
        assert all(re.fullmatch(r"[0-9a-f]{32}\.safetensors", path.name) for path in cached.glob("*"))
        paths = [path for path in self.root.rglob("*") if cached not in (path, *path.parents)]
        return {path: path.read_bytes() if path.is_file() else b"" for path in paths}

    def network(self, name: str, **arguments: object) -> list[str]:
        """Flags for a network of the file, whose weights are written once."""
        scope: dict[str, Callable[..., nn.Module]] = {}
        exec(NETWORKS, scope)  # this file's own text
        file, weights = self.root / "networks.py", self.root / f"{name}.safetensors"
        file.write_text(NETWORKS)
        if not weights.exists():
            torch.manual_seed(3)
            made = scope[name](**arguments) if name[0].isupper() else scope["Plain"]()
            save_file(made.state_dict(), weights, metadata={"format": "pt"})
        return [str(weights), "--factory", f"{file}:{name}"]

    def array(self, name: str, *shape: int, **others: np.ndarray) -> Path:
        values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        path = self.root / f"{name}.npz"
        np.savez(path, allow_pickle=False, **{name: values, **others})  # type: ignore[arg-type]
        return path


@pytest.fixture
def shop(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shop:
    for name in ("out", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(kept_statistics, "cache_folder", lambda: str(tmp_path / "cache"))
    return Shop(tmp_path, capsys)


def quantizing(shop: Shop, *more: object) -> list[object]:
    return [*more, "-o", shop.out / "q.safetensors", "--scheme", "int8:channel"]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_calibrate_tells_ranges_and_what_was_never_reached(shop: Shop) -> None:
    data = shop.array("x", 40, 64)
    values = np.load(data)["x"]
    arguments = [
        "calibrate",
        *shop.network("Spare"),
        "--trust",
        "--data",
        data,
        "--samples",
        "0",
        "-o",
        shop.out / "s.safetensors",
    ]
    document = json.loads(shop.run(*arguments, "--json").out)
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert layers.keys() == {"first", "out", "spare"}
    assert (document["samples"], layers["first"]["samples"], layers["spare"]["samples"]) == (40, 40, 0)
    assert (layers["first"]["low"], layers["first"]["high"]) == (float(values.min()), float(values.max()))
    assert layers["first"]["low_sample"] == np.argwhere(values == values.min())[0, 0]
    assert layers["first"]["high_sample"] == np.argwhere(values == values.max())[0, 0]
    assert sum(layers["first"]["counts"]) == values.size
    weights = load_file(shop.root / "Spare.safetensors")
    hidden = torch.relu(torch.from_numpy(values) @ weights["first.weight"].T + weights["first.bias"])
    assert layers["out"]["low"] == 0 and layers["out"]["high"] == pytest.approx(hidden.max().item(), rel=1e-5)
    shop.refuse("already exists", *arguments)
    text = shop.run(*arguments, "--overwrite").out
    assert "never reached: spare" in text and f"Wrote {shop.out / 's.safetensors'}" in text
    assert [path.name for path in shop.out.iterdir()] == ["s.safetensors"]


def test_evaluate_tells_float_beside_quantized(shop: Shop) -> None:
    labels = np.arange(40) % 16
    data, model = shop.array("x", 40, 64, labels=labels), shop.network("Plain")
    shop.run("quantize", *model, "--trust", "--data", data, *quantizing(shop), "--scheme", "int2:channel")
    done = shop.run(
        "evaluate", shop.out / "q.safetensors", "--float", *model, "--trust", "--data", data, "--samples", "0", "--json"
    )
    found = json.loads(done.out)
    x = torch.from_numpy(np.load(data)["x"])
    outputs = []
    shop.run("dequantize", shop.out / "q.safetensors", "-o", shop.out / "f.safetensors")
    for path in (shop.root / "Plain.safetensors", shop.out / "f.safetensors"):
        w = load_file(path)
        hidden = torch.relu(x @ w["first.weight"].T + w["first.bias"])
        outputs.append((hidden @ w["out.weight"].T + w["out.bias"]).double())
    truth, chosen = torch.from_numpy(labels), [output.argmax(1) for output in outputs]
    expected = 10 * torch.log10(outputs[0].square().sum() / (outputs[0] - outputs[1]).square().sum())
    logs = [output.log_softmax(1) for output in outputs]
    assert found["original"]["accuracy"] == pytest.approx((chosen[0] == truth).double().mean().item())
    assert found["quantized"]["accuracy"] == pytest.approx((chosen[1] == truth).double().mean().item())
    assert found["agreement"] == pytest.approx((chosen[0] == chosen[1]).double().mean().item())
    assert found["output_sqnr_db"] == pytest.approx(expected.item(), abs=1e-3)
    assert found["kl_divergence"] == pytest.approx((logs[0].exp() * (logs[0] - logs[1])).sum(1).mean().item(), rel=1e-3)
    assert (found["samples"], found["predictions"]) == (40, 40)


def test_quantize_tells_outputs_layer_by_layer(shop: Shop) -> None:
    data = shop.array("left", 40, 64, right=np.random.default_rng(2).normal(size=(40, 32)).astype(np.float32))
    arguments = [
        "quantize",
        *shop.network("Two"),
        "--trust",
        "--data",
        data,
        *quantizing(shop),
        "--algorithm",
        "gptq",
        "--overwrite",
    ]
    document = json.loads(shop.run(*arguments, "--json").out)
    outputs = {layer["name"]: layer.get("output") for layer in document["layers"]}
    assert {name for name, output in outputs.items() if output} == {"left", "right", "out"}
    assert all(20 < output["alone_db"] < 80 for output in outputs.values() if output)
    assert outputs["left"]["alone_db"] == outputs["left"]["accumulated_db"]  # nothing before it is quantized
    assert document["evaluation"]["output_sqnr_db"] > 20 and document["data"]
    text = shop.run(*arguments).out
    assert "so far dB" in text and "better than RTN" in text and "output SQNR" in text


def test_a_layer_that_no_data_reach_is_rounded_to_nearest_and_said_so(shop: Shop) -> None:
    arguments = [*shop.network("Spare"), "--trust", "--data", shop.array("x", 80, 64)]
    for algorithm in ("gptq", "adaround", "awq+gptq"):
        done = shop.run("quantize", *arguments, *quantizing(shop), "--algorithm", algorithm, "--overwrite")
        assert "spare: no data reached it: rounded to nearest" in done.out
        (spare,) = [line for line in done.out.splitlines() if line.startswith("spare  ")][:1]
        assert spare.split()[2] == "rtn"


def test_too_few_samples_are_said(shop: Shop) -> None:
    done = shop.run(
        "quantize", *shop.network("Plain"), "--trust", "--data", shop.array("x", 40, 64), *quantizing(shop, "--algorithm", "gptq")
    )
    assert "first: only 40 input vectors for 64 inputs" in done.out


def test_synthetic_data_are_called_synthetic(shop: Shop, digits: Path) -> None:
    model = [digits / "model.pt2", "--trust", "--samples", "8", "--data", "synthetic"]
    done = shop.run("quantize", *model, *quantizing(shop, "--activations", "int8:static"))
    assert "synthetic" in done.out
    assert json.loads(shop.run("calibrate", *model, "--json").out)["synthetic"] is True


# -- consent -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "plan", "quantize", "calibrate", "evaluate"])
def test_code_runs_only_with_trust_on_this_very_call(
    command: str, shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, model = shop.array("x", 16, 64), shop.network("Plain")
    mark = tmp_path / "it-ran"
    network = tmp_path / "networks.py"
    network.write_text(f"open({str(mark)!r}, 'w').close()\n{NETWORKS}")
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    for name in ("TRUST", "MONO_QUANT_TRUST", "TRUST_REMOTE_CODE", "HF_TRUST_REMOTE_CODE"):
        monkeypatch.setenv(name, "1")
    more = {
        "inspect": [], "plan": ["--scheme", "int8:channel"], "quantize": quantizing(shop, "--data", data),
        "calibrate": ["--data", data], "evaluate": ["--data", data],
    }[command]  # fmt: skip
    done = shop.refuse("--trust", command, *model, *more)
    assert digest in done.err and str(network) in done.err and "Plain" in done.err and not mark.exists()
    done = shop.run(command, *model, *more, "--trust")
    assert mark.exists() and len(done.err.splitlines()) == 1
    assert digest in done.err and str(network) in done.err and "Plain" in done.err
    mark.unlink()
    for path in shop.out.iterdir():
        path.unlink()
    shop.refuse("--trust", command, *model, *more)  # the consent is not kept
    assert not mark.exists()


def test_neither_a_recipe_nor_a_folder_can_give_consent(shop: Shop, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "odd",
                "architectures": ["Odd"],
                "auto_map": {"AutoModelForCausalLM": "odd.Odd"},
                "trust_remote_code": True,
            }
        )
    )
    (folder / "odd.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    save_file({"head.weight": torch.zeros(64, 64)}, folder / "model.safetensors", metadata={"format": "pt"})
    shop.refuse("--trust", "calibrate", folder, "--data", "synthetic")
    assert not mark.exists()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('scheme = "int8:channel"\ntrust = true\n')
    shop.refuse("trust", "quantize", folder, "--recipe", recipe, "-o", shop.out / "q")
    assert not mark.exists()


def test_a_file_that_changes_after_the_question_is_not_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model, mark = shop.array("x", 16, 64), shop.network("Plain"), shop.root / "it-ran"
    load, asked = api.load_runnable, []

    def swapping(path: str, **options: Any) -> Any:
        asked.append(list(options["trusted"]))
        if len(asked) == 2:  # the first bytes were agreed to; now the file is another
            (shop.root / "networks.py").write_text(f"open({str(mark)!r}, 'w').close()\n{NETWORKS}")
        return load(path, **options)

    monkeypatch.setattr(api, "load_runnable", swapping)
    done = shop.run("calibrate", *model, "--trust", "--data", data, expect=2)
    assert not mark.exists() and "changed" in done.said[0]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def spoilt(shop: Shop, digits: Path) -> dict[str, Path]:
    """Files of data that no model of images can take."""
    images = np.load(digits / "calibration.npz")["images"]
    nan, infinite = images.copy(), images.copy()
    nan[:, 0, 3, 3], infinite[:, 0, 3, 3] = np.nan, np.inf
    arrays = {
        "shape": images[:, :, :7], "axes": images.reshape(len(images), -1), "nan": nan, "infinite": infinite,
        "letters": np.array(["a", "b"]), "complex": images.astype(np.complex64), "none": images[:0],
    }  # fmt: skip
    for name, values in arrays.items():
        np.savez(shop.root / f"{name}.npz", images=values)
    np.savez(shop.root / "many.npz", one=images, two=images)
    np.save(shop.root / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    (shop.root / "cut.npz").write_bytes((digits / "calibration.npz").read_bytes()[:5000])
    (shop.root / "words.txt").write_text("def f(x): return x\n" * 100)
    (shop.root / "notes.pdf").write_bytes(b"%PDF-1.4")
    (shop.root / "folder").mkdir()
    return {path.stem: path for path in shop.root.iterdir()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shape", "images has the shape 1×7×8, but the model takes 1×8×8"),
        ("axes", "images has the shape 64, but the model takes 1×8×8"),
        ("nan", "images holds NaN or Inf"),
        ("infinite", "images holds NaN or Inf"),
        ("letters", "only plain numbers can be read"),
        ("complex", "only plain numbers can be read"),
        ("none", "holds no samples"),
        ("many", "The data has 2 inputs (one, two), but the model takes 1 input (images)"),
        ("objects", "only plain numbers can be read"),
        ("cut", "cut short"),
        ("words", "holds text, but the model takes no tokens"),
        ("notes", "is no data that can be read"),
        ("folder", "no images in it"),
        ("missing", "does not exist"),
    ],
)
def test_data_that_do_not_fit_a_model_of_images(name: str, words: str, shop: Shop, digits: Path) -> None:
    path = spoilt(shop, digits).get(name, shop.root / "missing.npz")
    model = [digits / "model.pt2", "--trust", "--data", path]
    shop.refuse(words, "quantize", *model, *quantizing(shop, "--activations", "int8:static"))
    assert str(shop.root / name) in shop.refuse(words, "calibrate", *model).err or words[0] in "iT"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((8, 32), 2048), "token id 2048, but the model's vocabulary has 2,048 tokens"),
        (np.full((8, 32), -1), "token id -1"),
        (np.full((8, 32), 0.5, np.float32), "takes integers (token ids)"),
    ],
)
def test_token_ids_that_the_model_has_not(values: np.ndarray, words: str, shop: Shop, language_model: Path) -> None:
    np.save(shop.root / "ids.npy", values)
    shop.refuse(words, "quantize", language_model, "--algorithm", "gptq", "--data", shop.root / "ids.npy", "-o", shop.out / "q")


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        (b"", [], "is empty"),
        (b"def f(x): return x", [], "fewer than one sample of 256"),
        (bytes(range(128, 256)) * 40, [], "not UTF-8"),
        (b"a b c\n" * 4000, ["--length", "0"], "length is 0"),
        (b"a b c\n" * 4000, ["--length", "100000"], "at most 256"),
        (b"a b c\n" * 4000, ["--chat"], "no chat template"),
        (b"a b c\n" * 4000, ["--samples", "-3"], "samples is -3"),
        (b"a b c\n" * 4000, ["--batch", "0"], "batch is 0"),
        (b"a b c\n" * 4000, ["--observer", "best"], "'best' is not an observer"),
        (b"a b c\n" * 4000, ["--algorithm", "gptq+awq+nope"], "nope"),
    ],
)
def test_text_and_flags_that_cannot_be_used(text: bytes, more: list[str], words: str, shop: Shop, language_model: Path) -> None:
    (shop.root / "text.txt").write_bytes(text)
    arguments = [language_model, "--algorithm", "gptq", "--data", shop.root / "text.txt", "-o", shop.out / "q", *more]
    shop.refuse(words, "quantize", *arguments)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Needs", "needs memory, scale"),
        ("Two", "'right'"),
        ("Infinite", "The input of second holds NaN or Inf"),
        ("Greedy", "not enough memory"),
        ("Fails", "the tide is out"),
        ("broken", "no parts today"),
        ("number", "not a torch.nn.Module"),
        ("absent", "absent"),
    ],
)
def test_a_model_that_cannot_run_on_the_data(network: str, words: str, shop: Shop) -> None:
    arguments = [*shop.network(network), "--trust", "--data", shop.array("x", 16, 64)]
    done = shop.refuse(words, "quantize", *arguments, *quantizing(shop, "--algorithm", "gptq"))
    assert "second line" not in done.err
    if network == "Infinite":
        assert "rtn" in done.err and "sample" in done.err
    shop.refuse(words, "calibrate", *arguments, "-o", shop.out / "s.safetensors")


def test_an_input_under_another_name_is_named(shop: Shop) -> None:
    arguments = [*shop.network("Two"), "--trust", "--data", shop.array("left", 16, 64)]
    shop.refuse("needs right", "quantize", *arguments, *quantizing(shop, "--algorithm", "gptq"))


def test_a_static_range_needs_data_at_every_layer(shop: Shop) -> None:
    arguments = [*shop.network("Spare"), "--trust", "--data", shop.array("x", 16, 64)]
    shop.refuse("No data reached spare", "quantize", *arguments, *quantizing(shop, "--activations", "int8:static"))


def test_a_recipe_that_needs_data_says_so(shop: Shop, language_model: Path) -> None:
    for flags in (["--algorithm", "gptq"], ["--scheme", "W8A8_STATIC"], ["--scheme", "NVFP4"]):
        shop.refuse("needs calibration", "quantize", language_model, *flags, "-o", shop.out / "q")
    shop.refuse(
        "does not exist", "quantize", language_model, "--algorithm", "gptq", "--stats", "no.safetensors", "-o", shop.out / "q"
    )


def test_an_empty_name_of_data_is_a_mistake(shop: Shop, language_model: Path) -> None:
    shop.refuse("data", "quantize", language_model, "--data", "", "-o", shop.out / "q")


def test_too_little_memory_is_known_beforehand(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Free", (), {"available": 10_000})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    arguments = [*shop.network("Plain"), "--trust", "--data", shop.array("x", 16, 64)]
    shop.refuse("Not enough memory", "quantize", *arguments, *quantizing(shop, "--algorithm", "gptq"))
    shop.refuse("Not enough memory", "calibrate", *arguments, "--second", "-o", shop.out / "s.safetensors")


@pytest.mark.parametrize("place", ["absent/q.safetensors", "networks.py/q.safetensors"])
def test_a_place_that_cannot_be_written(place: str, shop: Shop) -> None:
    arguments = [*shop.network("Plain"), "--trust", "--data", shop.array("x", 16, 64)]
    flags = ["--scheme", "int8:channel", "--algorithm", "gptq"]
    shop.refuse("", "quantize", *arguments, *flags, "-o", shop.root / place)
    shop.refuse("", "calibrate", *arguments, "-o", shop.root / place)


def test_statistics_may_not_take_the_models_place(shop: Shop) -> None:
    arguments = [*shop.network("Plain"), "--trust", "--data", shop.array("x", 16, 64)]
    for place in ("Plain.safetensors", "networks.py", "x.npz", "out"):
        shop.refuse("", "calibrate", *arguments, "-o", shop.root / place)


def test_a_model_is_compared_with_the_one_it_was_made_of(shop: Shop) -> None:
    data, both = shop.array("x", 16, 64), shop.array("left", 16, 64, right=np.zeros((16, 32), np.float32))
    shop.run("quantize", shop.network("Spare")[0], "--scheme", "int8:channel", "-o", shop.out / "q.safetensors")
    shop.refuse("", "evaluate", shop.out / "q.safetensors", "--float", *shop.network("Two"), "--trust", "--data", both)
    shop.refuse("", "evaluate", shop.root / "Spare.safetensors", "--float", *shop.network("Spare"), "--trust", "--data", data)


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """Ctrl+C at the first report of a stage; returns the stages that were reported."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it

    def at(stage: str) -> list[str]:
        seen: list[str] = []

        def progress(self: object, told: Progress) -> None:
            seen.append(told.stage)
            if told.stage == stage:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(cli_text.Interruptible, "progress", progress)
        return seen

    yield at
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("stage", ["calibrating", "solving", "quantizing"])
@pytest.mark.parametrize("sequential", [True, False])
def test_quantizing_can_be_stopped(stage: str, sequential: bool, shop: Shop, stopped_at: Callable) -> None:
    data, model = shop.array("x", 16, 64), shop.network("Plain")
    seen = stopped_at(stage)
    flags = quantizing(shop, "--algorithm", "gptq", *([] if sequential else ["--no-sequential"]))
    shop.refuse("Cancelled", "quantize", *model, "--trust", "--data", data, *flags, expect=130)
    assert seen[-1] == stage
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("stage", ["measuring outputs", "evaluating"])
def test_stopping_the_measurement_keeps_the_finished_model(stage: str, shop: Shop, stopped_at: Callable) -> None:
    data, model = shop.array("x", 16, 64), shop.network("Plain")
    stopped_at(stage)
    done = shop.run("quantize", *model, "--trust", "--data", data, *quantizing(shop, "--algorithm", "gptq"))
    assert "warning: Measuring the outputs was stopped; the model is written." in done.out
    assert [path.name for path in shop.out.iterdir()] == ["q.safetensors"]
    assert load_file(shop.out / "q.safetensors")["first.weight_packed"].dtype == torch.int32


def test_calibrating_and_evaluating_can_be_stopped(shop: Shop, stopped_at: Callable) -> None:
    data, model = shop.array("x", 16, 64), shop.network("Plain")
    stopped_at("calibrating")
    shop.refuse("ancelled", "calibrate", *model, "--trust", "--data", data, "-o", shop.out / "s.safetensors", expect=130)
    stopped_at("evaluating")
    shop.refuse("ancelled", "evaluate", *model, "--trust", "--data", data, expect=130)
