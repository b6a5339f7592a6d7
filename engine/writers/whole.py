"""Files that are there as a whole or not at all, where they are small or another library writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import OutputError


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside the target, which takes its place when the block ends well. Raises OutputError."""
    target = Path(os.path.expanduser(os.fspath(path)))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write beside the target and rename. Raises OutputError."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
