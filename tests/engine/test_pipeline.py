"""Runs: what is written, what is measured, and that nothing half-written ever stays."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import engine
from engine.writers import artifact


class StopAfter(engine.Monitor):
    """Asks to cancel at the n-th question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def cancelled(self) -> bool:
        self.left -= 1
        return self.left < 0


def leftovers(folder: Path, *known: str) -> list[str]:
    return sorted(set(os.listdir(folder)) - set(known))


def test_the_report_adds_up(language_model: Path, tmp_path: Path) -> None:
    report = engine.quantize_to(language_model, tmp_path / "out", "W4A16")
    weights = engine.load_tensors(language_model)
    decoded = engine.load_tensors(tmp_path / "out")
    signal = noise = 0.0
    for layer in report.layers:
        before, after = weights[f"{layer.name}.weight"].double(), decoded[f"{layer.name}.weight"].double()
        signal += float(before.square().sum())
        noise += float((before - after).square().sum())
        counts = layer.histogram
        assert sum(counts.float_counts) == sum(counts.quantized_counts) == before.numel()
        assert counts.limit == float(before.abs().max())
        assert layer.ranges.low[0] == float(before[: layer.ranges.channels_per_band].min())
        assert max(layer.ranges.high) == float(before.max())
    assert report.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-3)
    assert report.worst_sqnr_db == min(layer.sqnr_db for layer in report.layers if layer.sqnr_db is not None)
    assert report.bytes_before == (language_model / "model.safetensors").stat().st_size
    assert 4 < report.bits_per_weight < 4.2


def test_clipped_values_are_those_beyond_the_codes(make_file: Callable[..., Path], tmp_path: Path) -> None:
    """Per tensor, symmetric: scale = 127.5/127.5 = 1 covers codes -128..127; only +127.5 rounds half to even, to 128."""
    weight = torch.zeros(4, 64)
    weight[0, 0], weight[0, 1], weight[1, 5] = 127.5, -127.5, 127.5
    report = engine.quantize_to(make_file({"a.weight": weight}), tmp_path / "o.safetensors", "int8:tensor").layers[0]
    assert report.clipped == 0.0  # half a step outside is the edge, not beyond it
    assert report.max_error == 0.5
    assert engine.load_tensors(tmp_path / "o.safetensors")["a.weight"][0, 0] == 127


def test_zeros_come_back_as_exact_zeros(make_file: Callable[..., Path], tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weight = torch.zeros(64, 128)
        weight[1, :64] = torch.linspace(-1, 1, 64)
        source = make_file({"a.weight": weight.to(dtype)})
        for scheme in ("int4:g64", "int4:g64:asym", "int8:channel", "int3:tensor:asym"):
            report = engine.quantize_to(source, tmp_path / "o.safetensors", scheme, overwrite=True)
            stored = load_file(tmp_path / "o.safetensors")
            back = engine.load_tensors(tmp_path / "o.safetensors")["a.weight"]
            assert torch.isfinite(stored["a.weight_scale"]).all() and (stored["a.weight_scale"] > 0).all()
            assert (back[weight == 0] == 0).all()
            assert report.layers[0].sqnr_db is not None


def test_an_all_zero_layer_has_no_error_and_no_sqnr(make_file: Callable[..., Path], tmp_path: Path) -> None:
    report = engine.quantize_to(make_file({"a.weight": torch.zeros(32, 32)}), tmp_path / "o.safetensors", "int4:channel")
    assert report.layers[0].sqnr_db is None and report.layers[0].max_error == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", ["int2:channel", "int4:g32:asym", "int8:tensor", "fp16", "bf16"])
def test_finite_in_gives_finite_out_at_every_extreme(
    dtype: torch.dtype, scheme: str, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    largest, tiny = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 8
    weight = torch.zeros(32, 64, dtype=dtype)
    weight[0], weight[1, 0], weight[2], weight[3, ::2], weight[4] = largest, -largest, tiny, -0.0, 1.0
    weight[5, ::2], weight[5, 1::2] = largest, -largest
    engine.quantize_to(make_file({"a.weight": weight}), tmp_path / "o.safetensors", scheme)
    assert torch.isfinite(engine.load_tensors(tmp_path / "o.safetensors")["a.weight"]).all()


def test_half_formats_are_torchs_casts(gaussian: torch.Tensor, make_file: Callable[..., Path], tmp_path: Path) -> None:
    source = make_file({"a.weight": gaussian})
    for scheme, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        engine.quantize_to(source, tmp_path / "o.safetensors", scheme, overwrite=True)
        assert torch.equal(load_file(tmp_path / "o.safetensors")["a.weight"], gaussian.to(dtype))


def test_a_layer_that_fails_does_not_cost_the_others_their_measurements(make_file: Callable[..., Path], tmp_path: Path) -> None:
    bad = torch.ones(64, 64)
    bad[0, 0] = float("nan")
    tensors = {"a": torch.randn(64, 64), "bad": bad, "worse": bad.clone(), "z": torch.randn(64, 64)}
    source = make_file({f"{name}.weight": tensor for name, tensor in tensors.items()})
    with pytest.raises(engine.DataError, match=r"bad.weight holds NaN.* 1 more layers failed") as error:
        engine.quantize_to(source, tmp_path / "out.safetensors", "int8:channel")
    assert [layer.name for layer in error.value.report.layers] == ["a", "z"]
    assert error.value.details.count("holds NaN") == 2
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "Inf"), (float("-inf"), "Inf")])
def test_values_that_are_not_finite_are_named_with_their_index(
    value: float, word: str, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        weight = torch.ones(40, 3, 2, 5, dtype=dtype)
        weight[33, 2, 1, 4] = value
        with pytest.raises(engine.DataError) as error:
            engine.quantize_to(make_file({"conv.weight": weight}), tmp_path / "o.safetensors", "int8:channel")
        assert f"conv.weight holds {word} at index [33, 2, 1, 4]" in str(error.value)
        assert leftovers(tmp_path, "model.safetensors") == []


def test_the_index_of_a_bad_value_follows_the_output_axis(make_file: Callable[..., Path], tmp_path: Path) -> None:
    weight = torch.randn(300, 20, 2, 2)
    weight[290, 3, 1, 0] = float("nan")
    source = make_file({"up.weight": weight, "up.bias": torch.zeros(20)})
    with pytest.raises(engine.DataError, match=r"NaN at index \[290, 3, 1, 0\]"):
        engine.quantize_to(source, tmp_path / "o.safetensors", "int8:channel")


def test_a_double_beyond_float32_is_told_as_such(make_file: Callable[..., Path], tmp_path: Path) -> None:
    weight = torch.ones(32, 32, dtype=torch.float64)
    weight[1, 2] = 1e300
    with pytest.raises(engine.DataError, match=r"1e\+300 \(beyond float32\) at index \[1, 2\]"):
        engine.quantize_to(make_file({"a.weight": weight}), tmp_path / "o.safetensors", "int8:channel")


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_sqnr_does_not_depend_on_the_size_of_weights(size: float, make_file: Callable[..., Path], tmp_path: Path) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    engine_report = engine.quantize_to(make_file({"a.weight": weight}), tmp_path / "o.safetensors", "int8:channel").layers[0]
    scaled = engine.quantize_to(make_file({"a.weight": weight * size}), tmp_path / "p.safetensors", "int8:channel").layers[0]
    assert scaled.sqnr_db == pytest.approx(engine_report.sqnr_db, abs=0.01)


def test_one_half_layer_does_not_change_the_models_dtype(language_model: Path, tmp_path: Path) -> None:
    recipe = engine.recipe_from_text('scheme = "int4:g128"\n[[rules]]\nmatch = "lm_head"\nscheme = "fp16"')
    engine.quantize_to(language_model, tmp_path / "one", recipe)
    assert "bfloat16" in json.loads((tmp_path / "one" / "config.json").read_text()).values()
    engine.quantize_to(language_model, tmp_path / "all", "FP16")
    assert "float16" in json.loads((tmp_path / "all" / "config.json").read_text()).values()
    assert {tensor.dtype for tensor in load_file(tmp_path / "all" / "model.safetensors").values()} == {torch.float16}


def test_embeddings_do_not_take_the_activations_away(language_model: Path, tmp_path: Path) -> None:
    text = 'scheme = "int8:channel"\nactivations = "int8:token"\n[[rules]]\nkind = "embedding"\nscheme = "int8:channel"'
    engine.quantize_to(language_model, tmp_path / "o", engine.recipe_from_text(text))
    groups = json.loads((tmp_path / "o" / "config.json").read_text())["quantization_config"]["config_groups"].values()
    inputs = {next(iter(group["targets"])): group["input_activations"] for group in groups}
    assert inputs.pop("model.embed_tokens") is None
    assert all(inputs.values()) and inputs


def test_tensors_called_like_scales_survive(make_file: Callable[..., Path], tmp_path: Path) -> None:
    source = make_file({"l.weight": torch.randn(64, 128), "logit_scale": torch.tensor(2.6), "k_scale": torch.ones(1)})
    engine.quantize_to(source, tmp_path / "q.safetensors", "int4:g64")
    engine.dequantize(tmp_path / "q.safetensors", tmp_path / "d.safetensors")
    assert load_file(tmp_path / "d.safetensors").keys() == {"l.weight", "logit_scale", "k_scale"}


@pytest.mark.parametrize("questions", [0, 1, 7])
def test_cancelled_leaves_nothing(questions: int, language_model: Path, tmp_path: Path) -> None:
    with pytest.raises(engine.Cancelled):
        engine.quantize_to(language_model, tmp_path / "out", "W8A16", monitor=StopAfter(questions))
    assert leftovers(tmp_path) == []


def test_progress_reaches_the_end_and_layers_come_in_order(language_model: Path, tmp_path: Path) -> None:
    class Watch(engine.Monitor):
        def __init__(self) -> None:
            self.seen: list[engine.Progress] = []
            self.layers: list[str] = []

        def progress(self, progress: engine.Progress) -> None:
            self.seen.append(progress)

        def layer_done(self, report: engine.LayerReport) -> None:
            self.layers.append(report.name)

    watch = Watch()
    report = engine.quantize_to(language_model, tmp_path / "out", "W8A16", monitor=watch)
    assert watch.seen[-1].done == watch.seen[-1].total
    assert [p.done for p in watch.seen] == sorted(p.done for p in watch.seen)
    assert watch.layers == [layer.name for layer in report.layers]


def test_existing_output_is_kept_unless_told_otherwise(language_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_text("precious")
    with pytest.raises(engine.OutputError, match="already exists"):
        engine.quantize_to(language_model, tmp_path / "out.safetensors", "fp16", format="safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "precious"
    engine.quantize_to(language_model, tmp_path / "out.safetensors", "fp16", format="safetensors", overwrite=True)
    assert engine.open_model(tmp_path / "out.safetensors").parameters > 1_000_000


@pytest.mark.parametrize("name", ["chapter.txt", ".git/HEAD", "sub/x.safetensors"])
def test_overwriting_never_deletes_what_is_no_models(name: str, language_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("precious")
    (folder / "config.json").write_text("{}")
    with pytest.raises(engine.OutputError, match="overwriting would delete"):
        engine.quantize_to(language_model, folder, "fp16", overwrite=True)
    assert (folder / name).read_text() == "precious"


def test_an_empty_folder_may_be_filled(language_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    engine.quantize_to(language_model, tmp_path / "out", "W8A16")
    assert engine.open_model(tmp_path / "out").quantized


@pytest.mark.parametrize("form", ["safetensors", "compressed-tensors"])
def test_what_came_into_being_during_the_run_is_left_alone(form: str, language_model: Path, tmp_path: Path) -> None:
    target = tmp_path / ("out.safetensors" if form == "safetensors" else "out")

    class Intruder(engine.Monitor):
        def layer_done(self, report: engine.LayerReport) -> None:
            if form == "safetensors":
                target.write_text("precious")
            else:
                target.mkdir(exist_ok=True)
                (target / "thesis").write_text("precious")

    with pytest.raises(engine.OutputError, match="came into being"):
        engine.quantize_to(language_model, target, "W8A16", format=form, monitor=Intruder())
    assert (target if form == "safetensors" else target / "thesis").read_text() == "precious"
    assert leftovers(tmp_path, target.name) == []


@pytest.mark.parametrize("name", ["out", "out.bin", "out.SAFETENSORS", ".safetensors", "out.safetensors.gz"])
def test_one_file_under_a_name_that_does_not_open_is_refused(name: str, language_model: Path, tmp_path: Path) -> None:
    with pytest.raises(engine.OutputError, match=r"let it end in \.safetensors\.$"):
        engine.quantize_to(language_model / "model.safetensors", tmp_path / name, "W8A16", format="safetensors")
    assert list(tmp_path.iterdir()) == []


def test_links_out_of_the_folder_are_not_carried_over(language_model: Path, tmp_path: Path) -> None:
    model, secret = tmp_path / "model", tmp_path / "secret"
    shutil.copytree(language_model, model)
    secret.write_text("a key")
    (model / "notes.txt").symlink_to(secret)
    (model / "above.txt").symlink_to("../secret")
    (model / "inside.txt").symlink_to("config.json")
    (model / "passwords").symlink_to(tmp_path)
    summary = engine.open_model(model)
    assert "inside.txt" in summary.carried and not {"notes.txt", "above.txt", "passwords"} & set(summary.carried)
    assert "Links to files outside the folder are not carried over: above.txt, notes.txt." in summary.problems
    engine.quantize_to(model, tmp_path / "out", "W8A16")
    assert not [file for file in (tmp_path / "out").iterdir() if file.name in ("notes.txt", "above.txt", "passwords")]
    assert (tmp_path / "out" / "inside.txt").read_bytes() == (model / "config.json").read_bytes()


def test_a_hugging_face_cache_is_made_of_links_and_carried_over(language_model: Path, tmp_path: Path) -> None:
    blobs, model = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    shutil.copytree(language_model, blobs)
    model.mkdir(parents=True)
    for file in blobs.iterdir():
        (model / file.name).symlink_to(Path("../../blobs") / file.name)
    assert engine.open_model(model).carried == engine.open_model(language_model).carried != ()


def test_a_failed_run_leaves_the_old_output_alone(language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "out", "W8A16")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(engine.Cancelled):
        engine.quantize_to(language_model, tmp_path / "out", "W4A16", overwrite=True, monitor=StopAfter(9))
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert leftovers(tmp_path) == ["out"]


def test_the_output_may_not_be_the_input(make_file: Callable[..., Path], language_model: Path, tmp_path: Path) -> None:
    source = make_file({"a.weight": torch.ones(32, 32)})
    (tmp_path / "link.safetensors").symlink_to(source)
    for target in (source, tmp_path / "link.safetensors"):
        with pytest.raises(engine.OutputError, match="input itself"):
            engine.quantize_to(source, target, "int8:channel", overwrite=True)
    for target in (language_model, language_model / "inside"):
        with pytest.raises(engine.OutputError, match="input itself"):
            engine.quantize_to(language_model, target, "W4A16", overwrite=True)
    assert torch.equal(load_file(source)["a.weight"], torch.ones(32, 32))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.pwrite, 0

    def full(descriptor: int, data: bytes, position: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(engine.OutputError, match="the disk is full") as error:
        engine.quantize_to(language_model, tmp_path / "out", "W8A16")
    assert "\n" not in str(error.value)
    assert leftovers(tmp_path) == []


def test_a_really_full_disk(language_model: Path, tmp_path: Path) -> None:
    """A limit on file size makes the system itself refuse the write, in a process of its own."""
    code = (
        "import engine, resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from engine.numerics import backend; backend()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try: engine.quantize_to(sys.argv[1], sys.argv[2], 'W8A16')\n"
        "except engine.OutputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, language_model, tmp_path / "out"], capture_output=True, text=True)
    assert "Cannot write" in done.stdout and "Nothing was left behind" in done.stdout, done.stderr
    assert leftovers(tmp_path) == []


def test_too_little_space_is_known_before_anything_is_written(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(artifact.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(engine.OutputError, match="free"):
        engine.quantize_to(language_model, tmp_path / "out", "W8A16")
    assert leftovers(tmp_path) == []


def test_a_missing_parent_folder(language_model: Path, tmp_path: Path) -> None:
    with pytest.raises(engine.OutputError, match="does not exist"):
        engine.quantize_to(language_model, tmp_path / "no" / "out", "W8A16")


def test_a_read_only_folder(language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(engine.OutputError, match="may not write there"):
        engine.quantize_to(language_model, tmp_path / "out", "W8A16")


def test_leftovers_of_a_killed_writer_are_removed(language_model: Path, tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    stale = tmp_path / f".out.mono-quant-{int(dead.stdout)}-0123abcd.tmp"
    stale.mkdir()
    alive = tmp_path / f".other.mono-quant-{os.getppid()}-0123abcd.tmp"
    alive.touch()
    engine.quantize_to(language_model, tmp_path / "out", "W8A16")
    assert not stale.exists() and alive.exists()


def test_other_files_are_carried_over_and_the_configuration_extended(language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "out", "W4A16")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (language_model / name).read_bytes()
    before = json.loads((language_model / "config.json").read_text())
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    quantization = after.pop("quantization_config")
    assert after == before
    assert quantization["quantization_status"] == "compressed" and quantization["ignore"] == ["lm_head"]


@pytest.mark.parametrize("scheme", ["W4A16", "W8A16", "W8A8", "W4A16_ASYM"])
def test_export_there_and_back_keeps_every_byte(scheme: str, language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "folder", scheme)
    engine.export(tmp_path / "folder", tmp_path / "one.safetensors", format="safetensors")
    first, second = load_file(tmp_path / "folder" / "model.safetensors"), load_file(tmp_path / "one.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    decoded, same = engine.load_tensors(tmp_path / "folder"), engine.load_tensors(tmp_path / "one.safetensors")
    assert all(torch.equal(decoded[name], same[name]) for name in decoded)


def test_dequantize_writes_an_ordinary_checkpoint(language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "q", "W4A16")
    engine.dequantize(tmp_path / "q", tmp_path / "f")
    original, plain = engine.open_model(language_model), engine.open_model(tmp_path / "f")
    assert plain.quantized is None
    assert [(x.name, x.shape, x.dtype) for x in plain.layers] == [(x.name, x.shape, x.dtype) for x in original.layers]
    decoded, stored = engine.load_tensors(tmp_path / "q"), load_file(tmp_path / "f" / "model.safetensors")
    assert all(torch.equal(decoded[name], stored[name]) for name in decoded)
    with pytest.raises(engine.PlanError, match="nothing to decode"):
        engine.dequantize(tmp_path / "f", tmp_path / "g")


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Two sparse checkpoints, one twice the other: the peak of a fresh process stays within a few megabytes."""
    code = "import engine, sys; print(engine.quantize_to(sys.argv[1], sys.argv[2], 'int4:g128').peak_memory_bytes)"
    peaks = []
    for layers in (8, 16):
        shape = [2048, 4096]
        size = 2 * shape[0] * shape[1]
        header = {
            f"l.{n}.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [n * size, (n + 1) * size]} for n in range(layers)
        }
        text = json.dumps(header).encode()
        source = tmp_path / f"{layers}.safetensors"
        source.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(source, 8 + len(text) + layers * size)
        done = subprocess.run(
            [sys.executable, "-c", code, source, tmp_path / f"out{layers}.safetensors"], capture_output=True, text=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 20e6
    assert max(peaks) < 450e6
