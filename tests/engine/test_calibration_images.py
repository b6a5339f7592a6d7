"""Images: against transformers' own image processors, numpy and Pillow used by hand."""

import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from engine.calibration.data import Data, open_data
from engine.errors import DataError, InputError
from engine.records.calibration import DataSpec, InputInfo, ModelInputs


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth colours with some noise, as photographs have."""
    rng = np.random.RandomState(seed)
    small = Image.fromarray(rng.randint(0, 256, (5, 5, 3)).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = (np.asarray(small).astype(int) + rng.randint(-9, 10, (height, width, 3))).clip(0, 255).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def takes(*shape: int | None, folder: Path | str = "", dtype: str = "F32") -> ModelInputs:
    return ModelInputs((InputInfo("pixel_values", "pixels", dtype, shape),), str(folder))


def read(data: Data) -> torch.Tensor:
    return torch.cat([batch.keywords["pixel_values"] for batch in data.batches()])


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


PROCESSORS = {
    "vit": lambda: ViTImageProcessorPil(size={"height": 32, "width": 48}),
    "clip": lambda: CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "odd_crop": lambda: CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 31, "width": 33}),
    "small": lambda: CLIPImageProcessorPil(do_resize=False, crop_size={"height": 90, "width": 90}),
    "convnext": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
    "warped": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "mobilevit": lambda: MobileViTImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "efficientnet": lambda: EfficientNetImageProcessorPil(size={"height": 32, "width": 32}),
    "offset": lambda: EfficientNetImageProcessorPil(
        size={"height": 32, "width": 32}, rescale_factor=1 / 127.5, rescale_offset=True, include_top=False
    ),
    "bounded": lambda: ViTImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 50}),
    "raw": lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False),
    "nearest": lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=0),
}  # fmt: skip


@pytest.mark.parametrize("size", [(80, 60), (57, 83)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_images_are_prepared_as_transformers_prepares_them(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    processor: Any = PROCESSORS[name]()
    processor.save_pretrained(tmp_path / "model")
    pixels = noise(*size)
    write(tmp_path / "images" / "a.png", pixels)
    expected = torch.from_numpy(processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"])
    data = open_data(tmp_path / "images", takes(3, None, None, folder=tmp_path / "model"))
    value = read(data)
    assert value.dtype == torch.float32 and value.shape == expected.shape
    assert torch.allclose(value, expected.float(), atol=1e-5, rtol=1e-5)
    assert "preprocessor_config.json" in data.title


def test_old_and_nested_configurations(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", noise(80, 60))
    model = tmp_path / "model"
    model.mkdir()
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": 32}
    expected = ViTImageProcessorPil(size={"height": 32, "width": 32})(Image.fromarray(noise(80, 60)), return_tensors="pt")
    for name, content in (("preprocessor_config.json", old), ("processor_config.json", {"image_processor": old})):
        for path in model.iterdir():
            path.unlink()
        (model / name).write_text(json.dumps(content))
        value = read(open_data(tmp_path / "images", takes(3, 32, 32, folder=model)))
        assert torch.allclose(value, expected["pixel_values"].float(), atol=1e-5)


@pytest.mark.parametrize(
    "content",
    ["{", '{"size": {"width": 3}}', '{"size": -1}',
     '{"size": 8, "do_normalize": true, "image_std": 0.0}', '{"size": 8, "resample": "cubic"}',
     '{"size": 8, "do_normalize": true, "image_mean": [1, 2]}', '{"size": 100000000}'],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense(tmp_path: Path, content: str) -> None:
    write(tmp_path / "images" / "a.png", noise(80, 60))
    (tmp_path / "preprocessor_config.json").write_text(content)
    assert "preprocessor_config.json" in refused(lambda: open_data(tmp_path / "images", takes(3, 8, 8, folder=tmp_path)))


def test_without_a_configuration_the_middle_is_normalised_as_for_imagenet(tmp_path: Path) -> None:
    image = Image.fromarray(noise(112, 96))
    image.save(tmp_path / "a.png")
    resized = np.asarray(image.resize((74, 64), Image.Resampling.BILINEAR), np.float64)  # 56·256/224 = 64; 64·112/96 = 74.67
    expected = (resized[4:60, 9:65] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    data = open_data(tmp_path, takes(3, 56, 56))
    assert np.allclose(read(data)[0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    assert "ImageNet" in data.title and data.title.startswith("1 of 1 image (128 were asked for), 3×56×56")
    last = ModelInputs((InputInfo("pixel_values", "pixels", "F32", (56, 56, 3)),))
    assert np.allclose(read(open_data(tmp_path, last))[0].numpy(), expected, atol=1e-5)
    assert read(open_data(tmp_path, takes(3, None, None))).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("pixels", [noise(64, 64, channels=1), noise(64, 64, channels=1).astype(np.uint16) * 256 + 77])
def test_grey_images_of_eight_and_sixteen_bits(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    value = read(open_data(tmp_path, takes(1, 56, 56, dtype="BF16")))
    grey = Image.fromarray((pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels)
    expected = np.asarray(grey.resize((64, 64), Image.Resampling.BILINEAR), np.float32)[4:60, 4:60] / 255
    assert value.dtype == torch.bfloat16 and torch.equal(value[0, 0], torch.from_numpy(expected).bfloat16())


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "L", "CMYK"])
def test_colours_of_every_kind_become_the_models(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(64, 64)).convert(mode)
    suffix = "jpg" if mode == "CMYK" else "png"
    image.save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as saved:
        plain = np.asarray(saved.convert("RGB"), np.float64)[4:60, 4:60]
    expected = (plain / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(read(open_data(tmp_path, takes(3, 56, 56)))[0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_a_photograph_taken_sideways_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° to the left: shown, its top is the left column as stored
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    value = read(open_data(tmp_path, takes(3, 56, 56)))[0, 0]
    assert bool((value[:20] > 2).all()) and bool((value[-20:] < -2).all())


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "gif", "PNG"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a.{suffix}", noise(20, 20))
    (tmp_path / "notes.md").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    assert open_data(tmp_path, takes(3, 8, 8)).available == 1
    assert open_data(tmp_path / f"a.{suffix}", takes(3, 8, 8)).count == 1


# -- folders ----------------------------------------------------------------------------------------------------


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for place, name in enumerate(("dog/2.png", "cat/sub/1.png", "cat/0.png", "ant/z.png")):
        write(tmp_path / name, noise(20, 20, place))
    data = open_data(DataSpec(str(tmp_path), samples=0, labels="folders"), takes(3, 8, 8))
    (batch,) = data.batches()
    assert batch.labels is not None and batch.labels.tolist() == [0, 1, 1, 2]
    assert data.preview().inputs[0].samples == (
        "ant/z.png (class 0)", "cat/0.png (class 1)", "cat/sub/1.png (class 1)", "dog/2.png (class 2)",
    )  # fmt: skip
    assert not open_data(DataSpec(str(tmp_path)), takes(3, 8, 8)).labelled
    assert "can only be 'folders'" in refused(lambda: open_data(DataSpec(str(tmp_path), labels="x"), takes(3, 8, 8)))
    write(tmp_path / "loose.png", noise(20, 20))
    assert "loose.png is in no sub-folder" in refused(
        lambda: open_data(DataSpec(str(tmp_path), labels="folders"), takes(3, 8, 8))
    )


def test_a_draw_is_of_the_sorted_names(tmp_path: Path) -> None:
    for place in range(30):
        write(tmp_path / f"{place:02}.png", np.full((8, 8), place * 8, np.uint8))
    data = open_data(DataSpec(str(tmp_path), samples=9, seed=4, batch=4), takes(1, 8, 8))
    order = np.random.RandomState(4).permutation(30)[:9].tolist()
    assert list(data.indices) == order and [round(v * 255 / 8) for v in read(data).amax((1, 2, 3)).tolist()] == order
    assert [batch.indices for batch in data.batches()] == [tuple(order[:4]), tuple(order[4:8]), tuple(order[8:])]
    before = data.hash
    write(tmp_path / f"{order[0]:02}.png", np.full((8, 8), 3, np.uint8))
    assert open_data(data.spec, takes(1, 8, 8)).hash != before


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def cut(path: Path) -> bytes:
    return write(path, noise(200, 200)).read_bytes()[:20000]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda path: b"", "no image that can be read"),
        (lambda path: b"GIF but not really", "no image that can be read"),
        (cut, "no image that can be read"),
        (lambda path: png_claiming(60_000, 60_000), "more pixels than are safe"),
        (lambda path: png_claiming(10_000, 10_000), "more pixels than are safe"),
        (lambda path: png_claiming(200, 200), "no image that can be read"),
    ],
)
def test_a_bad_image_stops_or_is_left_out_by_name(tmp_path: Path, content: Callable[[Path], bytes], reason: str) -> None:
    for place in range(5):
        write(tmp_path / f"good{place}.png", noise(20, 20, place))
    (tmp_path / "bad.png").write_bytes(content(tmp_path / "bad.png"))
    message = refused(lambda: open_data(tmp_path, takes(3, 8, 8)))
    assert "bad.png" in message and reason in message
    data = open_data(DataSpec(str(tmp_path), skip_bad=True, samples=5), takes(3, 8, 8))
    assert [skipped.name for skipped in data.skipped] == ["bad.png"] and reason in data.skipped[0].reason
    assert sorted(data.indices) == [1, 2, 3, 4, 5] and data.title.startswith("5 of 6 images, 3×8×8") and len(read(data)) == 5


def test_folders_without_images_and_models_without_pixels(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images in it" in refused(lambda: open_data(tmp_path / "empty", takes(3, 8, 8)))
    write(tmp_path / "a.png", noise(8, 8))
    text = ModelInputs((InputInfo("input_ids", "tokens", "I64", (None,), 0, 9),))
    assert "takes none (input_ids)" in refused(lambda: open_data(tmp_path, text))
    assert "no image of 1, 3 or 4 channels" in refused(lambda: open_data(tmp_path, takes(7, 8, 8)))
    (tmp_path / "t.bin").write_text("x")
    assert "neither a folder nor an image" in refused(
        lambda: open_data(DataSpec(str(tmp_path / "t.bin"), kind="images"), takes(3, 8, 8))
    )


def test_an_image_that_changes_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.calibration import images

    monkeypatch.setattr(images, "KEPT", 0)
    path = write(tmp_path / "a.png", noise(20, 20))
    data = open_data(tmp_path, takes(3, 8, 8))
    assert read(data).shape == (1, 3, 8, 8)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png was changed after"):
        read(data)


def test_a_model_of_another_size_is_noticed(tmp_path: Path) -> None:
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    write(tmp_path / "images" / "a.png", noise(20, 20))
    with pytest.raises(DataError, match=r"3×16×16, but the model takes 3×8×8"):
        read(open_data(tmp_path / "images", takes(3, 8, 8, folder=tmp_path / "model")))


def test_without_pillow_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "Pillow, which is not installed; install mono-quant-gui[hf]" in refused(lambda: open_data(tmp_path, takes(3, 8, 8)))


def test_pixels_go_to_their_argument_wherever_it_stands(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(20, 20))
    two = ModelInputs((InputInfo("head_mask", "mask", required=False), InputInfo("pixel_values", "pixels", "F32", (3, 8, 8))))
    (batch,) = open_data(tmp_path, two).batches()
    assert list(batch.keywords) == ["pixel_values"] and not batch.arguments
