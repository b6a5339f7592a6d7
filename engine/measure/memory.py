"""The most memory a run needed."""

import contextlib
import re
from pathlib import Path

import psutil

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak_memory() -> None:
    """Start measuring anew, where the system can (Linux); elsewhere the peak is that of the whole process."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def peak_memory() -> int:
    """Most resident memory of this process, in bytes."""
    with contextlib.suppress(OSError):
        # Not ru_maxrss: a child inherits that from the process that started it, however large.
        if found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()):
            return int(found[1]) * 1024
    memory = psutil.Process().memory_info()
    if peak := getattr(memory, "peak_wset", 0):  # Windows
        return int(peak)
    import resource  # macOS, which counts bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
