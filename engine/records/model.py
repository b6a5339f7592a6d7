"""What is in the files: tensors, layers, ties. Read from headers alone."""

from dataclasses import dataclass, field
from typing import Any, Literal

from engine.records.dtypes import numel

Kind = Literal["linear", "conv1d", "conv2d", "conv3d", "transposed", "embedding", "experts", "norm", "bias", "other"]
KINDS: tuple[Kind, ...] = (
    "linear", "conv1d", "conv2d", "conv3d", "transposed", "embedding", "experts", "norm", "bias", "other",
)  # fmt: skip
Source = Literal["safetensors", "folder", "state_dict", "exported", "pickled", "module"]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file as it was when opened; a run checks that it is still the same."""

    path: str
    nbytes: int
    inode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one stored tensor lies: ``nbytes`` at byte ``offset`` of ``summary.files[file]``.

    ``strides`` (in elements) is set only when the elements are not in row-major order in the file; the
    bytes then cover the whole storage.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: int
    offset: int
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One stored tensor seen as part of a network, or one quantized weight with its parts.

    ``shape`` and ``dtype`` describe the weight as a module sees it; ``axis`` is its output axis (``experts`` are
    so many matrices, one behind the other along axis 0). ``guessed``
    marks a kind inferred from names and shapes. A quantized layer names its ``scheme`` and has several parts.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[TensorInfo, ...]
    axis: int = 0
    guessed: bool = False
    scheme: str | None = None
    tied: tuple[str, ...] = ()

    @property
    def tensor(self) -> TensorInfo:
        """The stored tensor of a layer that is not quantized."""
        return self.parts[0]

    @property
    def parameters(self) -> int:
        return numel(self.shape)

    @property
    def nbytes(self) -> int:
        return self.parts[0].nbytes if len(self.parts) == 1 else sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Quantized:
    """How a checkpoint was quantized before: the method, and whether this engine can decode it."""

    method: str
    readable: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model on disk. ``path`` is what the user opened; ``carried`` are a folder's other files."""

    path: str
    source: Source
    files: tuple[FileInfo, ...]
    layers: tuple[LayerInfo, ...]
    config: dict[str, Any] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    quantized: Quantized | None = None
    carried: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Elements of all weights (of a quantized layer: of the weight it stands for)."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors, without headers."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def name(self) -> str:
        return self.path.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
