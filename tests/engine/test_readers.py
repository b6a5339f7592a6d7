"""Inputs: what is read from headers, and one sentence for every kind of bad file."""

import builtins
import errno
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import engine
from engine.readers.kinds import kind_of


def refusal(path: Path) -> str:
    with pytest.raises(engine.InputError) as error:
        engine.open_model(path)
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_folder_is_understood_from_its_configuration(language_model: Path) -> None:
    model = engine.open_model(language_model)
    kinds = {layer.name: layer.kind for layer in model.layers}
    assert model.parameters == json.loads((language_model / "metrics.json").read_text())["parameters"]
    assert kinds["model.embed_tokens"] == "embedding" and kinds["lm_head"] == "linear" and kinds["model.norm"] == "norm"
    assert not any(layer.guessed for layer in model.layers)
    names = [layer.name for layer in model.layers]
    assert names[0] == "model.embed_tokens" and names[-1] == "lm_head"


def test_layers_stand_in_network_order(make_file: Callable[..., Path]) -> None:
    names = [f"model.layers.{n}.q.weight" for n in range(12)]
    path = make_file({name: torch.zeros(2, 2) for name in reversed(names)})
    assert [layer.tensor.name for layer in engine.open_model(path).layers] == names


def test_a_state_dict_is_read_without_its_data(digits: Path) -> None:
    model = engine.open_model(digits / "model.pt")
    same = engine.open_model(digits / "model.safetensors")
    assert {(x.name, x.kind, x.shape, x.dtype) for x in model.layers} == {(x.name, x.kind, x.shape, x.dtype) for x in same.layers}
    first, second = engine.load_tensors(model), engine.load_tensors(same)
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_nested_and_strided_state_dicts(key: str, tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    tensors = {"plain": base, "turned": base.t(), "part": base[1:3], "parameter": torch.nn.Parameter(torch.randn(3).half())}
    torch.save({key: tensors, "epoch": 3}, tmp_path / "x.pt")
    loaded = engine.load_tensors(tmp_path / "x.pt")
    assert all(torch.equal(loaded[name], tensor.detach()) for name, tensor in tensors.items())


def test_kinds_are_guessed_and_said_so(make_file: Callable[..., Path]) -> None:
    path = make_file(
        {
            "conv.weight": torch.zeros(4, 2, 3, 3), "conv.bias": torch.zeros(4), "audio.weight": torch.zeros(4, 2, 3),
            "volume.weight": torch.zeros(4, 2, 3, 3, 3), "up.weight": torch.zeros(4, 7, 3, 3), "up.bias": torch.zeros(7),
            "bn.weight": torch.ones(4), "bn.running_mean": torch.zeros(4), "fc.weight": torch.zeros(5, 4),
            "token_embedding.weight": torch.zeros(9, 4),
        }
    )  # fmt: skip
    found = {layer.name: (layer.kind, layer.guessed) for layer in engine.open_model(path).layers}
    assert found["conv"] == ("conv2d", True) and found["audio"] == ("conv1d", True) and found["volume"] == ("conv3d", True)
    assert found["up"] == ("transposed", True) and found["bn"] == ("norm", True) and found["fc"] == ("linear", True)
    assert found["token_embedding"] == ("embedding", True) and found["conv.bias"] == ("bias", False)


def test_tied_embeddings_are_seen_and_not_quantized_for_readers_that_ignore_it(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.randn(64, 32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    model = engine.open_model(tmp_path)
    assert model.layers[0].tied == ("lm_head.weight",)
    recipe = engine.recipe_from_text('builtin = false\nscheme = "int8:channel"')
    assert "tied to lm_head" in engine.plan(model, recipe).errors[0].message


def test_missing_and_empty(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing.safetensors")
    (tmp_path / "empty.safetensors").touch()
    assert "is empty" in refusal(tmp_path / "empty.safetensors")
    (tmp_path / "empty.pt").touch()
    assert "is empty" in refusal(tmp_path / "empty.pt")
    (tmp_path / "folder").mkdir()
    assert "holds no .safetensors" in refusal(tmp_path / "folder")


@pytest.mark.parametrize("keep", [4, 20, -1])
def test_truncated(keep: int, make_file: Callable[..., Path]) -> None:
    path = make_file({"a.weight": torch.zeros(64, 64)})
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    assert "cut short" in refusal(path) or "not a safetensors" in refusal(path)


def test_truncated_state_dict(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes((digits / "model.pt").read_bytes()[:5000])
    assert "cut short" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n0000000000", "PNG picture"),
        (b"GGUF\x03\x00\x00\x00aaaaaaaaaa", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04aaaaaaaaaaaaaa", "zip archive"),
        (b"<html><body>Not found</body></html>", "web page"),
        (b"hello, this is a text file\n", "text file"),
    ],
)
def test_a_wrong_type_is_told_what_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    assert words in refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": entry("F32", [2, 2], 0, 8)}, "does not fill"),
        ({"a": entry("F32", [1 << 62, 1 << 62], 0, 16)}, "does not fill"),
        ({"a": entry("F32", [-2, -2], 0, 16)}, "lies about"),
        ({"a": entry("F99", [2, 2], 0, 16)}, "unknown type"),
        ({"a": entry("F32", [2, 2], 0, 16), "b": entry("F32", [2, 2], 8, 24)}, "overlaps"),
        ({"a": entry("F32", [2, 2], 4, 20)}, "gap"),
        ({"a": entry("F32", [2], 0, 8)}, "follow the last tensor"),
        ({"a": {"dtype": "F32"}}, "malformed"),
        ({"a": [1, 2]}, "malformed"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": {}, "a": {}}', "appears twice"),
        (b'{"__metadata__": {"x": 1}}', "metadata"),
        (b"{" * 50, "not valid JSON"),
    ],
)
def test_a_header_that_lies(header: object, words: str, tmp_path: Path) -> None:
    assert words in refusal(raw_file(tmp_path / "x.safetensors", header, bytes(16)))


def test_a_huge_header_length_allocates_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}" * 20)
    assert "not a safetensors" in refusal(tmp_path / "x.safetensors")


def folder_with_index(tmp_path: Path, weight_map: dict) -> Path:
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(2, 2)}, tmp_path / "two.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def test_shards(tmp_path: Path) -> None:
    model = engine.open_model(folder_with_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))
    assert [layer.name for layer in model.layers] == ["a", "b"]
    (tmp_path / "two.safetensors").unlink()
    assert "shard two.safetensors is missing" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../one.safetensors", "/etc/passwd", "x/../../one.safetensors", "C:\\x", ""])
def test_an_index_may_not_leave_its_folder(name: str, tmp_path: Path) -> None:
    assert "outside the folder" in refusal(folder_with_index(tmp_path, {"a": name}))


def test_an_index_must_tell_the_truth(tmp_path: Path) -> None:
    assert "index says a is in two" in refusal(folder_with_index(tmp_path, {"a": "two.safetensors", "b": "two.safetensors"}))


def test_the_same_tensor_in_two_shards(tmp_path: Path) -> None:
    folder_with_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, tmp_path / "two.safetensors")
    assert "is in both" in refusal(tmp_path)


def test_a_broken_configuration(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal(tmp_path)


class Evil:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    torch.save({"a": Evil(witness)}, tmp_path / "evil.pt")
    message = refusal(tmp_path / "evil.pt")
    assert "run code" in message and "weights_only" not in message
    assert not witness.exists()


def test_programs_and_old_formats_are_named(digits: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "before 1.6" in refusal(tmp_path / "old.pt")
    (tmp_path / "program.pt").write_bytes((digits / "model.pt2").read_bytes())
    assert "exported program" in refusal(tmp_path / "program.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("x/code/__torch__.py", "")
        archive.writestr("x/data.pkl", b"")
    assert "TorchScript" in refusal(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "")
    assert "not one that torch.save wrote" in refusal(tmp_path / "other.pt")


def test_compressed_records_are_refused(digits: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(digits / "model.pt") as good, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
    assert "compressed records" in refusal(tmp_path / "bomb.pt")


def test_a_dictionary_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    assert "holds no tensors" in refusal(tmp_path / "x.pt")


def test_unreadable(make_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the system's refusal is played."""
    path = make_file({"a": torch.zeros(2, 2)})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    message = refusal(path)
    assert "Permission denied" in message and str(path) in message


def test_a_file_that_changed_since_it_was_opened(make_file: Callable[..., Path], tmp_path: Path) -> None:
    path = make_file({"a.weight": torch.zeros(64, 64)})
    model = engine.open_model(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(engine.DataError, match="changed on disk"):
        engine.quantize_to(model, tmp_path / "out.safetensors", "int8:channel")
    assert not (tmp_path / "out.safetensors").exists()


def test_ninety_thousand_tensors_open(tmp_path: Path) -> None:
    header = {
        f"model.layers.{n // 9}.mlp.experts.{n % 9}.w{n}.weight": entry("U8", [2, 2], 4 * n, 4 * n + 4) for n in range(90_000)
    }
    model = engine.open_model(raw_file(tmp_path / "many.safetensors", header, bytes(4 * 90_000)))
    assert len(model.layers) == 90_000


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("model.embed_tokens", (50, 8), "embedding"), ("bert.embeddings.word_embeddings", (50, 8), "embedding"),
        ("transformer.wte", (50, 8), "embedding"), ("encoder.block.0.relative_attention_bias", (32, 8), "embedding"),
        ("electra.embeddings_project", (8, 8), "linear"), ("encoder.embedding_hidden_mapping_in", (8, 8), "linear"),
        ("lm_head", (50, 8), "linear"), ("embed_out", (50, 8), "linear"), ("vit.patch_embed.proj", (8, 3, 4, 4), "conv2d"),
        ("features.0.0", (8, 3, 3, 3), "conv2d"), ("encoder.layer.0.output.LayerNorm", (8,), "norm"),
        ("block.experts.gate_up_proj", (4, 8, 8), "experts"), ("layers.0.mixer.conv1d", (8, 1, 4), "conv1d"),
        ("of.six.axes", (2, 2, 2, 2, 2, 2), "other"),
    ],
)  # fmt: skip
def test_kinds_of_real_architectures(name: str, shape: tuple, kind: str) -> None:
    assert kind_of(f"{name}.weight", "F32", shape, {}) == kind


def test_the_bias_tells_a_transposed_convolution_from_its_name() -> None:
    assert kind_of("upconv1.weight", "F32", (256, 64, 3, 3), {"upconv1.bias": (256,)}) == "conv2d"
    assert kind_of("block.weight", "F32", (256, 64, 3, 3), {"block.bias": (64,)}) == "transposed"
    assert kind_of("deconv.weight", "F32", (64, 64, 3, 3), {"deconv.bias": (64,)}) == "transposed"


def test_multihead_attention_is_left_alone() -> None:
    shapes = {"a.in_proj_weight": (24, 8), "a.out_proj.weight": (8, 8)}
    assert {kind_of(name, "F32", shape, shapes) for name, shape in shapes.items()} == {"other"}


@pytest.mark.parametrize("pickled", [b"\x80\x02.", b"\x80\x02}q\x00X\x05\x00", b"\x80\x02]aaa.", b"\x80\x02K\x01K\x02s."])
def test_damaged_pickles(pickled: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3")
    assert "x.pt" in refusal(tmp_path / "x.pt")


def test_an_expanded_tensor_is_not_blown_up(tmp_path: Path) -> None:
    torch.save({"w.weight": torch.zeros(1).expand(200_000, 200_000)}, tmp_path / "bomb.pt")
    assert "repeats its elements" in refusal(tmp_path / "bomb.pt")


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    assert "not a regular file" in refusal(tmp_path / "x.safetensors")


def test_of_several_sets_of_weights_the_usual_one_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    save_file({"b": torch.zeros(2, 2)}, tmp_path / "consolidated.safetensors")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "missing.bin"}}))
    assert [layer.name for layer in engine.open_model(tmp_path).layers] == ["a"]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert f"Cannot open the folder {tmp_path}: Permission denied" in refusal(tmp_path)


def test_links_into_the_store_of_a_download_are_the_models(tmp_path: Path) -> None:
    """As Hugging Face's cache has them; a link anywhere else would publish what it points to."""
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"a": torch.zeros(2, 2)}, blobs / "1")
    (blobs / "2").write_text("{}")
    (tmp_path / "secret.json").write_text("{}")
    for name, target in (
        ("model.safetensors", blobs / "1"),
        ("tokenizer.json", blobs / "2"),
        ("s.json", tmp_path / "secret.json"),
    ):
        (snapshot / name).symlink_to(target)
    model = engine.open_model(snapshot)
    assert [layer.name for layer in model.layers] == ["a"] and model.carried == ("tokenizer.json",)
    assert any("Links to files outside the folder are not carried over: s.json." in problem for problem in model.problems)


def test_numbered_shards_need_no_index(tmp_path: Path) -> None:
    for number, name in ((1, "a"), (2, "b")):
        save_file({name: torch.zeros(2, 2)}, tmp_path / f"model-{number:05d}-of-00002.safetensors")
    assert [layer.name for layer in engine.open_model(tmp_path).layers] == ["a", "b"]


def test_missing_shards_are_noticed_without_an_index(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "model-00001-of-00003.safetensors")
    assert "1 of 3 shards" in refusal(tmp_path)


def test_layers_have_names_of_their_own(make_file: Callable[..., Path]) -> None:
    model = engine.open_model(make_file({"x": torch.zeros(32, 32), "x.weight": torch.zeros(32, 32)}))
    assert sorted(layer.name for layer in model.layers) == ["x", "x.weight"]


def test_storages_are_read_from_where_they_are_and_not_from_where_torch_would_write_them(tmp_path: Path) -> None:
    """torch reckons under fake tensors that records follow each other as in its own archives; others need not."""
    tensors = {f"{n}.weight": torch.randn(3, n + 1) for n in range(5)}
    torch.save(tensors, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as good, zipfile.ZipFile(tmp_path / "y.pt", "w") as other:
        for name in reversed(good.namelist()):
            other.writestr(name, good.read(name))
    loaded = engine.load_tensors(tmp_path / "y.pt")
    expected = torch.load(tmp_path / "y.pt", weights_only=True)
    assert all(torch.equal(loaded[name], expected[name]) for name in tensors)
