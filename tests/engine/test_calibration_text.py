"""Texts as tokens: against the tokenizer called by hand."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from engine.calibration import text as text_module
from engine.calibration.data import Data, open_data
from engine.errors import DataError, InputError
from engine.records.calibration import DataSpec, InputInfo, ModelInputs

IDS = InputInfo("input_ids", "tokens", "I64", (None,), 0, 2047)
MASK = InputInfo("attention_mask", "mask", "I64", (None,), 0, 1, required=False)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('odd role') }}"
    "{% endif %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
)


@pytest.fixture
def inputs(language_model: Path) -> ModelInputs:
    return ModelInputs((IDS, MASK), str(language_model), True, 256)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(Path(__file__).parents[2] / "assets/samples/docstring_lm", local_files_only=True)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def ids_of(data: Data) -> torch.Tensor:
    return torch.cat([batch.keywords["input_ids"] for batch in data.batches()])


def packed_by_hand(tokenizer: Any, texts: list[str], length: int) -> torch.Tensor:
    """One stream of tokens, end token after each text; cut; the start token before each piece."""
    stream: list[int] = []
    for text in texts:
        stream += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    body = length - 1
    pieces = [stream[n * body : (n + 1) * body] for n in range(len(stream) // body)]
    return torch.tensor([[tokenizer.bos_token_id, *piece] for piece in pieces])


def test_packed_samples_are_the_stream_in_pieces(language_model: Path, inputs: ModelInputs, tokenizer: Any) -> None:
    path = language_model / "calibration.txt"
    texts = path.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    texts = [text.strip("\n") for text in texts if text.strip()]
    expected = packed_by_hand(tokenizer, texts, 64)
    data = open_data(DataSpec(str(path), samples=0, length=64), inputs)
    assert torch.equal(ids_of(data), expected) and data.count == len(expected)
    assert data.title == f"all {len(expected)} samples, 64 tokens each, packed from {len(texts)} texts"
    some = open_data(DataSpec(str(path), samples=20, length=64, seed=5), inputs)
    order = np.random.RandomState(5).permutation(len(expected))[:20].tolist()
    assert list(some.indices) == order and torch.equal(ids_of(some), expected[order])
    batch = next(some.batches())
    assert set(batch.keywords) == {"input_ids"} and batch.labels is None and batch.size == 8


def test_a_tokenizer_without_a_start_token(tmp_path: Path, inputs: ModelInputs, tokenizer: Any) -> None:
    (tmp_path / "tokenizer.json").write_text((Path(inputs.folder) / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}')
    (tmp_path / "t.txt").write_text("Return the file.\n\nRaise an error. " * 9)
    texts = (tmp_path / "t.txt").read_text().split("\n\n")
    stream = [token for text in texts for token in (*tokenizer.encode(text, add_special_tokens=False), 2)]
    data = open_data(DataSpec(str(tmp_path / "t.txt"), samples=0, length=7), ModelInputs((IDS,), str(tmp_path)))
    assert ids_of(data).reshape(-1).tolist() == stream[: len(stream) // 7 * 7]


def test_the_models_own_length_is_taken(language_model: Path, inputs: ModelInputs) -> None:
    path = str(language_model / "calibration.txt")
    assert ids_of(open_data(DataSpec(path, samples=2), inputs)).shape == (2, 256)
    fixed = ModelInputs((InputInfo("ids", "tokens", "I64", (16,), 0, 2047),), inputs.folder)
    assert next(open_data(DataSpec(path, samples=2), fixed).batches()).keywords["ids"].shape == (2, 16)
    assert "at most 256" in refused(lambda: open_data(DataSpec(path, length=257), inputs))
    assert "exactly 16" in refused(lambda: open_data(DataSpec(path, length=8), fixed))
    assert "at least 2" in refused(lambda: open_data(DataSpec(path, length=1), inputs))
    free = ModelInputs((IDS,), inputs.folder)
    assert ids_of(open_data(DataSpec(path, samples=1), free)).shape == (1, 2048)


def test_single_texts_are_padded_on_the_right(tmp_path: Path, inputs: ModelInputs, tokenizer: Any) -> None:
    texts = ["Return the file.", "a " * 100, "Yes", "One\ntwo"]
    (tmp_path / "t.txt").write_text("\n\n \n".join(texts) + "\n\n\n", encoding="utf-8", newline="\r\n")
    data = open_data(DataSpec(str(tmp_path / "t.txt"), samples=0, packed=False, length=20), inputs)
    by_hand = tokenizer(texts, padding=True, truncation=True, max_length=20, padding_side="right", return_tensors="pt")
    (batch,) = data.batches()
    assert torch.equal(batch.keywords["input_ids"], by_hand["input_ids"])
    assert torch.equal(batch.keywords["attention_mask"], by_hand["attention_mask"])
    assert data.title == "all 4 texts, up to 20 tokens each"


def test_without_a_mask_nothing_is_padded(tmp_path: Path, inputs: ModelInputs, tokenizer: Any) -> None:
    texts = ["Yes", "No", "Return the file.", "Yes"]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"content": text}) for text in texts))
    bare = ModelInputs((IDS,), inputs.folder)
    batches = list(open_data(DataSpec(str(tmp_path / "t.jsonl"), samples=0, packed=False), bare).batches())
    rows = [row.tolist() for batch in batches for row in batch.keywords["input_ids"]]
    assert rows == [tokenizer(text)["input_ids"] for text in texts]
    fixed = ModelInputs((InputInfo("ids", "tokens", "I64", (16,), 0, 2047),), inputs.folder)
    assert "have them packed" in refused(lambda: open_data(DataSpec(str(tmp_path / "t.jsonl"), packed=False), fixed))


def test_a_required_mask_and_a_second_stream_of_tokens_are_given(tmp_path: Path, inputs: ModelInputs) -> None:
    (tmp_path / "t.txt").write_text("Return the file. " * 40)
    needs = (
        IDS,
        InputInfo("attention_mask", "mask", "I64", (None,), 0, 1),
        InputInfo("decoder_input_ids", "tokens", "I64", (None,)),
    )
    batch = next(open_data(DataSpec(str(tmp_path / "t.txt"), length=16), ModelInputs(needs, inputs.folder)).batches())
    assert bool((batch.keywords["attention_mask"] == 1).all())
    assert torch.equal(batch.keywords["decoder_input_ids"], batch.keywords["input_ids"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "texts.json"])
def test_records_may_be_lines_or_a_list(tmp_path: Path, inputs: ModelInputs, tokenizer: Any, name: str) -> None:
    texts = ["Return the file.", "Yes", "Ünïcode ☃"]
    records: list[Any] = texts if name == "texts.json" else [{"id": 1, "body": text} for text in texts]
    lines = name in ("a.jsonl", "lines.json")
    content = "\n\n".join(map(json.dumps, records)) + "\n" if lines else json.dumps(records, indent=1)
    (tmp_path / name).write_text(content)
    spec = DataSpec(str(tmp_path / name), samples=0, packed=False, batch=1, column="" if name == "texts.json" else "body")
    rows = [batch.keywords["input_ids"][0].tolist() for batch in open_data(spec, inputs).batches()]
    assert rows == [tokenizer(text)["input_ids"] for text in texts]


def test_labels_come_from_records(tmp_path: Path, inputs: ModelInputs) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "Yes", "label": 1}\n{"text": "No", "label": 0}\n{"text": "Perhaps", "label": "odd"}\n')
    message = refused(lambda: open_data(DataSpec(str(path), samples=0, packed=False, labels="label"), inputs))
    assert "line 3" in message and "'odd', not a number" in message
    data = open_data(DataSpec(str(path), samples=0, packed=False, labels="label", skip_bad=True), inputs)
    (batch,) = data.batches()
    assert batch.labels is not None and batch.labels.tolist() == [1, 0] and data.labelled and data.indices == (0, 1)
    assert [skipped.name for skipped in data.skipped] == ["line 3"] and data.title == "2 of 3 texts, up to 256 tokens each"
    assert "leave them out or unpack" in refused(lambda: open_data(DataSpec(str(path), labels="label"), inputs))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not valid JSON"),
        (b'{"words": "no"}', "no key 'text' or 'content' or 'messages', but 'words'"),
        (b"[1, 2]", "it is a list"),
        (b'{"text": 3}', "it is a int, not a text"),
        (b'{"text": [{"role": "user", "content": "a"}]}', "a conversation"),
        (b'"\xff"', "not UTF-8"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_bad_line_stops_or_is_left_out_by_name(
    tmp_path: Path, inputs: ModelInputs, line: bytes, reason: str, packed: bool
) -> None:
    path = tmp_path / "t.jsonl"
    good = b'{"text": "Return the file, the whole file and nothing else."}\n'
    path.write_bytes(good + b"\n" + line + b"\n" + b'{"text": ""}\n' + good)
    message = refused(lambda: open_data(DataSpec(str(path), samples=0, packed=packed, length=8), inputs))
    assert f"{path}, line 3 cannot be used" in message and reason in message
    data = open_data(DataSpec(str(path), samples=0, packed=packed, length=8, skip_bad=True), inputs)
    bad = [skipped for skipped in data.skipped if skipped.reason != "it is empty"]
    assert [skipped.name for skipped in bad] == ["line 3"] and reason in bad[0].reason and ids_of(data).shape[1] == 8


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "empty (0 bytes)"),
        ("a.txt", b"\n \n\n", "holds no text"),
        ("a.txt", b"Yes", "fewer than one sample of 256"),
        ("a.txt", b"\x89PNG\r\n\x00\x00", "line 1 cannot be used"),
        ("a.txt", b"nul \0", "NUL"),
        ("a.jsonl", b'{"text": ""}\n', "holds no samples"),
        ("a.json", b"[1, 2", "not valid JSON"),
        ("a.json", b"[]", "holds no text"),
    ],
)
def test_files_without_text(tmp_path: Path, inputs: ModelInputs, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(lambda: open_data(tmp_path / name, inputs))
    assert said in message


def test_text_needs_a_tokenizer_and_a_model_of_tokens(tmp_path: Path, language_model: Path) -> None:
    (tmp_path / "t.txt").write_text("Return the file. " * 400)
    path = tmp_path / "t.txt"
    assert "no folder with one" in refused(lambda: open_data(path, ModelInputs((IDS,))))
    (tmp_path / "m").mkdir()
    assert "holds none" in refused(lambda: open_data(path, ModelInputs((IDS,), str(tmp_path / "m"))))
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    assert "cannot be loaded" in refused(lambda: open_data(path, ModelInputs((IDS,), str(tmp_path / "m"))))
    pixels = ModelInputs((InputInfo("pixel_values", "pixels", "F32", (3, 8, 8)),), str(language_model))
    assert "takes no tokens (pixel_values)" in refused(lambda: open_data(path, pixels))


def test_without_transformers_one_sentence_says_what_to_install(
    language_model: Path, inputs: ModelInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = refused(lambda: open_data(language_model / "calibration.txt", inputs))
    assert "transformers, which is not installed; install mono-quant-gui[hf]" in message


def test_a_tokenizer_of_another_model_is_noticed(language_model: Path) -> None:
    small = ModelInputs((InputInfo("input_ids", "tokens", "I64", (None,), 0, 99),), str(language_model), True, 256)
    data = open_data(language_model / "calibration.txt", small)
    with pytest.raises(DataError, match=r"the model's vocabulary has 100 tokens"):
        list(data.batches())


# -- conversations ----------------------------------------------------------------------------------------------


@pytest.fixture
def chat(tmp_path: Path, tokenizer: Any) -> ModelInputs:
    folder = tmp_path / "chat"
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return ModelInputs((IDS, MASK), str(folder), True, 256)


def test_conversations_go_through_the_template(tmp_path: Path, chat: ModelInputs, tokenizer: Any) -> None:
    talks = [[{"role": "user", "content": f"Open file {n}."}, {"role": "assistant", "content": "It is open."}] for n in range(5)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    written = ["".join(f"[{message['role']}]{message['content']}" for message in talk) for talk in talks]
    single = DataSpec(str(tmp_path / "t.jsonl"), samples=0, packed=False, chat=True, batch=1)
    rows = [batch.keywords["input_ids"][0].tolist() for batch in open_data(single, chat).batches()]
    assert rows == [[1, *tokenizer.encode(text, add_special_tokens=False)] for text in written]
    packed = open_data(DataSpec(str(tmp_path / "t.jsonl"), samples=0, chat=True, length=16), chat)
    assert torch.equal(ids_of(packed), packed_by_hand(tokenizer, written, 16))


def test_a_plain_text_is_one_turn_of_the_user(tmp_path: Path, chat: ModelInputs, tokenizer: Any) -> None:
    (tmp_path / "t.txt").write_text("Open it.")
    data = open_data(DataSpec(str(tmp_path / "t.txt"), packed=False, chat=True), chat)
    assert ids_of(data)[0].tolist() == [1, *tokenizer.encode("[user]Open it.", add_special_tokens=False)]


def test_what_a_template_refuses_is_named(tmp_path: Path, chat: ModelInputs, inputs: ModelInputs) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"messages": [{"role": "robot", "content": "beep"}]}\n')
    message = refused(lambda: open_data(DataSpec(str(path), packed=False, chat=True), chat))
    assert "line 1" in message and "odd role" in message
    path.write_text('{"messages": [1, 2]}\n')
    assert "line 1" in refused(lambda: open_data(DataSpec(str(path), packed=False, chat=True), chat))
    assert "no chat template" in refused(lambda: open_data(DataSpec(str(path), chat=True), inputs))


# -- large files, records ---------------------------------------------------------------------------------------


def test_of_a_large_file_some_texts_are_drawn(
    tmp_path: Path, inputs: ModelInputs, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "ENOUGH", 2000)
    texts = [f"Return the file number {n}. " * 4 for n in range(400)]
    (tmp_path / "t.txt").write_text("\n\n".join(texts))
    data = open_data(DataSpec(str(tmp_path / "t.txt"), samples=4, length=32), inputs)
    # 400 texts of about 110 bytes; 4 samples of 32 tokens are given 2,048 bytes, so that 19 texts are enough.
    drawn, total = [], 0
    for n in np.random.RandomState(0).permutation(400).tolist():
        if total >= 2048:
            break
        drawn.append(n)
        total += len(texts[n]) + (1 if n < 399 else 0)
    expected = packed_by_hand(tokenizer, [texts[n] for n in sorted(drawn)], 32)
    assert f"packed from {len(drawn)} of 400 texts" in data.title and data.available == len(expected)
    assert torch.equal(ids_of(data), expected[list(data.indices)])
    everything = open_data(DataSpec(str(tmp_path / "t.txt"), samples=0, length=32), inputs)
    assert "packed from 400 texts" in everything.title


def test_of_one_long_text_as_much_is_read_as_fills_the_samples(
    tmp_path: Path, inputs: ModelInputs, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "LEAST", 300)
    text = "Return the file number 7. " * 100
    (tmp_path / "t.txt").write_text(text)
    for samples, most in ((2, 300), (5, 640)):  # 5 samples of 8 tokens are given 16 characters a token
        data = open_data(DataSpec(str(tmp_path / "t.txt"), samples=samples, length=8), inputs)
        expected = packed_by_hand(tokenizer, [text[:most]], 8)
        assert torch.equal(ids_of(data), expected[list(data.indices)]) and data.available == len(expected)
        assert data.skipped[0].reason == f"only the first {most} of its 2,600 characters are used"
    everything = open_data(DataSpec(str(tmp_path / "t.txt"), samples=0, length=8), inputs)
    assert torch.equal(ids_of(everything), packed_by_hand(tokenizer, [text], 8)) and not everything.skipped


def test_lines_longer_than_a_piece_are_one_text(tmp_path: Path, inputs: ModelInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.calibration import documents

    texts = ["word " * 50, "a\nb", "x" * 33]
    (tmp_path / "t.txt").write_text("\n\n".join(texts))
    monkeypatch.setattr(documents, "FRAGMENT", 16)
    found = documents.Documents(str(tmp_path / "t.txt"))
    assert [found.read(n)[0] for n in range(len(found))] == texts and found.name(2) == "line 6"


def test_previews_and_hash(tmp_path: Path, language_model: Path, inputs: ModelInputs, tokenizer: Any) -> None:
    path = str(language_model / "calibration.txt")
    data = open_data(DataSpec(path, samples=3, length=24), inputs)
    (preview,) = data.preview().inputs
    assert preview.shape == (3, 24) and preview.dtype == "I64" and preview.low >= 0 and preview.high < 2048
    assert preview.samples[0] == tokenizer.decode(ids_of(data)[0].tolist())[:160]
    assert open_data(DataSpec(path, samples=3, length=25), inputs).hash != data.hash
    folder = tmp_path / "other"
    tokenizer.save_pretrained(folder)
    (folder / "added_tokens.json").write_text("{}")
    other = open_data(DataSpec(path, samples=3, length=24), ModelInputs((IDS, MASK), str(folder), True, 256))
    assert other.hash != data.hash
