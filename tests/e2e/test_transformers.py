"""What is written loads in transformers with compressed-tensors, and computes what our decoding computes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize(
    "scheme",
    ["W4A16", "W8A16", "int3:g64", "fp8:tensor", "fp8", "fp8:b128x128", "mxfp8", "mxfp6", "mxfp4", "NVFP4A16", "MIXED", "FLOATS"],
)
def test_logits_equal_the_decoded_models(scheme: str, language_model: Path, tmp_path: Path) -> None:
    what = ["--scheme", scheme]
    mixtures = {
        "MIXED": [("*.self_attn.*", "int8:channel"), ("*.0.mlp.*", "keep"), ("*.3.mlp.*", "int4:g64")],
        "FLOATS": [("*.self_attn.*", "fp8"), ("*.0.mlp.*", "mxfp4"), ("*.3.mlp.*", "nvfp4")],
    }
    if rules := mixtures.get(scheme):
        text = 'scheme = "int4:g128"\n' + "".join(f'[[rules]]\nmatch = "{m}"\nscheme = "{s}"\n' for m, s in rules)
        (tmp_path / "mixed.toml").write_text(text)
        what = ["--recipe", str(tmp_path / "mixed.toml")]
    engine = [sys.executable, "-m", "engine"]
    subprocess.run([*engine, "quantize", language_model, *what, "-o", tmp_path / "q"], check=True, capture_output=True)
    subprocess.run([*engine, "dequantize", tmp_path / "q", "-o", tmp_path / "f"], check=True, capture_output=True)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "q")("Return a list of the items.", return_tensors="pt").input_ids
    quantized, decoded = logits(tmp_path / "q", tokens), logits(tmp_path / "f", tokens)
    assert torch.equal(quantized, decoded)
    assert not torch.equal(decoded, logits(language_model, tokens))  # it really was quantized


@pytest.mark.parametrize("preset", ["W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "MXFP8", "MXFP4"])
def test_quantized_activations_load_and_stay_close(preset: str, language_model: Path, tmp_path: Path) -> None:
    import engine

    engine.quantize_to(language_model, tmp_path / "q", preset)
    ids = torch.arange(1, 33)[None]
    difference = (logits(tmp_path / "q", ids).float() - logits(language_model, ids).float()).abs().mean()
    assert 0 < difference < (1.5 if preset == "MXFP4" else 0.3)
