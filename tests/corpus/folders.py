"""Hostile model folders: index files that point elsewhere, configurations of impossible sizes, files that are none."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.corpus.case import MARKER, Case
from tests.corpus.safetensors_files import PLAIN, packed
from tests.corpus.special_files import SPECIAL

INDEX = "model.safetensors.index.json"
WEIGHTS = packed({"a.weight": PLAIN}, bytes(16))


def model_folder(
    folder: Path, config: bytes | None = b"{}", index: bytes | None = None, weights: str = "model.safetensors"
) -> Path:
    """``folder/m`` with one tensor and whatever else is given."""
    made = folder / "m"
    made.mkdir()
    (made / weights).write_bytes(WEIGHTS)
    if config is not None:
        (made / "config.json").write_bytes(config)
    if index is not None:
        (made / INDEX).write_bytes(index)
    return made


def _with_index(weight_map: Any) -> Callable[[Path], Path]:
    text = weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map}).encode()
    return lambda folder: model_folder(folder, index=text, weights="one.safetensors")


def _indexes() -> Iterator[tuple[str, Any, str]]:
    """(name, weight map or the whole file, words of the refusal)"""
    outside = "outside the folder"
    for what, name in {
        "above": "../one.safetensors", "far above": "../" * 50 + "etc/passwd", "absolute": "/etc/passwd",
        "on a server": "\\\\host\\x", "on a drive": "C:\\x.safetensors", "as an address": "file:///etc/passwd",
        "above in the middle": "x/../../one.safetensors",
        "with turned strokes": "..\\one.safetensors", "nowhere": "",
    }.items():  # fmt: skip
        yield f"a shard {what}", {"a.weight": name}, outside
    yield "a shard with NUL", {"a.weight": "a\0.safetensors"}, "missing"
    yield "a shard with a surrogate", b'{"weight_map": {"a.weight": "\\ud800.safetensors"}}', "missing"
    yield "a shard of 100,000 letters", {"a.weight": "x" * 100_000}, "missing"
    yield "a shard with colours", {"a.weight": "\x1b[31m.safetensors"}, "missing"
    yield "a shard that is the folder", {"a.weight": "."}, "not a regular file"
    yield "a shard that is the configuration", {"a.weight": "config.json"}, "not a PyTorch file"
    yield "100,000 shards", {f"n{n}": f"s{n}.safetensors" for n in range(100_000)}, "missing"
    yield "a shard twice", {"a.weight": "one.safetensors", "b": "./one.safetensors"}, "is in both"
    yield "a tensor that is elsewhere", {"a.weight": "one.safetensors", "b": "one.safetensors"}, "not there"
    yield "a shard that is a number", {"a.weight": 1}, "no weight_map"
    yield "a map that is a list", ["one.safetensors"], "no weight_map"
    yield "no map", b"{}", "no weight_map"
    yield "an empty map", {}, "no weight_map"
    yield "an index that is a list", b"[]", "not a JSON object"
    yield "an index nested 100,000 deep", b'{"weight_map":' + b"[" * 100_000, "nested too deeply"
    yield "an index in UTF-16", '{"weight_map": {}}'.encode("utf-16"), "not UTF-8"


def _configs() -> Iterator[tuple[str, bytes, str | None]]:
    yield "nothing", b"", "not valid JSON"
    yield "a list", b"[]", "not a JSON object"
    yield "null", b"null", "not a JSON object"
    yield "nested 100,000 deep", b"[" * 100_000, "nested too deeply"
    yield "a number of 6,000 digits", b'{"hidden_size": ' + b"9" * 6000 + b"}", "thousands of digits"
    yield "NaN and infinities", b'{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999}', None
    yield "sizes of 2^40", b'{"hidden_size": 1099511627776, "num_hidden_layers": 1099511627776}', None
    yield "code of its own", b'{"auto_map": {"AutoModel": "evil.Evil"}, "architectures": ["Evil"]}', None
    yield "code from elsewhere", b'{"auto_map": {"AutoModel": "someone/repo--evil.Evil"}}', None
    yield "types that are lists", b'{"model_type": [], "architectures": {}, "tie_word_embeddings": "x", "text_config": 5}', None
    yield "a model type with colours", b'{"model_type": "\\u001b[31mred"}', None
    yield "17 MB", b'{"a": "' + b"x" * 17_000_000 + b'"}', "at most"
    yield "the same key twice", b'{"model_type": "llama", "model_type": "gpt2"}', None
    for what, value in {
        "a list": [], "a number": 5, "an unknown method": {"quant_method": "\x1b[31mx"},
        "a text of groups": {"config_groups": "x"},
        "bits of NaN": _group(num_bits=float("nan")), "bits of 4.5": _group(num_bits=4.5), "bits of true": _group(num_bits=True),
        "bits of 2^60": _group(num_bits=1 << 60), "groups of -1": _group(strategy="group", group_size=-1),
        "groups of 0": _group(strategy="group", group_size=0), "no targets": _group(targets=[]),
    }.items():  # fmt: skip
        config = json.dumps({"quantization_config": value}).encode()
        yield f"quantized as {what}", config, "quantization_config" if what == "a number" else None
    for what, target, says in (
        ("a pattern that never ends", "re:(a|a)*$", None),
        ("a wrong pattern", "re:(", "wrong target"),
        ("a long pattern", "re:" + "a" * 2000, "wrong target"),
    ):
        yield f"targets of {what}", json.dumps({"quantization_config": _group(targets=[target])}).encode(), says
    targets = [f"re:{n}" for n in range(2000)]
    many = json.dumps({"quantization_config": _group(targets=targets)}).encode()
    yield "2,000 patterns", many, "patterns"


def _group(**args: Any) -> dict[str, Any]:
    targets = args.pop("targets", ["Linear"])
    weights = {"type": "int", "num_bits": 4, "strategy": "channel", "symmetric": True} | args
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    return config | {"config_groups": {"a": {"targets": targets, "weights": weights}}}


def _many_files(folder: Path) -> Path:
    made = model_folder(folder)
    for n in range(5000):
        (made / f"{n}.txt").touch()
    return made


def _subfolders(folder: Path) -> Path:
    made = model_folder(folder)
    for n in range(2000):
        (made / f"{n:04}\x1b[31m").mkdir()
    return made


def _circle(folder: Path) -> Path:
    made = model_folder(folder)
    (made / "again").symlink_to(made)
    return made


def _python_beside(folder: Path) -> Path:
    """Python files that would run if they were imported."""
    made = model_folder(folder, b'{"auto_map": {"AutoModel": "evil.Evil"}, "architectures": ["Evil"], "model_type": "evil"}')
    for name in ("evil.py", "__init__.py", "sitecustomize.py", "conftest.py", "torch.py"):
        (made / name).write_text(f"import os; os.mkdir({str(made / MARKER)!r})")
    return made


def _special_in(name: str, make: Callable[[Path, str], Path]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        there = model_folder(folder, config=None)
        if (there / name).exists():
            os.unlink(there / name)
        make(there, name)
        return there

    return made


def cases() -> Iterator[Case]:
    for name, weight_map, says in _indexes():
        yield Case(f"index: {name}", _with_index(weight_map), says)
    for name, config, says in _configs():
        yield Case(f"configuration: {name}", lambda folder, config=config: model_folder(folder, config), says)
    for name, make in {
        "5,000 other files": _many_files, "2,000 subfolders with colours": _subfolders, "itself in itself": _circle,
        "Python files": _python_beside,
    }.items():  # fmt: skip
        yield Case(f"folder: {name}", make, None)
    for what, make in SPECIAL.items():
        endless = "/proc/self/mem" in what  # a regular file, by its own words
        says = "is empty" if endless else "holds no .safetensors"
        yield Case(f"folder: weights are {what}", _special_in("model.safetensors", make), says)
        says = "Input/output error" if endless else None
        yield Case(f"folder: the configuration is {what}", _special_in("config.json", make), says)
        yield Case(f"folder: a tokenizer is {what}", _special_in("tokenizer.json", make), None)
