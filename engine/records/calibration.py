"""Running a model on data: what to run it on, what it needs, and what was seen."""

from dataclasses import dataclass
from typing import Literal

DataKind = Literal["arrays", "images", "text", "table", "synthetic", "iterable"]
DATA_KINDS: tuple[DataKind, ...] = ("arrays", "images", "text", "table", "synthetic", "iterable")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Calibration or evaluation data as the user chose it; with the same files it gives the same samples in the same order.

    path      file or folder; "" for synthetic data
    kind      one of ``DATA_KINDS``; "" to find out from the path
    samples   how many are drawn (0: all), with ``seed``; ``batch`` of them go into one forward
    length    tokens of a text sample; None for the model's own length, at most 2048
    packed    texts joined and cut into samples of equal length; else each text is a sample, cut at ``length``
    chat      texts are conversations, put through the tokenizer's chat template
    column    key of the text in JSONL, or columns of a table (comma separated)
    labels    array, key or column that holds the labels
    skip_bad  leave out samples that cannot be read, by name; else the first one stops
    """

    path: str = ""
    kind: str = ""
    samples: int = 128
    seed: int = 0
    batch: int = 8
    length: int | None = None
    packed: bool = True
    chat: bool = False
    column: str = ""
    labels: str = ""
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class InputInfo:
    """One argument of a model's forward.

    role      tokens (ids), mask, pixels, or tensor
    shape     without the batch; None where any size will do
    low, high limits of valid values (token ids: 0 and vocabulary - 1), where known
    required  whether the forward has no default for it
    """

    name: str
    role: Literal["tokens", "mask", "pixels", "tensor"]
    dtype: str = "F32"
    shape: tuple[int | None, ...] | None = None
    low: float | None = None
    high: float | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """What a model's forward takes. ``folder`` holds a tokenizer or preprocessor configuration where there is one.

    ``known`` is False when nothing but argument names could be learnt, so that data decide the shapes.
    """

    arguments: tuple[InputInfo, ...]
    folder: str = ""
    known: bool = True
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class InputPreview:
    """One input of the first batch: its type, shape, range; ``samples`` are a few of its values in words."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DataPreview:
    """What was read: ``count`` of ``available`` samples chosen.

    ``outputs`` and ``seconds`` are those of one forward of one batch, when it was run.
    """

    title: str
    kind: str
    count: int
    available: int
    synthetic: bool
    labelled: bool
    inputs: tuple[InputPreview, ...]
    skipped: tuple[Skipped, ...] = ()
    outputs: tuple[str, ...] = ()
    seconds: float | None = None
    unmatched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Activity:
    """What one layer's input was, over the samples that reached it (``samples`` = 0: never reached).

    low, high    least and greatest value; ``low_sample`` and ``high_sample`` are the samples, by their index in the data, that
                 set them
    counts       histogram of 128 bins over [low, high]
    steps, step_lows, step_highs   range after so many samples: has it converged?
    converged    share of the final range that the first half of the samples already covered, 0 to 1
    """

    name: str
    samples: int
    low: float = 0.0
    high: float = 0.0
    low_sample: int = -1
    high_sample: int = -1
    counts: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    step_lows: tuple[float, ...] = ()
    step_highs: tuple[float, ...] = ()
    converged: float = 0.0


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """Which data a model was run on, and what its layers' inputs were."""

    model: str
    data: str
    kind: str
    synthetic: bool
    samples: int
    seed: int
    data_hash: str
    input_hash: str
    layers: tuple[Activity, ...]
    skipped: tuple[Skipped, ...] = ()
    unmatched: tuple[str, ...] = ()
    seconds: float = 0.0
    path: str = ""

    @property
    def unreached(self) -> tuple[str, ...]:
        """Layers that no sample reached."""
        return tuple(layer.name for layer in self.layers if not layer.samples)


@dataclass(frozen=True, slots=True)
class Scores:
    """How one model does on data. ``accuracy`` in 0 to 1; ``perplexity`` per token; None where data have no such thing."""

    accuracy: float | None = None
    perplexity: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A quantized model beside the float one, on the same data.

    output_sqnr_db  10*log10(sum y^2 / sum (y - y')^2) of the outputs; None when they are equal
    agreement       share of predictions (largest logit) that are the same, 0 to 1
    kl_divergence   mean of sum p * ln(p / p') over predictions, in nats
    """

    data: str
    samples: int
    predictions: int
    synthetic: bool
    quantized: Scores
    original: Scores | None = None
    output_sqnr_db: float | None = None
    agreement: float | None = None
    kl_divergence: float | None = None
    seconds: float = 0.0
