"""Small text files, there as a whole or not at all."""

import os
from pathlib import Path

from engine.errors import OutputError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write beside the target and rename. Raises OutputError."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from None
