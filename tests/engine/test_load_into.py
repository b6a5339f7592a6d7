"""An artifact into a module: it runs, is truly small, and computes what the decoded weights compute."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import engine


def language_module(folder: Path) -> torch.nn.Module:
    """The architecture alone, with random weights."""
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16).eval()


def network(digits: Path) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("factory", digits / "factory.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.create_model().eval()


@pytest.mark.parametrize("scheme", ["W4A16", "W8A16", "fp8", "mxfp4", "int3:g64"])
def test_a_language_model_gives_the_logits_that_transformers_gives(scheme: str, language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "q", scheme)
    running = engine.load_model(tmp_path / "q", into=language_module(language_model))
    ids = torch.arange(1, 65)[None]
    with torch.no_grad():
        ours = running(ids).logits.float()
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.bfloat16).eval()(ids).logits.float()
    # Sums of other order in bfloat16; quantization itself moves the logits by far more.
    assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max()
    with torch.no_grad():
        plain = engine.dequantize_model(running)(ids).logits.float()
    torch.testing.assert_close(plain, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))


@pytest.mark.parametrize("scheme", ["int8:channel", "int4:g9", "nf4:g64"])
def test_a_convolutional_network_too(scheme: str, digits: Path, tmp_path: Path) -> None:
    engine.quantize_to(digits / "model.safetensors", tmp_path / "q.safetensors", scheme)
    running = engine.load_model(tmp_path / "q.safetensors", into=network(digits))
    decoded = network(digits)
    decoded.load_state_dict(engine.load_tensors(tmp_path / "q.safetensors"))
    x = torch.from_numpy(np.load(digits / "evaluation.npz")["x"][:32]) if "x" in np.load(digits / "evaluation.npz") else None
    if x is None:
        x = torch.from_numpy(next(v for v in np.load(digits / "evaluation.npz").values() if v.ndim == 4)[:32])
    with torch.no_grad():
        torch.testing.assert_close(running(x.float()), decoded(x.float()), rtol=1e-4, atol=1e-4)


def test_it_is_truly_small(tmp_path: Path, make_file) -> None:
    torch.manual_seed(0)
    path = make_file({"layer.weight": torch.randn(512, 1024) * 0.02})
    module = torch.nn.Module()
    module.layer = torch.nn.Linear(1024, 512, bias=False)
    before, count = engine.calculate_model_size(module)
    assert (before, count) == (512 * 1024 * 4 / 1e6, 512 * 1024)
    for scheme, times in (("int8:channel", 3.5), ("int4:g128", 7.0)):
        out = tmp_path / f"{scheme.replace(':', '-')}.safetensors"
        report = engine.quantize_to(path, out, scheme)
        small = engine.load_model(out, into=module)
        after, stands_for = engine.calculate_model_size(small)
        stored = sum(t.nbytes for name, t in load_file(out).items())
        assert stands_for == count and after == pytest.approx(stored / 1e6)
        assert before / after >= times and report.bytes_before / report.bytes_after >= times - 0.1
    assert engine.calculate_model_size(module)[0] == before  # what was given stays as it was


def test_another_architecture_is_refused_in_a_sentence(digits: Path, language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "q", "W4A16")
    with pytest.raises(engine.InputError) as caught:
        engine.load_model(tmp_path / "q", into=network(digits))
    assert "which the module lacks" in str(caught.value) and "\n" not in str(caught.value)
