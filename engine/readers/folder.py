"""A folder of weights: Hugging Face's layout (config.json beside safetensors or .bin), sharded or not."""

import os
import re
from typing import Any

from engine.errors import InputError
from engine.readers import kinds, prequantized
from engine.readers.base import Reader
from engine.readers.header import inside, read_header
from engine.readers.text import MAX_INDEX, read_json
from engine.records.model import FileInfo, ModelSummary, TensorInfo

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ckpt")


def open_folder(path: str) -> ModelSummary:
    """A summary of all shards from their headers alone. Raises InputError."""
    path = path.rstrip("/") or path
    names = _listing(path)
    config = read_json(os.path.join(path, "config.json")) if "config.json" in names else None
    shards, claimed = _shards(path, names)
    files, tensors, metadata = _read(path, shards)
    _check_index(path, claimed, tensors, shards)
    quantization = prequantized.configuration(config, metadata)
    quantized = prequantized.recognize(quantization, tensors)
    layers = kinds.describe(kinds.network_order(tensors), config, _ties(config, tensors))
    if quantized and quantized.readable and quantization:
        layers = prequantized.assemble(tensors, layers, quantization, metadata)
    others = [n for n in names if not n.endswith(WEIGHT_SUFFIXES) and not n.endswith(".index.json") and n != "config.json"]
    outside = _links_outside(path, others)
    carried = tuple(n for n in others if n not in outside)
    problems = (*_problems(path, config), *_left_out(outside))
    summary = ModelSummary(path, "folder", files, layers, config, metadata, quantized, carried, problems)
    return prequantized.with_shapes(summary, quantization)


def _listing(path: str) -> list[str]:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise InputError(f"Cannot open the folder {path}: {error.strerror}.") from None
    return [n for n in names if not n.startswith(".") and os.path.isfile(os.path.join(path, n))]


def _shards(path: str, names: list[str]) -> tuple[list[str], dict[str, str] | None]:
    """Names of the weight files, and the index's claim of which holds what if there is an index.

    safetensors come before .bin, and of several sets of weights the usual name before others.
    """
    for suffix in (".safetensors", ".bin"):
        weights = [n for n in names if n.endswith(suffix) and n not in ("training_args.bin", "optimizer.bin", "scheduler.bin")]
        indexes = sorted((n for n in names if n.endswith(f"{suffix}.index.json")), key=lambda n: not n.startswith("model."))
        usual = [n for n in weights if n in ("model.safetensors", "pytorch_model.bin")]
        if usual:
            return usual, None
        if indexes:
            return _indexed(os.path.join(path, indexes[0]))
        if weights:
            _check_complete(path, weights)
            return weights, None
    raise InputError(f"{path} holds no .safetensors or .bin weights; open a model's folder or its file.")


def _indexed(index: str) -> tuple[list[str], dict[str, str]]:
    weight_map = read_json(index, MAX_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"{index} has no weight_map of tensor names to file names.")
    return sorted(set(weight_map.values())), weight_map


def _check_complete(path: str, weights: list[str]) -> None:
    """Without an index the numbered names themselves say how many shards there should be."""
    for name in weights:
        numbered = re.search(r"-(\d{5})-of-(\d{5})\.", name)
        alike = [n for n in weights if numbered and n.startswith(name[: numbered.start()])]
        if numbered and len(alike) != int(numbered[2]):
            raise InputError(f"{path}: {len(alike)} of {int(numbered[2])} shards are there ({name}, ...); download the rest.")


def _read(path: str, shards: list[str]) -> tuple[tuple[FileInfo, ...], tuple[TensorInfo, ...], dict[str, str]]:
    files: list[FileInfo] = []
    tensors: list[TensorInfo] = []
    metadata: dict[str, str] = {}
    for number, name in enumerate(shards):
        shard = inside(path, name)
        if not os.path.exists(shard):
            raise InputError(f"{path}: the shard {name} is missing ({len(shards)} are listed); download it again.")
        if name.endswith(".safetensors"):
            header = read_header(shard, number)
            file, found = header.file, header.tensors
            metadata |= header.metadata
        else:
            from engine.readers.state_dict import read_tensors

            file, found = read_tensors(shard, number)
        files.append(file)
        tensors.extend(found)
    _check_unique(path, tensors, shards)
    return tuple(files), tuple(tensors), metadata


def _check_unique(path: str, tensors: list[TensorInfo], shards: list[str]) -> None:
    seen: dict[str, int] = {}
    for tensor in tensors:
        if tensor.name in seen:
            first, second = shards[seen[tensor.name]], shards[tensor.file]
            raise InputError(f"{path}: {tensor.name} is in both {first} and {second}.")
        seen[tensor.name] = tensor.file


def _check_index(path: str, claimed: dict[str, str] | None, tensors: tuple[TensorInfo, ...], shards: list[str]) -> None:
    if claimed is None:
        return
    where = {tensor.name: shards[tensor.file] for tensor in tensors}
    for name, shard in claimed.items():
        if where.get(name) != shard:
            raise InputError(f"{path}: the index says {name} is in {shard}, but it is not there.")


def _problems(path: str, config: dict[str, Any] | None) -> tuple[str, ...]:
    found = [] if config else ["No config.json in the folder: kinds of layers are guessed from names and shapes."]
    folders = sorted(n for n in os.listdir(path) if not n.startswith(".") and os.path.isdir(os.path.join(path, n)))
    if folders:
        found.append(f"Subfolders are not carried over: {', '.join(folders)}.")
    return tuple(found)


def _links_outside(path: str, names: list[str]) -> set[str]:
    """Links to files elsewhere, whose contents a run would publish. Into a Hugging Face cache's blobs they are the model's."""
    top = os.path.realpath(path)
    inside = [top]
    if os.path.basename(os.path.dirname(top)) == "snapshots":
        inside.append(os.path.join(os.path.dirname(os.path.dirname(top)), "blobs"))
    places = {n: os.path.realpath(os.path.join(path, n)) for n in names if os.path.islink(os.path.join(path, n))}
    return {n for n, place in places.items() if os.path.dirname(place) not in inside}


def _left_out(links: set[str]) -> tuple[str, ...]:
    return (f"Links to files outside the folder are not carried over: {', '.join(sorted(links))}.",) if links else ()


def _ties(config: dict[str, Any] | None, tensors: tuple[TensorInfo, ...]) -> dict[str, tuple[str, ...]]:
    """Embeddings that serve as the output head too: on disk once, used twice.

    transformers ties unless told otherwise, and leaves the default out of config.json; so a head that is not on
    disk is tied.
    """
    if not config or any(tensor.name.endswith("lm_head.weight") for tensor in tensors):
        return {}
    text = config.get("text_config")
    said = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, dict) else None)
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    causal = any("LM" in str(name) or "Generation" in str(name) for name in named)
    if said is False or not (said or causal):
        return {}
    suffixes = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight")
    return {tensor.name: ("lm_head.weight",) for tensor in tensors if tensor.name.endswith(suffixes)}


READER = Reader("folder", "model folder", (), os.path.isdir, open_folder)
