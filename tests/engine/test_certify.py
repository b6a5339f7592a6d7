"""Artifacts opened again: a whole one is certified, and whatever is damaged is named."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import engine
from engine.certifying import second_reader
from engine.models import hugging_face
from engine.numerics import checksum, kernels, reference
from engine.pages import certificate as certificate_page
from engine.readers.header import read_header
from engine.readers.source import TensorFiles
from engine.schemes import parse_scheme
from engine.schemes.base import role_of

SPLITMIX = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
"""The first numbers of SplitMix64 from seed 0, as published with its reference implementation."""


@pytest.fixture
def artifact(language_model: Path, tmp_path: Path) -> Path:
    engine.quantize_to(language_model, tmp_path / "q", "W4A16")
    return tmp_path / "q"


def outcomes(certificate: engine.Certificate) -> dict[str, str]:
    return {check.name: check.outcome for check in certificate.checks}


def said(certificate: engine.Certificate) -> str:
    return " ".join(certificate.failures)


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], None], *, checksums: bool = False) -> None:
    """The file's tensors changed and written again by the safetensors library; without checksums as by another program."""
    with safe_open(path, "pt") as opened:
        metadata = {k: v for k, v in opened.metadata().items() if checksums or "checksums" not in k}
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "engine", *map(str, arguments)], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


# Whole artifacts


@pytest.mark.parametrize(
    "scheme", ["W4A16", "W8A8", "W4A16_ASYM", "FP8_BLOCK", "fp8:tensor", "MXFP4", "MXFP8", "NVFP4A16", "int3:g64", "BF16"]
)
def test_what_the_engine_writes_is_certified(scheme: str, language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "q", scheme)
    found = engine.certify(tmp_path / "q", language_model)
    assert found.certified, found.failures
    not_run = {name for name, outcome in outcomes(found).items() if outcome != "passed"}
    assert not_run == ({"forward"} if scheme in ("W4A16_ASYM", "BF16") else set())
    assert all(proof.reader == "second" for proof in found.layers)


@pytest.mark.parametrize(
    "scheme", ["nf4:g64", "nf4:g64:double", "ternary", "mxfp6", "int4:channel", "int8:g9:asym", "int5:b16x9"]
)
def test_one_file_of_a_convolutional_network_too(scheme: str, digits: Path, tmp_path: Path) -> None:
    source = digits / "model.safetensors"
    engine.quantize_to(source, tmp_path / "q.safetensors", scheme)
    found = engine.certify(tmp_path / "q.safetensors", source)
    assert found.certified, found.failures
    own = scheme.split(":")[0] in ("nf4", "ternary", "mxfp6")
    assert outcomes(found)["readers"] == ("not run" if own else "passed")


def test_figures_are_those_of_the_bytes_on_disk(artifact: Path, language_model: Path) -> None:
    found = engine.certify(artifact, language_model, forward=False)
    original = load_file(language_model / "model.safetensors")
    decoded = engine.load_tensors(artifact)
    signal = noise = 0.0
    for proof in found.layers:
        w = original[f"{proof.name}.weight"].double().numpy()
        error = w - decoded[f"{proof.name}.weight"].double().numpy()
        assert proof.sqnr_db == pytest.approx(10 * np.log10((w**2).sum() / (error**2).sum()), abs=1e-9)
        assert proof.max_error == pytest.approx(np.abs(error).max())
        signal, noise = signal + (w**2).sum(), noise + (error**2).sum()
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-9)
    digest = subprocess.run(["sha256sum", artifact / "model.safetensors"], capture_output=True, text=True).stdout.split()[0]
    assert found.files[0].sha256 == digest


def test_moved_scale_is_said_and_not_taken_for_damage(language_model: Path, tmp_path: Path) -> None:
    data = engine.DataSpec(str(language_model / "calibration.txt"), samples=4, length=64)
    recipe = replace(engine.recipe("W4A16"), algorithm="awq+rtn")
    engine.quantize_to(language_model, tmp_path / "q", recipe, data=data, measure=0)
    found = engine.certify(tmp_path / "q", language_model, forward=False)
    assert found.certified, found.failures
    assert outcomes(found)["weights"] == "not run" and not any(proof.compared for proof in found.layers)
    engine.export(tmp_path / "q", tmp_path / "one.safetensors", format="safetensors")  # what is recorded is passed on
    assert outcomes(engine.certify(tmp_path / "one.safetensors", language_model))["weights"] == "not run"


def test_data_add_a_forward(artifact: Path, language_model: Path) -> None:
    data = engine.DataSpec(str(language_model / "evaluation.txt"), samples=4, length=64)
    found = engine.certify(artifact, language_model, data=data)
    assert found.evaluation is not None and found.evaluation.output_sqnr_db is not None
    assert 10 < found.evaluation.output_sqnr_db < 60


# Damaged ones


@pytest.mark.parametrize("place", ["codes", "scale", "kept", "shape"])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_found_and_its_tensor_named(place: str, bit: int, artifact: Path, language_model: Path) -> None:
    endings = {"codes": "_packed", "scale": "_scale", "kept": "norm.weight", "shape": "_shape"}
    path = artifact / "model.safetensors"
    tensor = next(t for t in read_header(str(path)).tensors if t.name.endswith(endings[place]))
    raw = bytearray(path.read_bytes())
    raw[tensor.offset + tensor.nbytes // 3] ^= 1 << bit
    path.write_bytes(raw)
    for found in (engine.certify(artifact), engine.certify(artifact, language_model)):
        assert not found.certified
        assert tensor.name in said(found) or tensor.name.removesuffix(".weight_shape") in said(found)


@pytest.mark.parametrize("ending", ["q_proj.weight_packed", "q_proj.weight_scale", "q_proj.weight_shape", "model.norm.weight"])
def test_a_missing_tensor_is_named(ending: str, artifact: Path, language_model: Path) -> None:
    names: list[str] = []

    def remove(tensors: dict[str, torch.Tensor]) -> None:
        names.append(next(name for name in tensors if name.endswith(ending)))
        del tensors[names[0]]

    rewritten(artifact / "model.safetensors", remove, checksums=True)
    found = engine.certify(artifact, language_model)
    assert not found.certified
    assert names[0].removesuffix("_packed").removesuffix("_scale").removesuffix("weight_shape").rstrip(".") in said(found)
    assert not engine.certify(artifact).certified


def test_a_wrong_scale_is_found_without_checksums(artifact: Path, language_model: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight_scale"
    rewritten(artifact / "model.safetensors", lambda tensors: tensors[name].mul_(2))
    found = engine.certify(artifact, language_model)
    assert outcomes(found)["bytes"] == "not run"
    assert outcomes(found)["weights"] == "failed" and "model.layers.1.mlp.up_proj" in said(found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -0.01])
def test_scales_must_be_positive_and_finite(bad: float, artifact: Path) -> None:
    name = "model.layers.0.self_attn.v_proj.weight_scale"
    rewritten(artifact / "model.safetensors", lambda tensors: tensors[name].view(-1)[3].fill_(bad))
    found = engine.certify(artifact)
    assert outcomes(found)["numbers"] == "failed" and name in said(found)


def test_codes_beyond_the_schemes_range(language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "q", "W8A8")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 4
    (tmp_path / "q" / "config.json").write_text(json.dumps(config))
    found = engine.certify(tmp_path / "q")
    assert outcomes(found)["numbers"] == "failed" and "int4" in said(found)


def test_without_quantization_status_readers_compute_garbage(artifact: Path) -> None:
    config = json.loads((artifact / "config.json").read_text())
    del config["quantization_config"]["quantization_status"]
    (artifact / "config.json").write_text(json.dumps(config))
    found = engine.certify(artifact)
    assert outcomes(found)["configuration"] == "failed" and "quantization_status" in said(found)


def test_static_activations_need_their_scales(language_model: Path, tmp_path: Path) -> None:
    data = engine.DataSpec(str(language_model / "calibration.txt"), samples=2, length=32)
    engine.quantize_to(language_model, tmp_path / "q", "W8A8_STATIC", data=data, measure=0)
    assert engine.certify(tmp_path / "q", language_model).certified
    name = "model.layers.2.mlp.down_proj.input_scale"
    rewritten(tmp_path / "q" / "model.safetensors", lambda tensors: tensors.pop(name) and None)
    assert name in said(engine.certify(tmp_path / "q"))


def test_another_models_artifact(digits: Path, artifact: Path, language_model: Path) -> None:
    found = engine.certify(artifact, digits / "model.safetensors")
    assert outcomes(found)["tensors"] == "failed" and "is missing" in said(found)


def test_what_cannot_be_opened_is_a_failed_certificate(artifact: Path, language_model: Path) -> None:
    path = artifact / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    found = engine.certify(artifact, language_model)
    assert outcomes(found) == {"opens": "failed"} and len(found.failures) == 1


@pytest.mark.parametrize("scheme", ["fp16", "bf16"])
def test_halves_are_the_source_rounded(scheme: str, make_file: Callable[..., Path], tmp_path: Path) -> None:
    values = torch.randn(64, 64) * torch.logspace(-6, 6, 64)  # some beyond float16, which saturates
    source = make_file({"layer.weight": values})
    engine.quantize_to(source, tmp_path / "q.safetensors", scheme)
    assert engine.certify(tmp_path / "q.safetensors", source).certified
    rewritten(tmp_path / "q.safetensors", lambda tensors: tensors["layer.weight"][5, 5].mul_(1.5))
    found = engine.certify(tmp_path / "q.safetensors", source)
    assert outcomes(found)["tensors"] == "failed" and "layer.weight" in said(found)


def test_a_quantized_layer_of_another_shape(make_file: Callable[..., Path], tmp_path: Path) -> None:
    engine.quantize_to(make_file({"layer.weight": torch.randn(64, 32)}), tmp_path / "q.safetensors", "int8:channel")
    found = engine.certify(tmp_path / "q.safetensors", make_file({"layer.weight": torch.randn(64, 64)}, "other.safetensors"))
    assert outcomes(found)["tensors"] == "failed" and "layer.weight has the shape [64, 32]" in said(found)


# The command line and the page


def test_commands_and_exit_codes(artifact: Path, language_model: Path, tmp_path: Path) -> None:
    good = run("certify", artifact, "--against", language_model, "--json", "--page", tmp_path / "page.html")
    document = json.loads(good.stdout)
    assert good.returncode == 0 and document["certified"] and len(document["layers"]) == 28
    assert {"checks", "layers", "sqnr_db", "consumers", "files", "versions"} <= document.keys()
    assert "is certified" in (tmp_path / "page.html").read_text()
    assert run("validate", artifact, "--no-forward").returncode == 0
    raw = bytearray((artifact / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (artifact / "model.safetensors").write_bytes(raw)
    bad = run("validate", artifact)
    assert bad.returncode == 3 and "not valid" in bad.stdout
    assert run("certify", artifact, "--against", language_model, "--json").returncode == 3
    missing = run("certify", artifact, "--against", tmp_path / "nowhere")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1
    assert run("validate", artifact, "--page", artifact).returncode == 2
    nowhere = run("validate", tmp_path / "nowhere")
    assert nowhere.returncode == 2 and "does not exist" in nowhere.stderr and nowhere.stderr.count("\n") == 1
    assert run("validate", Path(__file__)).returncode == 3


def test_names_from_a_file_are_text_on_the_page(make_file: Callable[..., Path]) -> None:
    path = make_file({"<script>alert(1)</script>.weight": torch.ones(4, 4)})
    page = certificate_page.page(engine.certify(path, path))
    assert "<script" not in page


# Checksums


def test_checksums_weigh_words_by_splitmix64() -> None:
    for place, number in enumerate(SPLITMIX):
        assert checksum.piece(place * 8, (1).to_bytes(8, "little")) == number | 1


@pytest.mark.parametrize("backend", [kernels, reference])
def test_pieces_add_up_in_any_order(backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.numerics.backend", lambda: backend)
    draw = np.random.default_rng(3)
    raw = draw.integers(0, 256, 5003, dtype=np.uint8).tobytes()
    expected = sum(int.from_bytes(raw[8 * j : 8 * j + 8], "little") * (_splitmix(j) | 1) for j in range(-(-len(raw) // 8))) % (
        1 << 64
    )
    cuts = [0, *sorted(draw.integers(0, len(raw), 40).tolist()), len(raw)]
    pieces = [(a, raw[a:b]) for a, b in pairwise(cuts)]
    assert sum(checksum.piece(start, data) for start, data in reversed(pieces)) & checksum.MASK == expected


def _splitmix(j: int) -> int:
    mask = (1 << 64) - 1
    z = (j + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


# A forward of its own


def forward(certificate: engine.Certificate) -> engine.Check:
    return next(check for check in certificate.checks if check.name == "forward")


@pytest.mark.parametrize("scheme", ["W4A16", "W8A8", "FP8_DYNAMIC", "MXFP4", "NVFP4A16"])
def test_transformers_computes_the_same_from_the_file(scheme: str, language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "q", scheme)
    found = forward(engine.certify(tmp_path / "q"))
    assert (found.outcome, found.failures) == ("passed", ()) and "compressed-tensors" in found.said


def test_what_transformers_computes_otherwise_is_not_certified(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = hugging_face.as_stored

    def other(path: str) -> torch.nn.Module:
        module = load(path)
        with torch.no_grad():
            module.get_input_embeddings().weight.copy_(module.get_input_embeddings().weight.roll(1, 0))
        return module

    monkeypatch.setattr(hugging_face, "as_stored", other)
    found = engine.certify(artifact)
    assert not found.certified and forward(found).outcome == "failed" and "dB from those of the decoded weights" in said(found)

    def fails(path: str) -> torch.nn.Module:
        raise engine.InputError(f"{path} cannot be run by transformers: KeyError.")

    monkeypatch.setattr(hugging_face, "as_stored", fails)
    found = engine.certify(artifact)
    assert not found.certified and "cannot be run by transformers" in said(found)
    assert engine.certify(artifact, forward=False).certified


def test_where_no_forward_can_be_run_it_is_said(language_model: Path, make_file: Callable[..., Path], tmp_path: Path) -> None:
    path = make_file({"a.weight": torch.randn(64, 64)})
    engine.quantize_to(path, tmp_path / "q.safetensors", "int8:channel")
    assert forward(engine.certify(tmp_path / "q.safetensors")).outcome == "not run"
    engine.quantize_to(language_model, tmp_path / "asym", "W4A16_ASYM")
    found = forward(engine.certify(tmp_path / "asym"))
    assert found.outcome == "not run" and "known not to load it" in found.said


@pytest.mark.parametrize("scheme", ["MXFP4", "W8A8"])
def test_an_artifact_alone_is_evaluated_with_its_activations(scheme: str, language_model: Path, tmp_path: Path) -> None:
    engine.quantize_to(language_model, tmp_path / "q", scheme)
    data = [{"input_ids": torch.arange(1, 129)[None]}]
    alone = engine.evaluate(tmp_path / "q", data)
    beside = engine.evaluate(tmp_path / "q", data, original=language_model)
    assert alone.quantized.perplexity == pytest.approx(beside.quantized.perplexity)
    assert beside.original and alone.quantized.perplexity != pytest.approx(beside.original.perplexity)


# Clipping and ties


def test_rounding_to_nearest_clips_nothing_and_a_smaller_scale_does(make_file: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = make_file({"a.weight": torch.randn(64, 256)})
    out = tmp_path / "q.safetensors"
    engine.quantize_to(source, out, "int4:g128")
    assert [proof.clipped for proof in engine.certify(out, source).layers] == [0.0]
    rewritten(out, lambda tensors: tensors["a.weight_scale"].mul_(0.5))
    found = engine.certify(out, source)
    w, scale = load_file(source)["a.weight"].view(64, 2, 128), load_file(out)["a.weight_scale"][..., None]
    share = int(((w / scale > 7.56) | (w / scale < -8.57)).sum()) / w.numel()  # half a step, and 2**-7 of it
    assert found.layers[0].clipped == pytest.approx(share, abs=0.002) and share > 0.02
    assert not found.certified and "rounding to nearest clips none" in said(found)
    engine.quantize_to(source, out, replace(engine.recipe("int4:g128"), algorithm="mse"), overwrite=True)
    found = engine.certify(out, source)
    assert found.certified and found.layers[0].clipped


def test_embeddings_and_head_that_were_retied(language_model: Path, artifact: Path) -> None:
    config = json.loads((artifact / "config.json").read_text())
    config["tie_word_embeddings"] = not config.get("tie_word_embeddings")
    (artifact / "config.json").write_text(json.dumps(config))
    found = engine.certify(artifact, language_model)
    assert not found.certified and "tie_word_embeddings" in said(found)


@pytest.mark.parametrize(
    "scheme",
    [
        "int4:g32",
        "int4:g32:asym",
        "int3:channel:asym",
        "int8:channel",
        "int8:tensor",
        "fp8_e4m3:b16x32",
        "mxfp4",
        "mxfp8",
        "nvfp4",
    ],
)
def test_the_second_reader_decodes_rows_as_it_decodes_the_whole(
    scheme: str, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    weight = torch.randn(1100, 96, generator=torch.Generator().manual_seed(1)) * 0.05
    recipe = engine.recipe_from_text(f'scheme = "{scheme}"\nbuiltin = false')
    engine.quantize_to(make_file({"a.weight": weight.bfloat16()}), tmp_path / "out.safetensors", recipe, record=False)
    (layer,) = engine.open_model(tmp_path / "out.safetensors").layers
    with TensorFiles(engine.open_model(tmp_path / "out.safetensors")) as files:
        stored = {role_of(part.name): (part.dtype, torch.from_numpy(files.read(part))) for part in layer.parts}
    named = parse_scheme(layer.scheme or "")
    whole = second_reader.decode(named, (1100, 96), stored)
    found = [second_reader.decode_rows(named, (1100, 96), stored, first, min(32, 1100 - first)) for first in range(0, 1100, 32)]
    assert whole is not None and torch.equal(torch.cat([piece for piece in found if piece is not None]), whole)
