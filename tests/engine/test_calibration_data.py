"""Calibration data: arrays, tables, iterables and made-up samples against numpy and torch; one sentence for every bad input."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, TensorDataset

from engine.calibration.data import Data, open_data
from engine.errors import DataError, InputError
from engine.records.calibration import DataSpec, InputInfo, ModelInputs

PIXELS = ModelInputs((InputInfo("x", "pixels", "F32", (1, 8, 8)),))
ANY = ModelInputs((InputInfo("x", "tensor"),), known=False)
FOUR = ModelInputs((InputInfo("x", "tensor", "F32", (4,)),))
TOKENS = ModelInputs((InputInfo("input_ids", "tokens", "I64", (None,), 0, 99),))


def refused(call: Callable[[], Any], kind: type[InputError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and type(caught.value) is kind
    return message


def drain(data: Data) -> list[torch.Tensor]:
    return [value for batch in data.batches() for value in (*batch.arguments, *batch.keywords.values())]


def rows(count: int = 10, columns: int = 4) -> np.ndarray:
    return np.arange(count * columns, dtype=np.float32).reshape(count, columns)


# -- the same samples, whatever file they are in ----------------------------------------------------------------


def test_samples_of_digits_are_the_rows_of_the_archive(digits: Path) -> None:
    archive = np.load(digits / "evaluation.npz")
    data = open_data(DataSpec(str(digits / "evaluation.npz"), samples=50, seed=3, batch=16), PIXELS)
    assert data.title == "50 of 360 samples, 1×8×8" and data.labelled and not data.synthetic and data.kind == "arrays"
    assert data.indices == tuple(np.random.RandomState(3).permutation(360)[:50])
    seen = 0
    for batch in data.batches():
        chosen = list(batch.indices)
        assert torch.equal(batch.arguments[0], torch.from_numpy(archive["images"][chosen])) and batch.keywords == {}
        assert batch.labels is not None and batch.labels.tolist() == archive["labels"][chosen].tolist()
        seen += batch.size
    assert seen == data.count == 50 and [batch.size for batch in data.batches()] == [16, 16, 16, 2]


def test_all_samples_stand_in_their_own_order_and_can_be_iterated_again(digits: Path) -> None:
    data = open_data(DataSpec(str(digits / "calibration.npz"), samples=0, batch=64), PIXELS)
    expected = torch.from_numpy(np.load(digits / "calibration.npz")["images"])
    assert data.indices == tuple(range(200)) and data.title == "all 200 samples, 1×8×8" and not data.labelled
    for _ in range(2):
        assert torch.equal(torch.cat(drain(data)), expected)


def test_more_than_there_are(digits: Path) -> None:
    data = open_data(DataSpec(str(digits / "calibration.npz"), samples=500), PIXELS)
    assert data.count == 200 and data.title == "all 200 samples (500 were asked for), 1×8×8"
    assert sorted(data.indices) == list(range(200))


def npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez_compressed(path, **arrays)


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.npy": lambda path, array: np.save(path, array),
    "columns.npy": lambda path, array: np.save(path, np.asfortranarray(array)),
    "big_endian.npy": lambda path, array: np.save(path, array.astype(">f4")),
    "a.npz": lambda path, array: npz(path, x=array),
    "stored.npz": lambda path, array: np.savez(path, x=array),
    "columns.npz": lambda path, array: np.savez(path, x=np.asfortranarray(array)),
    "a.safetensors": lambda path, array: save_file({"x": torch.from_numpy(array)}, path),
    "a.pt": lambda path, array: torch.save(torch.from_numpy(array), path),
    "view.pth": lambda path, array: torch.save({"x": torch.from_numpy(array.T.copy()).T}, path),
    "list.pt": lambda path, array: torch.save([torch.from_numpy(array)], path),
    "a.csv": lambda path, array: path.write_text("\n".join(",".join(map(repr, row)) for row in array.tolist())),
    "a.tsv": lambda path, array: path.write_text("a\tb\tc\td\n" + "\n".join("\t".join(map(str, row)) for row in array.tolist())),
    "a.CSV": lambda path, array: path.write_text("a;b;c;d\n" + "\n".join(";".join(map(str, row)) for row in array.tolist())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    array = np.random.RandomState(1).randn(30, 4).astype(np.float32)
    WRITERS[name](tmp_path / name, array)
    for samples in (0, 7):
        data = open_data(DataSpec(str(tmp_path / name), samples=samples, batch=4), FOUR)
        assert data.available == 30 and data.count == (samples or 30)
        assert torch.equal(torch.cat(drain(data)), torch.from_numpy(array)[list(data.indices)])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_several_inputs_go_to_arguments_by_name_and_labels_apart(tmp_path: Path, suffix: str) -> None:
    arrays = {"y": rows(6, 1)[:, 0], "attention_mask": np.ones((6, 3), np.int64), "input_ids": rows(6, 3).astype(np.int64)}
    path = tmp_path / f"several{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    elif suffix == ".pt":
        torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, path)
    else:
        save_file({name: torch.from_numpy(value) for name, value in arrays.items()}, path)
    inputs = ModelInputs((TOKENS.arguments[0], InputInfo("attention_mask", "mask", "I64", (None,), 0, 1, required=False)))
    batch = next(open_data(DataSpec(str(path), samples=0), inputs).batches())
    assert batch.arguments == () and set(batch.keywords) == {"input_ids", "attention_mask"}
    assert batch.keywords["input_ids"].tolist() == arrays["input_ids"].tolist()
    assert batch.labels is not None and batch.labels.tolist() == arrays["y"].tolist()

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return input_ids * attention_mask

    assert batch(Model()).tolist() == arrays["input_ids"].tolist()


def test_names_that_do_not_agree_go_by_position(tmp_path: Path) -> None:
    two = ModelInputs((InputInfo("left", "tensor", "F32", (4,)), InputInfo("right", "tensor", "F32", (2,))))
    np.savez(tmp_path / "two.npz", p=rows(5, 4), q=rows(5, 2))
    batch = next(open_data(DataSpec(str(tmp_path / "two.npz"), samples=0), two).batches())
    assert [value.shape for value in batch.arguments] == [(5, 4), (5, 2)] and not batch.keywords
    np.savez(tmp_path / "one.npz", p=rows(5, 4))
    message = refused(lambda: drain(open_data(tmp_path / "one.npz", two)), DataError)
    assert "1 input (p)" in message and "2 inputs (left, right)" in message
    np.savez(tmp_path / "part.npz", left=rows(5, 4))
    assert "also needs right" in refused(lambda: drain(open_data(tmp_path / "part.npz", two)), DataError)


# -- types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), [("F32", torch.float32), ("BF16", torch.bfloat16), ("F16", torch.float16)])
@pytest.mark.parametrize("stored", [np.uint8, np.int64, np.float64, np.uint16])
def test_numbers_become_the_models_type(tmp_path: Path, name: str, dtype: torch.dtype, stored: type) -> None:
    array = np.random.RandomState(0).randint(0, 256, (3, 4)).astype(stored)
    np.save(tmp_path / "x.npy", array)
    inputs = ModelInputs((InputInfo("x", "tensor", name, (4,)),))
    value = drain(open_data(DataSpec(str(tmp_path / "x.npy"), samples=0), inputs))[0]
    assert value.dtype == dtype and np.array_equal(value.double().numpy(), array.astype(np.float64))


def test_bfloat16_in_safetensors(tmp_path: Path) -> None:
    tensor = torch.randn(3, 4).bfloat16()
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    inputs = ModelInputs((InputInfo("x", "tensor", "BF16", (4,)),))
    assert torch.equal(drain(open_data(DataSpec(str(tmp_path / "x.safetensors"), samples=0), inputs))[0], tensor)


def test_integers_stay_where_nothing_is_known_of_the_argument(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rows().astype(np.int32))
    assert drain(open_data(tmp_path / "x.npy", ANY))[0].dtype == torch.int32


def saved(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "x.npy", array)
    return tmp_path / "x.npy"


@pytest.mark.parametrize(
    ("value", "index", "inputs", "said"),
    [
        (np.nan, 4, FOUR, ("Sample 4", "x", "NaN or Inf")),
        (-np.inf, 9, FOUR, ("Sample 9", "NaN or Inf")),
        (1e300, 2, FOUR, ("Sample 2", "too large", "F32")),
        (1e30, 2, ModelInputs((InputInfo("x", "tensor", "F16", (4,)),)), ("Sample 2", "too large", "F16")),
        (7.0, 5, ModelInputs((InputInfo("x", "tensor", "F32", (4,), 0, 5),)), ("Sample 5", "7", "0 to 5")),
    ],
)
def test_a_bad_value_is_named_with_its_sample(
    tmp_path: Path, value: float, index: int, inputs: ModelInputs, said: tuple[str, ...]
) -> None:
    array = np.zeros((10, 4))
    array[index, 1] = value
    message = refused(lambda: drain(open_data(DataSpec(str(saved(tmp_path, array)), batch=3), inputs)), DataError)
    assert all(part in message for part in said)


@pytest.mark.parametrize(("token", "index"), [(100, 3), (-1, 8)])
def test_a_token_outside_the_vocabulary(tmp_path: Path, token: int, index: int) -> None:
    array = np.full((10, 6), 99)
    array[index, 2] = token
    message = refused(lambda: drain(open_data(DataSpec(str(saved(tmp_path, array)), samples=0, batch=2), TOKENS)), DataError)
    assert f"Sample {index}" in message and f"id {token}," in message and "100 tokens" in message


@pytest.mark.parametrize(
    ("array", "inputs", "said"),
    [
        (np.zeros((10, 6)), TOKENS, "F64 numbers, but the model takes integers (token ids)"),
        (np.full((2, 4), 2**24 + 1), FOUR, "F32 cannot hold"),
        (np.full((2, 4), 2**40), ModelInputs((InputInfo("x", "tensor", "I32", (4,)),)), "I32 cannot hold"),
        (np.zeros((10, 8, 8)), PIXELS, "8×8, but the model takes 1×8×8; give every sample a first axis of 1"),
        (np.zeros((1, 8, 8)), PIXELS, "8×8, but the model takes 1×8×8"),
        (np.zeros(4), FOUR, "a single number, but the model takes 4; the data's first axis must count samples"),
        (np.zeros((2, 2, 4)), FOUR, "one axis too many"),
        (np.zeros((10, 3, 8, 8)), PIXELS, "3×8×8, but the model takes 1×8×8"),
    ],
)
def test_what_does_not_fit_is_explained(tmp_path: Path, array: np.ndarray, inputs: ModelInputs, said: str) -> None:
    assert said in refused(lambda: drain(open_data(saved(tmp_path, array), inputs)), DataError)


def test_labels_are_checked_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "nan.npz", x=rows(3), labels=np.array([0, np.nan, 1]))
    message = refused(lambda: drain(open_data(DataSpec(str(tmp_path / "nan.npz"), samples=0), FOUR)), DataError)
    assert "Sample 1: the labels" in message
    np.savez(tmp_path / "few.npz", x=rows(3), labels=np.arange(2))
    assert "x has 3 samples and labels has 2" in refused(lambda: open_data(tmp_path / "few.npz", FOUR), DataError)
    np.savez(tmp_path / "named.npz", x=rows(3), kind=np.arange(3))
    batch = next(open_data(DataSpec(str(tmp_path / "named.npz"), samples=0, labels="kind"), FOUR).batches())
    assert batch.labels is not None and batch.labels.tolist() == [0, 1, 2]
    assert "no array 'nope'" in refused(lambda: open_data(DataSpec(str(tmp_path / "named.npz"), labels="nope"), FOUR))


# -- bad files --------------------------------------------------------------------------------------------------


def claims(*shape: int) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def damaged_zip(path: Path) -> None:
    np.savez(path, x=rows(50_000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def zipped(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.npy": (lambda path: path.write_bytes(b""), "empty"),
    "text.npy": (lambda path: path.write_text("hello"), "not a NumPy array"),
    "cut.npy": (lambda path: path.write_bytes(claims(10, 4) + b"\0" * 100), "cut short"),
    "huge.npy": (lambda path: path.write_bytes(claims(10**12, 10**9) + b"\0" * 100), "cut short"),
    "negative.npy": (lambda path: path.write_bytes(claims(-3, 4)), "cut short"),
    "scalar.npy": (lambda path: np.save(path, np.float32(1)), "single number"),
    "none.npy": (lambda path: np.save(path, np.zeros((0, 4), np.float32)), "holds no samples"),
    "objects.npy": (lambda path: np.save(path, np.array([{}, []], object), allow_pickle=True), "plain numbers"),
    "complex.npy": (lambda path: np.save(path, np.zeros((2, 4), complex)), "plain numbers"),
    "text.npz": (lambda path: path.write_text("hello"), "not an .npz"),
    "nothing.npz": (lambda path: zipfile.ZipFile(path, "w").close(), "no arrays"),
    "flipped.npz": (damaged_zip, "damaged"),
    "lies.npz": (lambda path: zipped(path, claims(10**6, 4)), "cut short"),
    "differ.npz": (lambda path: np.savez(path, x=rows(3), z=rows(4)), "x has 3 samples and z has 4"),
    "labels.npz": (lambda path: np.savez(path, a=rows(3), labels=np.zeros(2)), "a has 3 samples"),
    "text.pt": (lambda path: path.write_text("hello"), "damaged or not torch's"),
    "code.pt": (lambda path: torch.save({"x": Path("a")}, path), "would run code"),
    "words.pt": (lambda path: torch.save({"x": "a"}, path), "a str that no model takes"),
    "text.safetensors": (lambda path: path.write_text("hello, hello"), "not a safetensors file"),
    "empty.csv": (lambda path: path.write_text(""), "empty"),
    "blank.csv": (lambda path: path.write_text("\n\n \n"), "holds no rows"),
    "header.csv": (lambda path: path.write_text("a,b,c,d\n"), "holds no samples"),
    "ragged.csv": (lambda path: path.write_text("a,b,c,d\n1,2,3,4\n1,2,3\n"), "line 3 cannot be used: it has 3 fields"),
    "word.csv": (lambda path: path.write_text("a,b,c,d\n1,2,x,4\n"), "line 2 cannot be used: its 'c' is 'x'"),
    "gap.csv": (lambda path: path.write_text("a,b,c,d\n1,,3,4\n"), "its 'b' is empty"),
    "nan.csv": (lambda path: path.write_text("a,b,c,d\n1,2,nan,4\n"), "its 'c' is 'nan'"),
    "classes.csv": (lambda path: path.write_text("a,b,c,label\n1,2,3,cat\n"), "number the classes"),
    "binary.csv": (lambda path: path.write_bytes(b"\x89PNG\xff\xfe"), "not a table of text"),
    "late.csv": (lambda path: path.write_bytes(b"a,b\n" + b"1,2\n" * 50000 + b"\xff,1\n"), "not a table of text"),
    "model.gguf": (lambda path: path.write_text("hello"), "no data that can be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    BAD[name][0](path)
    with pytest.raises(InputError) as caught:
        open_data(path, FOUR)
    message = str(caught.value)
    assert BAD[name][1] in message and str(path) in message and "\n" not in message and message.endswith(".")


def test_what_was_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(1000))
    data = open_data(DataSpec(str(path), samples=0, batch=500), FOUR)
    path.write_bytes(path.read_bytes()[:-4])
    assert "sample 999" in refused(lambda: drain(data), DataError)


def test_what_is_asked_for_is_checked(tmp_path: Path) -> None:
    path = str(saved(tmp_path, rows()))
    for spec, said in (
        (DataSpec(path, samples=-1), "samples is -1"), (DataSpec(path, batch=0), "batch is 0"),
        (DataSpec(path, seed=-1), "seed is -1"),
        (DataSpec(path, seed=1 << 32), "less than 2^32"), (DataSpec(path, length=0), "length is 0"),
        (DataSpec(str(tmp_path / "no.npy")), "does not exist"), (DataSpec(path, kind="video"), "'video' is no kind"),
        (DataSpec(kind="arrays"), "none was given"), (DataSpec(path, kind="iterable"), "come from Python"),
    ):  # fmt: skip
        assert said in refused(lambda spec=spec: open_data(spec, FOUR))
    assert "is no data" in refused(lambda: open_data(3, FOUR))  # pyright: ignore[reportArgumentType]


# -- tables -----------------------------------------------------------------------------------------------------


def test_columns_labels_and_bad_rows_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('﻿id,"a b",c,label\r\n1,0.5,2,0\r\n2,x,3,1\r\n\r\n3,1e-1,4,1\r\n', encoding="utf-8")
    two = ModelInputs((InputInfo("x", "tensor", "F32", (2,)),))
    spec = DataSpec(str(path), samples=0, column="c, a b", skip_bad=True)
    data = open_data(spec, two)
    batch = next(data.batches())
    assert torch.equal(batch.arguments[0], torch.tensor([[2, 0.5], [4, 0.1]])) and data.indices == (0, 2)
    assert batch.labels is not None and batch.labels.tolist() == [0, 1] and batch.labels.dtype == torch.int64
    assert [skipped.name for skipped in data.skipped] == ["line 3"] and "'x'" in data.skipped[0].reason
    assert data.title == "2 of 3 rows, 2 columns"
    assert "no column 'z'" in refused(lambda: open_data(DataSpec(str(path), column="z"), two))


def test_whole_numbers_of_a_table_can_be_tokens(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("3,1,4\n1,5,9\n")
    value = drain(open_data(DataSpec(str(tmp_path / "t.csv"), samples=0), TOKENS))[0]
    assert value.tolist() == [[3, 1, 4], [1, 5, 9]] and value.dtype == torch.int64
    (tmp_path / "f.csv").write_text("3,1,4.5\n")
    assert "integers (token ids)" in refused(lambda: drain(open_data(tmp_path / "f.csv", TOKENS)), DataError)


def test_when_every_row_is_bad(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\nx,y\nz,w\n")
    message = refused(lambda: open_data(DataSpec(str(tmp_path / "t.csv"), skip_bad=True), FOUR), DataError)
    assert "all 2 were skipped" in message and "line 2" in message


# -- iterables --------------------------------------------------------------------------------------------------


class Squares(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((4,), float(index)), index * index


def test_a_dataset_is_drawn_from_by_index() -> None:
    data = open_data(Squares(), FOUR, DataSpec(samples=6, seed=2, labels="last", batch=4))
    expected = np.random.RandomState(2).permutation(20)[:6].tolist()
    assert list(data.indices) == expected and data.title == "6 of 20 samples, 4"
    assert [value for batch in data.batches() for value in batch.arguments[0][:, 0].tolist()] == expected
    assert [n for b in data.batches() if b.labels is not None for n in b.labels.tolist()] == [n * n for n in expected]


def loader(shuffle: bool = False) -> DataLoader:
    return DataLoader(TensorDataset(torch.from_numpy(rows(10))), batch_size=3, shuffle=shuffle)


def endless() -> Iterator[torch.Tensor]:
    while True:
        yield torch.ones(3, 4)


@pytest.mark.parametrize(
    "source",
    [
        lambda: torch.from_numpy(rows(10)), lambda: rows(10), lambda: {"x": rows(10)}, loader,
        lambda: list(torch.from_numpy(rows(10))),
        lambda: (row for row in rows(10)), lambda: [torch.from_numpy(rows(10)[:7]), torch.from_numpy(rows(10)[7:])],
        lambda: [{"x": row} for row in rows(10).tolist()], lambda: TensorDataset(torch.from_numpy(rows(10))),
        lambda: DataLoader(TensorDataset(torch.from_numpy(rows(10))), batch_size=None),
    ],
)  # fmt: skip
def test_every_iterable_gives_the_same_samples(source: Callable[[], Any]) -> None:
    data = open_data(source(), FOUR, DataSpec(samples=0, batch=4))
    assert torch.equal(torch.cat(drain(data)), torch.from_numpy(rows(10))) and data.count == 10 and data.kind == "iterable"
    assert torch.equal(torch.cat(drain(data)), torch.from_numpy(rows(10)))


def test_a_shuffling_loader_gives_the_same_batches_again_and_an_endless_one_stops() -> None:
    data = open_data(loader(shuffle=True), FOUR)
    assert all(map(torch.equal, drain(data), drain(data)))
    data = open_data(endless(), FOUR, DataSpec(samples=7))
    assert data.count == 7 and data.title == "7 samples, 4"


def test_texts_of_different_length_are_not_stacked() -> None:
    items = [{"input_ids": torch.ones(1, n, dtype=torch.int64)} for n in (5, 5, 7, 7, 7, 5)]
    data = open_data(items, TOKENS, DataSpec(batch=2))
    assert [tuple(batch.keywords["input_ids"].shape) for batch in data.batches()] == [(2, 5), (2, 7), (1, 7), (1, 5)]


def test_faults_of_iterables() -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield torch.ones(2, 4)
        raise RuntimeError("disk on fire")

    message = refused(lambda: open_data(broken(), FOUR), DataError)
    assert "RuntimeError: disk on fire" in message
    assert "holds no samples" in refused(lambda: open_data([], FOUR), DataError)
    assert "holds a object" in refused(lambda: open_data([object()], FOUR), DataError)
    mixed = [{"x": torch.ones(2, 4), "label": torch.ones(2)}, {"x": torch.ones(2, 4)}]
    assert "missing for some" in refused(lambda: open_data(mixed, FOUR), DataError)
    assert "differ in how many" in refused(lambda: open_data([(torch.ones(2, 4), torch.ones(3, 4))], FOUR), DataError)
    nan = [torch.ones(4), torch.full((4,), torch.nan)]
    assert "Sample 1" in refused(lambda: drain(open_data(nan, FOUR)), DataError)


# -- made up ----------------------------------------------------------------------------------------------------


def test_synthetic_samples_follow_what_the_model_takes() -> None:
    inputs = ModelInputs(
        (*TOKENS.arguments, InputInfo("p", "pixels", "BF16", (3, None, 16)), InputInfo("m", "mask", "I64", (None,)))
    )
    data = open_data(DataSpec(length=33, samples=200, batch=200), inputs)
    batch = next(data.batches())
    ids, pixels, mask = (batch.keywords[name] for name in ("input_ids", "p", "m"))
    assert data.synthetic and "synthetic" in data.title and data.count == 200 and data.preview().synthetic
    # 6600 draws miss one of 100 values with a chance of about 1e-27.
    assert ids.shape == (200, 33) and set(ids.reshape(-1).tolist()) == set(range(100)) and bool((mask == 1).all())
    assert pixels.shape == (200, 3, 224, 16) and pixels.dtype == torch.bfloat16
    assert abs(float(pixels.float().mean())) < 0.01 and abs(float(pixels.float().std()) - 1) < 0.01
    again = next(open_data(DataSpec(length=33, samples=3, batch=3), inputs).batches())
    assert torch.equal(again.keywords["input_ids"], ids[:3])
    other = next(open_data(DataSpec(length=33, samples=3, seed=1), inputs).batches())
    assert not torch.equal(other.keywords["input_ids"], ids[:3])


def test_nothing_is_made_up_for_what_is_not_known() -> None:
    assert "shape of x is not known" in refused(lambda: open_data(DataSpec(), ANY))
    unknown = ModelInputs((InputInfo("ids", "tokens", "I64", (None,)),))
    assert "How large ids may be" in refused(lambda: open_data(DataSpec(kind="synthetic"), unknown))


# -- what is recorded -------------------------------------------------------------------------------------------


def test_the_hash_follows_contents_and_choice_but_not_the_place(tmp_path: Path) -> None:
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(first, rows())
    np.save(second, rows())
    base = open_data(DataSpec(str(first), samples=5), FOUR).hash
    assert len(base) == 64 and open_data(DataSpec(str(second), samples=5), FOUR).hash == base
    for changed in (
        DataSpec(str(first), samples=6),
        DataSpec(str(first), samples=5, seed=1),
        DataSpec(str(first), samples=5, batch=2),
    ):
        assert open_data(changed, FOUR).hash != base
    np.save(second, rows() + 1)
    assert open_data(DataSpec(str(second), samples=5), FOUR).hash != base
    tensors = [open_data(torch.full((3, 4), value), FOUR).hash for value in (0.0, 0.0, 1.0)]
    assert tensors[0] == tensors[1] != tensors[2]
    lengths = {open_data(DataSpec(length=length), TOKENS).hash for length in (3, 4)}
    assert len(lengths) == 2


def test_a_preview_says_what_is_in_the_first_batch(tmp_path: Path) -> None:
    preview = open_data(DataSpec(str(saved(tmp_path, rows())), samples=0, batch=5), FOUR).preview()
    (only,) = preview.inputs
    assert (only.name, only.dtype, only.shape, only.low, only.high) == ("x", "F32", (5, 4), 0, 19)
    assert only.samples[1] == "4, 5, 6, 7" and preview.available == preview.count == 10
    json.dumps([preview.title, only.samples])
