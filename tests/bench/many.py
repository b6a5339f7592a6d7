"""A checkpoint of very many tiny tensors, as mixtures of experts have them."""

import json
from pathlib import Path


def many_tensors(path: Path, count: int = 90_000) -> None:
    """Write ``count`` tensors of four bytes."""
    names = [f"model.layers.{n // 768}.mlp.experts.{n % 256}.w{n % 3 + 1}.{n}.weight" for n in range(count)]
    header = {name: {"dtype": "U8", "shape": [2, 2], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate(names)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * count))
