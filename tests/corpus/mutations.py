"""Sound files changed at random where their structure is: the same seed gives the same bytes."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.corpus import pickles, safetensors_files
from tests.corpus.case import Case, written
from tests.corpus.safetensors_files import entry, packed

ODD: tuple[Any, ...] = (
    0, 1, -1, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64, 2**64 - 8, 10**30, 0.5, 1e308, True, None, "", "4", "\x1b[31m", "\u202e",
    "../x", [], {}, [[]], [0], [2**62, 0], [-1, -1], {"a": 1},
)  # fmt: skip
"""Values that catch parsers out."""
TOML = (
    'name = "x"\nscheme = "int4:g128"\nalgorithm = "mse:norm=2.4"\nactivations = "none"\nbuiltin = true\n\n'
    '[[rules]]\nmatch = "*.down_proj"\nkind = "linear"\nmin_size = 10\nscheme = "int8:channel"\n'
)
CONFIG = {
    "model_type": "llama", "hidden_size": 4, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True,
    "quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"a": {"targets": ["Linear"], "weights": {"type": "int", "num_bits": 4, "strategy": "group",
                                                                   "group_size": 32, "symmetric": True}}},
    },
}  # fmt: skip


def _bytes(data: bytes, chance: random.Random) -> bytes:
    """Bits turned, bytes lost, doubled, swapped or overwritten."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not found:
            break
        place, size = chance.randrange(len(found)), chance.choice((1, 1, 1, 2, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                found[place] ^= 1 << chance.randrange(8)
            case 1:
                del found[place : place + size]
            case 2:
                found[place:place] = found[place : place + size]
            case 3:
                found[place : place + size] = chance.randbytes(size)
            case 4:
                found[place : place + size] = chance.choice((b"\0", b"\xff", b"\x7f", b"[", b"{", b'"', b".", b"R")) * size
            case _:
                del found[place:]
    return bytes(found)


def _value(value: Any, chance: random.Random) -> Any:
    """One value somewhere inside is replaced, lost, or said of another key."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        changed = dict(value)
        key = chance.choice(list(changed))
        match chance.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[str(chance.choice(ODD))] = changed.pop(key)
            case 2:
                changed[key + chance.choice(("", " ", "\0", ".weight"))] = changed[key]
            case _:
                changed[key] = _value(changed[key], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.7:
        changed = list(value)
        place = chance.randrange(len(changed))
        changed[place] = _value(changed[place], chance) if chance.random() < 0.8 else chance.choice(ODD)
        return changed if chance.random() < 0.9 else changed * chance.choice((2, 100))
    if type(value) is int and chance.random() < 0.4:
        return value + chance.choice((-8, -1, 1, 8, 2**32, 2**63))
    return chance.choice(ODD)


def _safetensors(chance: random.Random) -> tuple[str, bytes]:
    header = {
        "__metadata__": {"format": "pt"}, "a.weight": entry("F32", [4, 4], 0, 64), "a.bias": entry("F32", [4], 64, 80),
        "b.weight": entry("BF16", [8, 4], 80, 144), "c": entry("I64", [2], 144, 160),
    }  # fmt: skip
    data = packed(_value(header, chance), chance.randbytes(chance.choice((160, 160, 160, 159, 161, 0))))
    if chance.random() < 0.2:
        length = chance.choice((0, 1, 7, len(data), 2**31, 2**63, 2**64 - 1))
        data = struct.pack("<Q", length) + data[8:]
    return safetensors_files.NAME, _bytes(data, chance) if chance.random() < 0.3 else data


def _pickled(chance: random.Random) -> tuple[str, bytes]:
    found = pickles.records_of(pickles.SOUND)
    found["data.pkl"] = _bytes(found["data.pkl"], chance)
    return pickles.NAME, pickles.archive(found)


def _archived(chance: random.Random) -> tuple[str, bytes]:
    return pickles.NAME, _bytes(pickles.SOUND, chance)


def _recipe(chance: random.Random) -> tuple[str, bytes]:
    text = TOML
    if chance.random() < 0.7:
        words = text.split('"')
        place = chance.randrange(len(words))
        words[place] = chance.choice(("", "int0", "int4:g0", "re:(a|a)*$", "re:[", "*" * 50, "\\u0000", "keep", "true", "9" * 50))
        text = '"'.join(words)
    return "x.toml", _bytes(text.encode(), chance) if chance.random() < 0.6 else text.encode()


def _folder(chance: random.Random) -> Callable[[Path], Path]:
    config = json.dumps(_value(_value(CONFIG, chance), chance)).encode()
    data = packed({"a.weight": safetensors_files.PLAIN}, bytes(16))

    def make(folder: Path) -> Path:
        made = folder / "m"
        made.mkdir()
        (made / "model.safetensors").write_bytes(data)
        (made / "config.json").write_bytes(config)
        return made

    return make


_FILES: tuple[Callable[[random.Random], tuple[str, bytes]], ...] = (_safetensors, _pickled, _archived, _recipe)


def mutations(count: int, seed: int = 0) -> Iterator[Case]:
    """Cases of which it is not known whether they open: ``says`` is empty, and any sentence will do."""
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        kind = number % (len(_FILES) + 1)
        if kind == len(_FILES):
            yield Case(f"mutation {number} of a folder", _folder(chance), "")
            continue
        name, data = _FILES[kind](chance)
        yield Case(f"mutation {number} of {name}", written(name, data), "", "recipe" if name == "x.toml" else "model")
