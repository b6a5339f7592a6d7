"""What is seen of one layer before, or beside, a run: a scheme tried on it, and where its error lies."""

from dataclasses import dataclass

from engine.records.report import ChannelRanges, LayerReport


@dataclass(frozen=True, slots=True)
class Trial:
    """One scheme tried on one layer, in memory.

    report       as a run would report it; of a sample, histogram counts are scaled up to the whole layer
    rows         how many rows were quantized; all of them when ``exact``
    expected_db  SQNR that this scheme gives a Gaussian weight of the same shape; None where it loses nothing
    levels       representable values of the group whose step is the median one; empty when there are more than 256
    problem      why this scheme cannot be applied to this layer; then there is no report
    """

    layer: str
    scheme: str
    algorithm: str
    rows: int = 0
    exact: bool = True
    report: LayerReport | None = None
    expected_db: float | None = None
    levels: tuple[float, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Outlier:
    """One of the largest weights: its index, what it decodes to (None before quantization), and how many standard deviations
    it lies from the mean."""

    index: tuple[int, ...]
    value: float
    quantized: float | None
    sigmas: float


@dataclass(frozen=True, slots=True)
class WeightFigures:
    """Figures of one layer's float weights: least, greatest, mean, standard deviation, excess kurtosis over a Gaussian's, and by
    how many standard deviations the furthest lies from the mean. ``note`` says why there are none."""

    layer: str
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    kurtosis: float = 0.0
    sigmas: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that may mend a layer: a scheme and an algorithm to put in its rule."""

    words: str
    scheme: str
    algorithm: str = "rtn"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a layer falls short of a Gaussian one, in a sentence, and what may help; without a cause there is nothing to mend."""

    cause: str = ""
    words: str = ""
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerDetail:
    """Where the error of one layer lies.

    ranges       least and greatest weight of each band of channels
    sqnr_db      SQNR of each band; None where it is exact. Empty when nothing was quantized
    image        mean |error| of cells of ``cell_rows`` by ``cell_cols`` weights, row by row, as 0 to 255 of ``image_high``,
                 base64; empty when nothing was quantized
    underflow_counts  of the 256 bins of the layer's histogram: nonzero weights that decode to zero
    underflow, clipped  shares of all weights, 0 to 1
    mean, std, kurtosis  of the weights; the kurtosis is the excess over a Gaussian's
    levels       representable values, as in ``Trial``
    """

    layer: str
    rows: int
    cols: int
    ranges: ChannelRanges
    sqnr_db: tuple[float | None, ...]
    image: str
    image_shape: tuple[int, int]
    cell_rows: int
    cell_cols: int
    image_high: float
    outliers: tuple[Outlier, ...]
    limit: float
    underflow_counts: tuple[int, ...]
    underflow: float
    mean: float
    std: float
    kurtosis: float
    note: str = ""
    levels: tuple[float, ...] = ()
