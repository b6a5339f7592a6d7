"""What is no file: pipes, sockets, devices, links in a circle, folders, under any name."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.corpus.case import Case


def pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def listening(folder: Path, name: str) -> Path:
    """A socket; its path may be no longer than about a hundred characters, so it is made from within."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    finally:
        os.chdir(before)
    return folder / name


def endless(folder: Path, name: str) -> Path:
    (folder / name).symlink_to("/dev/zero")
    return folder / name


def nothing(folder: Path, name: str) -> Path:
    (folder / name).symlink_to("/dev/null")
    return folder / name


def loop(folder: Path, name: str) -> Path:
    (folder / name).symlink_to(folder / f"other-{name}")
    (folder / f"other-{name}").symlink_to(folder / name)
    return folder / name


def dangling(folder: Path, name: str) -> Path:
    (folder / name).symlink_to(folder / "gone")
    return folder / name


def directory(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def process_memory(folder: Path, name: str) -> Path:
    """A file of size 0 by its own words, which has no end."""
    (folder / name).symlink_to("/proc/self/mem")
    return folder / name


SPECIAL: dict[str, Callable[[Path, str], Path]] = {
    "a pipe": pipe, "a socket": listening, "a link to /dev/zero": endless, "a link to /dev/null": nothing,
    "a loop of links": loop, "a link to nothing": dangling, "a folder": directory, "a link to /proc/self/mem": process_memory,
}  # fmt: skip


def cases() -> Iterator[Case]:
    for what, make in SPECIAL.items():
        for suffix in (".safetensors", ".pt", ".bin", ".pt2", ".unknown"):
            name = f"x{suffix}"
            yield Case(f"{what}, called {name}", lambda folder, make=make, name=name: make(folder, name), name)
