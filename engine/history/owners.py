"""Which process answers for a run, and whether it still lives."""

import importlib.metadata
import os
import platform
from functools import cache

import psutil

from engine.version import VERSION

_LIBRARIES = ("torch", "numpy", "numba", "safetensors", "transformers")


@cache
def _of(pid: int) -> str:
    # The start tells a process from a later one with the same number.
    return f"{platform.node()} {pid} {psutil.Process(pid).create_time():.2f}"


def this_process() -> str:
    return _of(os.getpid())


def is_gone(owner: str) -> bool:
    """Whether the process has ended. One on another machine counts as alive: who knows."""
    host, _, rest = owner.rpartition(" ")[0].rpartition(" ")
    if not rest.isdigit() or (host and host != platform.node()):
        return not owner
    try:
        started = psutil.Process(int(rest)).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    return abs(started - float(owner.rpartition(" ")[2])) > 1


@cache
def versions() -> dict[str, str]:
    """Of the engine, Python and the libraries that decide bytes; those that are not installed are left out."""
    found = {"mono-quant": VERSION, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def machine() -> str:
    """In words: its name, system, processor and number of cores."""
    return f"{platform.node()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
