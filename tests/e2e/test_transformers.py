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


@pytest.mark.parametrize("scheme", ["W4A16", "W8A16", "int3:g64", "MIXED"])
def test_logits_equal_the_decoded_models(scheme: str, language_model: Path, tmp_path: Path) -> None:
    what = ["--scheme", scheme]
    if scheme == "MIXED":
        rules = [("*.self_attn.*", "int8:channel"), ("*.0.mlp.*", "keep"), ("*.3.mlp.*", "int4:g64")]
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


def test_w8a8_loads_and_stays_close(language_model: Path, tmp_path: Path) -> None:
    import engine

    engine.quantize(language_model, tmp_path / "q", "W8A8")
    ids = torch.arange(1, 33)[None]
    difference = (logits(tmp_path / "q", ids).float() - logits(language_model, ids).float()).abs().mean()
    assert 0 < difference < 0.2
