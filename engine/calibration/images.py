"""A folder of images, through Pillow. Sub-folders may be classes.

Every chosen image is decoded when the data are opened, so that a damaged one is known by its name before anything runs; decoded
images are kept up to ``KEPT`` bytes, and the rest are read again.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

from engine.calibration.batches import words
from engine.calibration.image_processing import CONFIGURATIONS, Processing, processing_for
from engine.calibration.samples import BadSample, Raw, Reader, Samples, draw
from engine.errors import DataError, InputError
from engine.readers.source import file_info
from engine.records.calibration import DataSpec, InputInfo, ModelInputs, Skipped

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
FOLDERS = "folders"
"""What ``labels`` says when sub-folders are classes, numbered in the order of their names."""
KEPT = 256 << 20


class ImageSamples(Samples):
    """Files by number, in the order of their names."""

    noun = "images"

    def __init__(
        self, images: _Images, chosen: list[int], skipped: list[Skipped], labels: list[int] | None, argument: str
    ) -> None:
        names = images.names
        super().__init__(len(names), chosen, skipped, labels is not None)
        self._names, self._labels, self._images, self._argument = names, labels, images, argument
        shape = words(images.read(chosen[0]).shape)
        self.detail = f"{shape}, {images.processing.note}"
        self.files = tuple(os.path.join(images.root, names[index]) for index in chosen)
        self.extra = f"{names} {images.processing}"

    def load(self, indices: tuple[int, ...]) -> Raw:
        import torch

        values = [self._sound(index) for index in indices]
        for index, value in zip(indices, values, strict=True):
            if value.shape != values[0].shape:
                raise DataError(
                    f"{self._names[index]} becomes {words(value.shape)} and {self._names[indices[0]]} {words(values[0].shape)}; "
                    "images of different sizes need a batch of 1."
                )
        labels = None if self._labels is None else torch.tensor([self._labels[index] for index in indices])
        return Raw({self._argument: torch.from_numpy(np.stack(values))}, labels)

    def _sound(self, index: int) -> np.ndarray:
        try:
            return self._images.read(index)
        except BadSample as error:  # it could be read when the data were opened
            raise DataError(f"{self._names[index]} was changed after the data were opened: {error}.") from None

    def words(self, name: str, index: int, value: torch.Tensor) -> str:
        label = "" if self._labels is None else f" (class {self._labels[index]})"
        return f"{self._names[index]}{label}"


class _Images:
    """Files decoded and made ready."""

    def __init__(self, root: str, names: list[str], processing: Processing) -> None:
        self.processing = processing
        self.root, self.names = root, names
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0

    def read(self, index: int) -> np.ndarray:
        """float32, (channels, height, width). Raises BadSample."""
        found = self._kept.get(index)
        if found is None:
            found = self._decode(os.path.join(self.root, self.names[index]))
            if self._bytes + found.nbytes <= KEPT:
                self._kept[index] = found
                self._bytes += found.nbytes
        return found

    def examine(self, index: int) -> None:
        """Raises BadSample."""
        self.read(index)

    def _decode(self, path: str) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            file_info(path)  # a pipe would keep its reader waiting
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=FORMATS) as image:
                    return self.processing(ImageOps.exif_transpose(image))
        except InputError:
            raise BadSample("it is no regular file, or cannot be opened") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise BadSample(f"it has more pixels than are safe to decode ({Image.MAX_IMAGE_PIXELS or 0:,})") from None
        except Exception as error:  # Pillow raises whatever a damaged file leads to
            raise BadSample(f"it is no image that can be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    import PIL

    if isinstance(error, PIL.UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def open_images(spec: DataSpec, inputs: ModelInputs) -> Samples:
    """Images of a folder and its sub-folders, or a single one. Raises InputError, DataError."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise InputError("Images need the package Pillow, which is not installed; install mono-quant-gui[hf].") from None
    root, names = _list(spec.path)
    info = _argument(spec, inputs)
    labels = _classes(spec, names)
    images = _Images(root, names, processing_for(info, inputs.folder))
    found, skipped = draw(len(names), spec, images.examine, lambda index: names[index])
    samples = ImageSamples(images, list(found), skipped, labels, info.name)
    configured = (os.path.join(inputs.folder, name) for name in CONFIGURATIONS if inputs.folder)
    samples.files += tuple(path for path in configured if os.path.exists(path))
    return samples


def _argument(spec: DataSpec, inputs: ModelInputs) -> InputInfo:
    """The argument that images go to: the one of pixels, else the first."""
    found = [info for info in inputs.arguments if info.role == "pixels"] or [i for i in inputs.arguments if i.role == "tensor"]
    if not found and inputs.arguments:
        takes = ", ".join(info.name for info in inputs.arguments)
        raise InputError(f"{spec.path} holds images, but the model takes none ({takes}); give data of the kind it takes.")
    return found[0] if found else InputInfo("image", "pixels")


def _list(path: str) -> tuple[str, list[str]]:
    """The folder and the images in it, sorted by their names with "/" between folders."""
    if not os.path.isdir(path):
        if not path.lower().endswith(SUFFIXES):
            raise InputError(f"{path} is neither a folder nor an image ({', '.join(SUFFIXES)}).")
        return os.path.dirname(path) or ".", [os.path.basename(path)]

    def stop(error: OSError) -> None:
        raise InputError(f"Cannot read the folder {error.filename}: {error.strerror}.") from None

    names: list[str] = []
    for folder, inner, files in os.walk(path, onerror=stop):
        inner[:] = [name for name in inner if not name.startswith(".")]
        here = os.path.relpath(folder, path).replace(os.sep, "/")
        before = "" if here == "." else f"{here}/"
        names.extend(f"{before}{name}" for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    if not names:
        raise InputError(f"{path} has no images in it ({', '.join(SUFFIXES)}).")
    return path, sorted(names)


def _classes(spec: DataSpec, names: list[str]) -> list[int] | None:
    if not spec.labels:
        return None
    if spec.labels != FOLDERS:
        raise InputError(f"Labels of images can only be {FOLDERS!r} (one sub-folder per class), not {spec.labels!r}.")
    loose = next((name for name in names if "/" not in name), None)
    if loose is not None:
        raise DataError(f"{spec.path}: {loose} is in no sub-folder, so its class is not known; move it into one.")
    classes = sorted({name.split("/", 1)[0] for name in names})
    return [classes.index(name.split("/", 1)[0]) for name in names]


READER = Reader("images", "Images", SUFFIXES, lambda path: os.path.isdir(path) or path.lower().endswith(SUFFIXES), open_images)
