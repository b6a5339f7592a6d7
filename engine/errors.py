"""Everything the engine raises on purpose.

    EngineError                 one sentence: what, which layer or file, what to do
    ├── InputError              a path that cannot be opened, or is not what it should be
    │   ├── DataError           the tensors inside cannot be used (NaN, truncated, changed on disk)
    │   └── TrustNeeded         opening it runs code from a file; the user must say that they trust these very bytes
    ├── RecipeError             a recipe, a scheme name or a pattern is wrong (names the key and line)
    ├── PlanError               the plan has problems that stop a run
    ├── OutputError             the result cannot be written (exists, disk full, read-only)
    ├── ValidationError         a quantized model is not what it should be; ``result`` is what was found
    └── Cancelled               the user stopped the work; nothing is left half-written
        └── Paused              the user wants to go on later; what is finished is kept beside the output

Anything else that escapes the engine is a defect of the engine.
"""

from typing import Any

LONGEST = 900
"""Characters of a sentence that are shown; names from files may be long."""


def plain(text: str) -> str:
    """Text from a file, on one line: control characters and marks that turn writing round are shown, never obeyed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _sentence(text: str) -> str:
    text = plain(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


class EngineError(Exception):
    """Root of the tree; ``str(error)`` is the sentence to show, ``details`` the text behind it.

    Names and paths in a sentence come from anywhere, so it is made plain here, once for all.
    """

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(_sentence(message))
        self.details = details


def lacks_memory(error: BaseException) -> bool:
    """Whether the system had no more memory to give; torch says so in a way of its own."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


class InputError(EngineError):
    """A path that cannot be opened, or holds something else than expected."""


class DataError(InputError):
    """The tensors inside a file cannot be used.

    When a run ends with it, ``report`` is the RunReport of the layers that could be measured; nothing was written.
    """

    report: Any = None


class TrustNeeded(InputError):
    """Code would run that nobody agreed to. Nothing of it has run.

    path    the file or folder that holds the code
    sha256  of the bytes that would run; to agree, pass it in ``trusted`` with the next call
    what    what would run, in words
    """

    def __init__(self, message: str, *, path: str, sha256: str, what: str) -> None:
        super().__init__(message)
        self.path, self.sha256, self.what = path, sha256, what


class RecipeError(EngineError):
    """A recipe, a scheme name or a pattern is wrong."""


class PlanError(EngineError):
    """The plan has problems that stop a run."""


class OutputError(EngineError):
    """The result cannot be written."""


class ValidationError(EngineError):
    """A quantized model failed its validation, or lost more than was allowed. ``result`` is the ValidationResult, or the info."""

    result: Any = None


class Cancelled(EngineError):
    """The user stopped the work. ``partial`` is what was found by then, where that can be used."""

    partial: Any = None

    def __init__(self, message: str = "Cancelled: nothing was written.") -> None:
        super().__init__(message)


class Paused(Cancelled):
    """A run ended at the end of a layer, to be gone on with by the same call with ``resume``."""
