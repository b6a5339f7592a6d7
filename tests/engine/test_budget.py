"""What a plan says of memory, beside what a run in a fresh process takes; and limits that are kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import engine

RUN = """
import json, sys
import engine
path, out, scheme, limit = sys.argv[1:]
plan = engine.plan(path, scheme)
said = engine.needs(plan)
report = engine.quantize_to(plan, out, record=False, memory_limit=int(limit) or None)
assert "torch" not in sys.modules  # 1.6 s and 190 MB that weights alone need not
print(json.dumps([said.memory, report.peak_memory_bytes]))
"""


def noise(*shape: int) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.05).bfloat16()


def in_a_fresh_process(path: Path, out: Path, scheme: str, limit: int = 0) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(out), scheme, str(limit)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said, peak = json.loads(done.stdout)
    return said, peak


@pytest.mark.parametrize(
    ("tensors", "scheme"),
    [
        ({"a.weight": (256, 256)}, "int8:channel"),
        ({f"{n}.weight": (6144, 4096) for n in range(2)}, "int4:g128"),
        ({f"{n}.up.weight": (512, 1024, 6, 6) for n in range(2)} | {f"{n}.up.bias": (1024,) for n in range(2)}, "int8:channel"),
    ],
    ids=["small", "held between passes", "out of order on disk"],
)
def test_measured_memory_is_within_what_was_said(
    tensors: dict[str, tuple[int, ...]], scheme: str, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_file({name: noise(*shape) for name, shape in tensors.items()})
    said, peak = in_a_fresh_process(path, tmp_path / "out.safetensors", scheme)
    assert peak <= said <= 1.25 * peak


def test_below_a_limit_less_is_held_and_the_bytes_are_the_same(make_file: Callable[..., Path], tmp_path: Path) -> None:
    path = make_file({f"{n}.weight": noise(6144, 4096) for n in range(2)})
    said, _ = in_a_fresh_process(path, tmp_path / "free.safetensors", "int4:g128")
    limit = said - (24 << 20)
    _, peak = in_a_fresh_process(path, tmp_path / "limited.safetensors", "int4:g128", limit)
    assert peak <= limit
    assert (tmp_path / "free.safetensors").read_bytes() == (tmp_path / "limited.safetensors").read_bytes()


def test_what_cannot_fit_is_refused_before_it_begins(make_file: Callable[..., Path], tmp_path: Path) -> None:
    path = make_file({"a.weight": noise(256, 256)})
    with pytest.raises(engine.PlanError, match="may be used; raise the memory limit"):
        engine.quantize_to(path, tmp_path / "out.safetensors", "int8:channel", memory_limit=1_000_000, record=False)
    assert not (tmp_path / "out.safetensors").exists()
    turned = make_file({"up.weight": noise(512, 1024, 6, 6), "up.bias": noise(1024)}, "turned.safetensors")
    with pytest.raises(engine.PlanError, match=r"keep up, which cannot be read in pieces"):
        engine.quantize_to(turned, tmp_path / "out.safetensors", "int8:channel", memory_limit=1_000_000, record=False)
