"""Texts, through the model's own tokenizer.

Packed (the usual way for language models): texts are joined with the end token and cut into samples of equal length, each led by
the start token where the tokenizer has one (Frantar et al. 2023 calibrate on such samples, as do most tools since). Else every
text is a sample, cut at the length and padded on the right, with an attention mask.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.calibration.documents import Documents
from engine.calibration.samples import (
    BadSample,
    NoSample,
    Raw,
    Reader,
    Samples,
    bad,
    by_shape,
    draw,
    nothing,
    order,
    text_length,
)
from engine.errors import DataError, InputError
from engine.records.calibration import DataSpec, InputInfo, ModelInputs, Skipped

if TYPE_CHECKING:
    import torch

SUFFIXES = (".txt", ".jsonl", ".json")
MASK = "attention_mask"
ENOUGH = 4 << 20
"""Bytes of text that are packed at least, if the file has them, so that samples come from many places."""
BYTES_PER_TOKEN = 16
LONGEST = 2_000_000
"""Characters of one text: a tokenizer takes a second for them, cannot be stopped, and takes more than its share for more."""
LEAST = 500_000
"""Characters of one text that are packed at least, if it has them, however few the samples are."""
_SURROGATE = re.compile("[\ud800-\udfff]")
TOGETHER = 256
SHOWN = 160
_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip


class Encoder:
    """A tokenizer and what one sample is for this model."""

    def __init__(self, spec: DataSpec, inputs: ModelInputs) -> None:
        self.spec, self.inputs = spec, inputs
        tokens = [info for info in inputs.arguments if info.role == "tokens"]
        if not tokens:
            takes = ", ".join(info.name for info in inputs.arguments) or "nothing"
            raise InputError(f"{spec.path} holds text, but the model takes no tokens ({takes}); give data of the kind it takes.")
        self.tokens: InputInfo = tokens[0]
        self.more = [info.name for info in tokens[1:] if info.required]
        self.mask = next((info for info in inputs.arguments if info.name == MASK), None)
        self.length = text_length(spec, inputs, self.tokens)
        self.fixed = bool(self.tokens.shape and self.tokens.shape[0])
        self.tokenizer = load_tokenizer(inputs.folder, spec.path)
        if spec.chat and not self.tokenizer.chat_template:
            raise InputError(f"The tokenizer in {inputs.folder} has no chat template; switch off chat.")
        ids = self.tokenizer
        self.start = ids.bos_token_id if ids.bos_token_id is not None else ids.cls_token_id
        self.end = ids.eos_token_id if ids.eos_token_id is not None else ids.sep_token_id
        self.padding = next((token for token in (ids.pad_token_id, self.end) if token is not None), 0)

    def words_of(self, text: Any) -> str:
        """The text as the tokenizer gets it: a conversation through the chat template. Raises BadSample."""
        if self.spec.chat:
            text = self._talk(text)
        if isinstance(text, list):
            raise BadSample("it is a conversation, not a text; switch on chat")
        if not isinstance(text, str):
            raise BadSample(f"it is a {type(text).__name__}, not a text")
        if not text.isascii() and _SURROGATE.search(text):
            raise BadSample("it is not valid text (half of a surrogate pair)")
        return text

    def _talk(self, text: Any) -> str:
        import jinja2

        talk = [{"role": "user", "content": text}] if isinstance(text, str) else text
        try:
            return self.tokenizer.apply_chat_template(talk, tokenize=False)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadSample(f"the chat template refuses it ({str(error) or type(error).__name__})") from None

    def sample(self, text: Any) -> list[int]:
        """Tokens of one text by itself, with the special tokens that the tokenizer adds. Raises BadSample."""
        ids = self.tokenizer(
            self.words_of(text)[:LONGEST],
            add_special_tokens=not self.spec.chat,
            truncation=True,
            max_length=self.length,
            verbose=False,
        )["input_ids"]
        if not ids:
            raise NoSample("it has no tokens")
        return ids

    def stream(self, texts: Iterable[str]) -> array[int]:
        """Tokens of all texts, each followed by the end token."""
        tokens, texts = array("q"), iter(texts)
        while some := list(islice(texts, TOGETHER)):
            for ids in self.tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
                # A chat template writes these by itself.
                tokens.extend(ids[1:] if self.spec.chat and ids[:1] == [self.start] else ids)
                if self.end is not None and ids and ids[-1] != self.end:
                    tokens.append(self.end)
        return tokens

    def raw(self, ids: torch.Tensor, mask: torch.Tensor | None, labels: torch.Tensor | None) -> Raw:
        """Tokens under the names of the model's arguments; a mask where it is needed."""
        import torch

        values = {self.tokens.name: ids} | dict.fromkeys(self.more, ids)
        if self.mask and (mask is not None or self.mask.required):
            values[MASK] = torch.ones_like(ids) if mask is None else mask
        return Raw(values, labels)


def load_tokenizer(folder: str, path: str) -> Any:
    """The model's tokenizer, from its folder alone; no code of the folder is run. Raises InputError."""
    if not folder or not any(os.path.exists(os.path.join(folder, name)) for name in _FILES):
        where = f"{folder} holds none" if folder else "the model has no folder with one"
        raise InputError(
            f"{path} is text, which needs the model's tokenizer, and {where}; save it beside the model, or give arrays."
        )
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError("Text needs the package transformers, which is not installed; install mono-quant-gui[hf].") from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged or unknown tokenizer leads to
        raise InputError(f"The tokenizer in {folder} cannot be loaded: {_first_line(error)}.", details=str(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class TextSamples(Samples):
    """Tokens by sample. Packed ones have one length, others any."""

    def __init__(
        self, encoder: Encoder, held: dict[int, list[int]], available: int, skipped: list[Skipped],
        labels: dict[int, int | float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(available, list(held), skipped, bool(labels))
        self._encoder, self._held, self._labels = encoder, held, labels
        self.files = (encoder.spec.path, *_tokenizer_files(encoder.inputs.folder))
        self.extra = f"{encoder.length} tokens"

    def groups(self, batch: int) -> Iterator[tuple[int, ...]]:
        if self._encoder.mask or self._encoder.spec.packed:
            return super().groups(batch)
        return by_shape([(index, len(self._held[index])) for index in self.chosen], batch)

    def load(self, indices: tuple[int, ...]) -> Raw:
        import torch

        rows = [self._held[index] for index in indices]
        width = self._encoder.length if self._encoder.fixed else max(map(len, rows))
        ids = torch.full((len(rows), width), self._encoder.padding, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        labels = None if self._labels is None else torch.tensor([self._labels[index] for index in indices])
        return self._encoder.raw(ids, None if self._encoder.spec.packed else mask, labels)

    def words(self, name: str, index: int, value: torch.Tensor) -> str:
        if name == MASK:
            return f"{int(value.sum())} of {value.numel()} tokens"
        text = self._encoder.tokenizer.decode(self._held[index])
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _tokenizer_files(folder: str) -> tuple[str, ...]:
    return tuple(path for path in (os.path.join(folder, name) for name in _FILES) if os.path.exists(path))


def open_text(spec: DataSpec, inputs: ModelInputs) -> Samples:
    """Texts of a file as tokens. Raises InputError, DataError."""
    encoder = Encoder(spec, inputs)
    documents = Documents(spec.path, spec.column, spec.labels)
    if not len(documents):
        raise DataError(f"{spec.path} holds no text.")
    if spec.labels and (spec.packed or documents.plain):
        why = "plain texts have none" if documents.plain else "texts that are packed into samples have none"
        raise InputError(
            f"Labels {spec.labels!r} were asked for, but {why}; leave them out{'' if documents.plain else ' or unpack'}."
        )
    return _packed(encoder, documents) if spec.packed else _single(encoder, documents)


def _single(encoder: Encoder, documents: Documents) -> Samples:
    if encoder.fixed and not encoder.mask:
        raise InputError(
            f"The model takes exactly {encoder.length} tokens and no {MASK}, so texts cannot be padded; have them packed."
        )
    special = encoder.tokenizer.num_special_tokens_to_add()
    if encoder.length <= special:
        raise InputError(f"A text gets {special} special tokens, so it needs a length of at least {special + 1}.")
    spec, labels = encoder.spec, {}

    def read(index: int) -> list[int]:
        text, label = documents.read(index)
        ids = encoder.sample(text)
        labels[index] = label
        return ids

    found, skipped = draw(len(documents), spec, read, documents.name)
    held = {index: ids for index, ids in found.items() if ids is not None}
    samples = TextSamples(encoder, held, len(documents), skipped, labels if spec.labels else None)
    samples.noun, samples.detail = "texts", f"up to {encoder.length:,} tokens each"
    return samples


def _packed(encoder: Encoder, documents: Documents) -> Samples:
    spec, skipped = encoder.spec, []
    body = encoder.length - (encoder.start is not None)
    if body < 1:
        raise InputError("A packed sample starts with the start token, so it needs a length of at least 2.")
    numbers, most = _enough(documents, spec, encoder.length), _most(spec, encoder.length)
    stream = encoder.stream(_texts(encoder, documents, numbers, most, skipped))
    if not stream:
        raise nothing(spec.path, skipped)
    if len(stream) < body:
        raise DataError(
            f"{spec.path} has {len(stream):,} tokens, fewer than one sample of {encoder.length:,}; choose a smaller length."
        )
    lead = [] if encoder.start is None else [encoder.start]
    found, _ = draw(len(stream) // body, spec)
    held = {index: [*lead, *stream[index * body : (index + 1) * body]] for index in found}
    samples = TextSamples(encoder, held, len(stream) // body, skipped)
    texts = f"{len(numbers):,} texts" if len(numbers) == len(documents) else f"{len(numbers):,} of {len(documents):,} texts"
    samples.detail = f"{encoder.length:,} tokens each, packed from {texts}"
    if most < min(LONGEST, max(documents.sizes[number] for number in numbers)):
        samples.extra += f", {most} characters of a text"
    return samples


def _most(spec: DataSpec, length: int) -> int:
    """Characters of one text that are packed: what fills the samples several times over, as ``_enough`` has of many texts."""
    return min(LONGEST, max(LEAST, spec.samples * length * BYTES_PER_TOKEN)) if spec.samples else LONGEST


def _texts(encoder: Encoder, documents: Documents, numbers: Iterable[int], most: int, skipped: list[Skipped]) -> Iterator[str]:
    for index in numbers:
        try:
            text = encoder.words_of(documents.read(index)[0])
            if len(text) > most:
                used = f"only the first {most:,} of its {len(text):,} characters are used"
                skipped.append(Skipped(documents.name(index), used))
            yield text[:most]
        except NoSample:
            continue  # it adds nothing to the others
        except BadSample as error:
            skipped.append(bad(encoder.spec, documents.name(index), str(error)))


def _enough(documents: Documents, spec: DataSpec, length: int) -> list[int]:
    """All texts, or of a large file as many as fill the samples several times over, drawn by the seed; in the file's order."""
    limit = max(ENOUGH, spec.samples * length * BYTES_PER_TOKEN)
    if not spec.samples or sum(documents.sizes) <= limit:
        return list(range(len(documents)))
    numbers, total = [], 0
    for index in order(len(documents), spec):
        if total >= limit:
            break
        numbers.append(index)
        total += documents.sizes[index]
    return sorted(numbers)


READER = Reader("text", "Text", SUFFIXES, lambda path: path.lower().endswith(SUFFIXES), open_text)
