"""From a picture to what a model takes: size, crop, range and normalisation, as the model's preprocessor configuration says.

Without one: the shorter side to 256/224 of the model's size, the middle cut out, values in [0, 1]; three channels are normalised
with the mean and deviation of ImageNet, as torchvision's and most other classifiers are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError
from engine.readers.text import read_json
from engine.records.calibration import InputInfo

if TYPE_CHECKING:
    from PIL import Image

CONFIGURATIONS = ("preprocessor_config.json", "processor_config.json")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
BILINEAR = 2
WARPED = 384
"""From this size on, processors with ``crop_pct`` change the proportions instead of cropping (Liu et al. 2022, ConvNeXt)."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class Processing:
    """Steps in this order: resize, crop, scale, normalise.

    size      (height, width), or one number for the shorter side; ``longest`` limits the other one
    crop      (height, width) of the middle, zeros around smaller images
    scale     what bytes are multiplied by; then 1 is subtracted if ``offset``
    flipped   blue first; ``last``: channels are the last axis
    """

    channels: int = 3
    size: tuple[int, int] | int | None = None
    longest: int | None = None
    resample: int = BILINEAR
    crop: tuple[int, int] | None = None
    scale: float = 1.0
    offset: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flipped: bool = False
    last: bool = False
    note: str = ""

    def __call__(self, image: Image.Image) -> np.ndarray:
        """float32, (channels, height, width), or channels last."""
        image = _in_mode(image, self.channels)
        if self.size is not None:
            height, width = self._target(image.height, image.width)
            image = image.resize((width, height), self.resample)
        pixels = np.asarray(image).reshape(image.height, image.width, self.channels)
        if self.crop:
            pixels = _middle(pixels, self.crop)
        values = pixels.astype(np.float32) * np.float32(self.scale)
        if self.offset:
            values -= 1
        if self.mean:
            values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.flipped:
            values = values[..., ::-1]
        return np.ascontiguousarray(values if self.last else np.moveaxis(values, -1, 0))

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        size = self.size or short
        ratio = long / short
        if self.longest and ratio * size > self.longest:
            exact = self.longest / ratio
            size, other = round(exact), int(exact * long / short)
        else:
            other = int(size * long / short)
        size, other = max(1, size), max(1, other)
        return (other, size) if width <= height else (size, other)


def _in_mode(image: Image.Image, channels: int) -> Image.Image:
    """In the model's colours, 8 bits each. Pillow would clip 16-bit greys instead of scaling them."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    # Pillow warns of palettes with transparency that are converted at once.
    if "transparency" in image.info or image.mode == "P":
        image = image.convert("RGBA")
    return image.convert(_MODES[channels])


def _middle(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    spare = [max(0, want - have) for want, have in zip(size, pixels.shape, strict=False)]
    if any(spare):
        before = [(extra + 1) // 2 for extra in spare]
        pixels = np.pad(pixels, [*((b, extra - b) for b, extra in zip(before, spare, strict=True)), (0, 0)])
    top, left = (pixels.shape[0] - size[0]) // 2, (pixels.shape[1] - size[1]) // 2
    return pixels[top : top + size[0], left : left + size[1]]


def processing_for(info: InputInfo, folder: str) -> Processing:
    """How images are made ready for this argument. Raises InputError."""
    channels, height, width, last = _layout(info)
    for name in CONFIGURATIONS if folder else ():
        path = os.path.join(folder, name)
        config = _configuration(path)
        if config:
            return _from_config(config, path, channels, last)
    size = (height or width or SIZE, width or height or SIZE)
    resized = max(size) * 256 // 224
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((), ())
    note = "scaled to [0, 1]" + (", normalised as for ImageNet" if mean else "")
    return Processing(channels, resized, crop=size, scale=1 / 255, mean=mean, std=std, last=last, note=note)


def _layout(info: InputInfo) -> tuple[int, int | None, int | None, bool]:
    """Channels, height, width, and whether channels come last."""
    shape = info.shape
    if shape is None:
        return 3, None, None, False
    if len(shape) == 3 and shape[0] in _MODES:
        return shape[0] or 3, shape[1], shape[2], False
    if len(shape) == 3 and shape[2] in _MODES:
        return shape[2] or 3, shape[0], shape[1], True
    if len(shape) == 3 and shape[0] is None:
        return 3, shape[1], shape[2], False
    sizes = "×".join("?" if size is None else str(size) for size in shape)
    raise InputError(f"The model's input {info.name} is {sizes}, which is no image of 1, 3 or 4 channels; give arrays.")


def _configuration(path: str) -> dict[str, Any] | None:
    if not os.path.exists(path):
        return None
    found: Any = read_json(path)
    found = found.get("image_processor", found)
    return found if isinstance(found, dict) and ("size" in found or "image_mean" in found or "do_resize" in found) else None


def _from_config(config: Mapping[str, Any], path: str, channels: int, last: bool) -> Processing:
    try:
        return _processing(config, path, channels, last)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path} does not say how to prepare images ({error}); mend or remove it.") from None


def _processing(config: Mapping[str, Any], path: str, channels: int, last: bool) -> Processing:
    size, longest, crop = None, None, None
    if config.get("do_resize", "size" in config):
        # An image processor's class says what a single number means; those of today write out names.
        size, longest = _size(config.get("size", SIZE), square="crop_pct" not in config and not config.get("do_center_crop"))
    if config.get("do_center_crop"):
        cropped, _ = _size(config.get("crop_size") or config["size"], square=True)
        crop = cropped if isinstance(cropped, tuple) else None
    if config.get("crop_pct") and isinstance(size, int) and size < WARPED:
        size, crop = int(size / config["crop_pct"]), (size, size)
    elif config.get("crop_pct") and isinstance(size, int):
        size = (size, size)
    mean, std = (), ()
    # transformers leaves the key out where a class does not normalise, and writes means all the same.
    if config.get("do_normalize", "image_mean" in config and "image_processor_type" not in config):
        mean = _per_channel(config.get("image_mean"), IMAGENET_MEAN, channels)
        std = _per_channel(config.get("image_std"), IMAGENET_STD, channels)
        if config.get("include_top"):  # EfficientNet's classifiers are given images divided by the deviation twice
            std = tuple(value * value for value in std)
        if 0.0 in std:
            raise ValueError("image_std is 0")
    resample = config.get("resample", BILINEAR)
    if type(resample) is not int or not 0 <= resample <= 5:
        raise ValueError(f"resample is {resample!r}")
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    return Processing(
        channels, size, longest, resample, crop, scale,
        bool(config.get("rescale_offset") or config.get("offset")), mean, std, bool(config.get("do_flip_channel_order")), last,
        f"prepared as {os.path.basename(path)} says",
    )  # fmt: skip


def _size(value: Any, *, square: bool) -> tuple[tuple[int, int] | int | None, int | None]:
    """(height, width) or the shorter side; and the limit of the longer one."""
    if isinstance(value, Mapping):
        if value.get("height") and value.get("width"):
            return (_whole(value["height"]), _whole(value["width"])), None
        if value.get("shortest_edge"):
            return _whole(value["shortest_edge"]), _whole(value["longest_edge"]) if value.get("longest_edge") else None
        raise ValueError(f"size is {dict(value)}")
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return (_whole(value[1]), _whole(value[0])), None  # old files: width first, as Pillow has it
    return ((_whole(value), _whole(value)) if square else _whole(value)), None


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 < value <= 1 << 16:
        raise ValueError(f"a size is {value!r}")
    return value


def _per_channel(value: Any, default: tuple[float, ...], channels: int) -> tuple[float, ...]:
    found = tuple(map(float, value)) if isinstance(value, (list, tuple)) else default if value is None else (float(value),)
    found = found * channels if len(found) == 1 else found
    if len(found) != channels and value is None:
        found = (sum(found) / len(found),) * channels
    if len(found) != channels:
        raise ValueError(f"{len(found)} means or deviations for {channels} channels")
    return found
