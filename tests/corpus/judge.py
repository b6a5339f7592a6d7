"""What must hold for every hostile file: one sentence or an ordinary answer, little memory, nothing run, no hang."""

import contextlib
import faulthandler
import functools
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import engine
from engine import cli
from engine.calibration.data import open_data
from engine.measure.memory import forget_peak_memory, peak_memory
from engine.records.calibration import InputInfo, ModelInputs
from tests.corpus.case import MARKER, Case

HANG = 120
"""Seconds after which the process ends with all its stacks: a guard against hanging, far above what any case takes."""
ROOM = 400 << 20
"""Bytes that looking at a small hostile file may take beside what the process had."""
SAMPLES = Path(__file__).parent.parent.parent / "assets" / "samples"
MODEL, TEXTS = SAMPLES / "digits_cnn" / "model.safetensors", SAMPLES / "docstring_lm"
NOT_IN_TORCH = ("F4", "F6")
UNSAFE_ADVICE = (
    "weights_only", "allow_pickle", "trust_remote_code", "add_safe_globals", "safe_globals", "MAX_IMAGE_PIXELS",
    "set_int_max_str_digits", "setrecursionlimit", "max_header_size", "LOAD_TRUNCATED",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """``sentence`` that refused it; None where it opened."""

    sentence: str | None
    details: str = ""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Ends the process with a report when the work inside hangs."""
    faulthandler.dump_traceback_later(HANG, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@functools.cache
def warm_up() -> None:
    """Load what the first file of a kind would load; on a busy machine that takes longer than any case."""
    engine.load_tensors(SAMPLES / "digits_cnn" / "model.pt")
    next(open_data(str(TEXTS / "calibration.txt"), takes(TEXTS / "calibration.txt")).batches())


def open_in_python(case: Case, path: Path) -> Verdict:
    """The real calls of a user of the package: open, plan, decode what is small. Anything but an EngineError is raised."""
    warm_up()
    before = peak_memory_now()
    with guarded():
        try:
            _use(case, path)
        except engine.EngineError as error:
            verdict = Verdict(str(error), error.details)
        else:
            verdict = Verdict(None)
    grown = peak_memory() - before
    assert grown < ROOM, f"{case.name}: took {grown:,} bytes"
    check_words(case, verdict)
    check_nothing_ran(case, path)
    return verdict


def peak_memory_now() -> int:
    forget_peak_memory()
    return peak_memory()


def _use(case: Case, path: Path) -> None:
    if case.door == "recipe":
        engine.plan(MODEL, engine.load_recipe(path))
        return
    if case.door == "data":
        next(open_data(os.fspath(path), takes(path)).batches())
        return
    model = engine.open_model(path)
    engine.plan(model, "int8:channel")
    if model.quantized and not model.quantized.readable:
        return
    engine.load_tensors(model, [layer.name for layer in model.layers if layer.dtype[:2] not in NOT_IN_TORCH])


def takes(path: Path) -> ModelInputs:
    """Inputs of a model to which such data may be given."""
    if path.suffix in (".txt", ".jsonl", ".json") or path.name == "ids.npy":
        return ModelInputs((InputInfo("input_ids", "tokens", "I64", (None,), 0, 2047),), str(TEXTS), True, 64)
    if path.suffix in (".png", ""):
        return ModelInputs((InputInfo("image", "pixels", "F32", (1, 8, 8)),))
    return ModelInputs((InputInfo("x", "tensor", "F32", (2,) if path.suffix == ".csv" else (64,)),))


def check_words(case: Case, verdict: Verdict) -> None:
    """One sentence that names the file or what stands in it, of printable characters, without advice to do anything unsafe."""
    if verdict.sentence is None:
        assert not case.says, f"{case.name}: opened, but should have been refused ({case.says})"
        return
    assert case.says is not None, f"{case.name}: refused ({verdict.sentence})"
    assert case.says in verdict.sentence, f"{case.name}: said {verdict.sentence!r}"
    check_sentence(verdict.sentence)
    unsafe = [words for words in UNSAFE_ADVICE if words in verdict.sentence + verdict.details]
    assert not unsafe, f"{case.name}: advises {unsafe}"


def check_sentence(sentence: str) -> None:
    assert sentence.isprintable(), ascii(sentence)
    assert sentence.endswith((".", ")", "?")) and len(sentence) < 1000, ascii(sentence)
    assert not re.search(r"Traceback|Error\(|<class|object at 0x", sentence), sentence


def check_nothing_ran(case: Case, path: Path) -> None:
    top = path if path.is_dir() and not path.is_symlink() else path.parent
    assert not any(top.rglob(MARKER)), f"{case.name}: ran code"


def open_on_the_command_line(case: Case, path: Path) -> Verdict:
    """``mono-quant inspect`` and its like, in this process. What it prints is checked too."""
    out, err = io.StringIO(), io.StringIO()
    with guarded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(command(case, path))
    return read_answer(case, path, code, out.getvalue(), err.getvalue())


def command(case: Case, path: Path) -> list[str]:
    """What a person would type."""
    return ["plan", str(MODEL), "--recipe", str(path)] if case.door == "recipe" else ["inspect", str(path)]


def read_answer(case: Case, path: Path, code: int, out: str, err: str) -> Verdict:
    """Exit code 0, or 2 and one line on the error stream."""
    printed = out.replace("\n", "")
    assert printed.isprintable(), f"{case.name}: printed control characters"
    verdict = Verdict(None)
    if code:
        assert code == 2 and err.count("\n") == 1 and err.startswith("mono-quant: "), f"{case.name}: {code}, {err!r}"
        verdict = Verdict(err.removeprefix("mono-quant: ").rstrip("\n"))
    check_words(case, verdict)
    check_nothing_ran(case, path)
    return verdict
