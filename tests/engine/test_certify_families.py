"""Certificates of models whose names or shapes are not Llama's: transformers itself, loading the file, is the oracle."""

from pathlib import Path

import pytest
import torch
import transformers

import engine

SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 128}
WHISPER = {
    "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "max_source_positions": 20, "max_target_positions": 20, "suppress_tokens": None,
    "begin_suppress_tokens": None,
}  # fmt: skip
FAMILIES = {
    "gpt_neox": (transformers.GPTNeoXConfig(**SMALL, intermediate_size=128), transformers.AutoModelForCausalLM),
    "opt": (
        transformers.OPTConfig(**SMALL, ffn_dim=128, max_position_embeddings=64, word_embed_proj_dim=64),
        transformers.AutoModelForCausalLM,
    ),
    "convnext": (
        transformers.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, image_size=32, num_labels=4),
        transformers.AutoModelForImageClassification,
    ),
    "whisper": (transformers.WhisperConfig(**WHISPER), transformers.AutoModelForSpeechSeq2Seq),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """GPT-NeoX has its head under another name on disk, OPT and ConvNeXt have inputs of two and four axes, Whisper is short."""
    config, build = FAMILIES[request.param]
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    build.from_config(config).bfloat16().save_pretrained(path)
    return request.param, path


@pytest.mark.parametrize("preset", ["W8A8", "FP8_DYNAMIC"])
def test_transformers_computes_what_the_decoded_weights_do(preset: str, family: tuple[str, Path], tmp_path: Path) -> None:
    name, path = family
    engine.quantize_to(path, tmp_path / "out", preset, record=False)
    certificate = engine.certify(tmp_path / "out", path)
    (forward,) = [check for check in certificate.checks if check.name == "forward"]
    assert certificate.certified and forward.outcome == "passed", forward
    assert ("common scale" in forward.said) == (name in ("opt", "convnext"))
