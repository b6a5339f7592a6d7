"""Make the checkpoint the benchmark runs on: Llama-shaped, 0.77 B parameters, bfloat16, 1.54 GB, random with outliers.

    python tests/bench/make_model.py FOLDER [--layers 16]

Doubling ``--layers`` makes a model about twice as large, to show that peak memory does not follow.
"""

import argparse
import json
from pathlib import Path

import numpy as np

HIDDEN, INTERMEDIATE, VOCABULARY, KEY_VALUE = 2048, 5632, 32000, 256


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Tensors of the model in network order."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for n in range(layers):
        stem = f"model.layers.{n}"
        found |= {
            f"{stem}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{stem}.self_attn.k_proj.weight": (KEY_VALUE, HIDDEN),
            f"{stem}.self_attn.v_proj.weight": (KEY_VALUE, HIDDEN),
            f"{stem}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{stem}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{stem}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{stem}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
            f"{stem}.input_layernorm.weight": (HIDDEN,),
            f"{stem}.post_attention_layernorm.weight": (HIDDEN,),
        }
    return found | {"model.norm.weight": (HIDDEN,)}


def linear_weights(layers: int) -> int:
    """Weights of the matrices that are quantized: all but embeddings and norms."""
    return sum(shape[0] * shape[1] for name, shape in shapes(layers).items() if len(shape) > 1 and "embed" not in name)


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """bfloat16 bits: normal with sigma 0.02, one weight in 2000 eight times as large; norms are ones."""
    if len(shape) == 1:
        return np.full(shape, 0x3F80, np.uint16)
    values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
    values.reshape(-1)[rng.integers(0, values.size, values.size // 2000)] *= 8
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def make(folder: Path, layers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1234)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes(layers).items():
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes(layers).values():
            file.write(weights(rng, shape).tobytes())
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 4, "vocab_size": VOCABULARY, "tie_word_embeddings": True, "dtype": "bfloat16",
        "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    options = parser.parse_args()
    make(options.folder, options.layers)
