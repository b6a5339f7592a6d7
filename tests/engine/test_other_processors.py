"""Kernels as they are compiled for processors that lack instructions of this one."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the name is one of an x86-64 processor's")
def test_without_avx2_ssse3_and_f16c_the_same_is_decoded_and_multiplied(tmp_path: Path) -> None:
    """The tests of arithmetic once more, in a process whose kernels use what every such processor has."""
    named = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    tests = ["tests/engine/test_numerics.py::test_any_stored_bytes_are_decoded_and_multiplied_as_the_reference_does"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=os.environ | named, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
