"""What a run did, layer by layer and in total."""

from dataclasses import dataclass

from engine.records.calibration import Activity, Evaluation


@dataclass(frozen=True, slots=True)
class Histogram:
    """256 bins on shared edges from ``-limit`` to ``limit``: counts of float, quantized and clipped weights."""

    limit: float
    float_counts: tuple[int, ...]
    quantized_counts: tuple[int, ...] = ()
    clipped_counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelRanges:
    """Least and greatest weight of each output channel, or of each run of ``channels_per_band`` channels."""

    channels_per_band: int
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OutputNoise:
    """Error of one layer's output over some samples.

    alone_db        SQNR of the output when this layer alone is quantized and its input is the float model's
    accumulated_db  SQNR when everything before it is quantized too; None when nothing is lost, or where it was not ``compared``:
                    experts are given other tokens then, and layers that are called another number of times cannot be
    cosine, mse     of the accumulated outputs (alone where there are none)
    clipping, rounding, inherited  power of the three parts of the accumulated error, relative to the output's: weights and
                    activations beyond their range, everything else that this layer adds, and what came with its input
    """

    alone_db: float | None
    accumulated_db: float | None = None
    cosine: float = 1.0
    mse: float = 0.0
    clipping: float = 0.0
    rounding: float = 0.0
    inherited: float = 0.0
    compared: bool = True


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One quantized layer.

    sqnr_db    10*log10(sum w^2 / sum (w - w')^2) with w' as a reader of the file decodes it; None when the error
               is exactly zero (lossless, or all weights zero)
    mse        mean of (w - w')^2, in squared weight units
    max_error  largest |w - w'|, in weight units
    clipped    share of weights more than half a step outside the code range (rounding of scales apart), 0 to 1
    signal, noise  the two sums behind ``sqnr_db``
    reason     why this algorithm, where one was chosen from a short list
    note       what had to be done to keep numbers finite; empty when nothing was
    objective, objective_rtn  ``‖(W - W')X‖²`` over the calibration data, and what round to nearest would have had
    output     what it does to the layer's output, where the model was run
    checksum   of the weight's bytes as they were read (``numerics.checksum``), in hexadecimal; empty in older reports
    """

    name: str
    scheme: str
    algorithm: str
    sqnr_db: float | None
    mse: float
    max_error: float
    clipped: float
    signal: float
    noise: float
    parameters: int
    bytes_before: int
    bytes_after: int
    seconds: float
    histogram: Histogram
    ranges: ChannelRanges
    reason: str = ""
    note: str = ""
    objective: float | None = None
    objective_rtn: float | None = None
    output: OutputNoise | None = None
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class LayerFailure:
    """One layer that could not be quantized, and the sentence that says why."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run. ``sqnr_db`` weighs every quantized weight alike: total signal over total noise.

    ``layers`` are the quantized ones in file order; ``recipe`` is the TOML that repeats the run;
    ``input_hash`` is the SHA-256 of the input files' headers, names and sizes, ``content_hash`` that of their tensors' contents
    (``engine.identity``); bytes are tensor files. ``run`` is its id in the ledger, where it was recorded; ``reused`` are layers
    taken over from an earlier run's artifact, ``resumed`` those that were finished before the run was interrupted. Where data
    were used, ``data`` says which, ``activities`` what layers' inputs were, ``warnings`` what went otherwise than planned, and
    ``evaluation`` how the whole model does.
    """

    path: str
    output: str
    format: str
    recipe: str
    input_hash: str
    layers: tuple[LayerReport, ...]
    kept: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    bits_per_weight: float
    sqnr_db: float | None
    worst_layer: str | None
    worst_sqnr_db: float | None
    seconds: float
    peak_memory_bytes: int
    engine_version: str
    threads: int
    started: float
    data: str = ""
    activities: tuple[Activity, ...] = ()
    warnings: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    content_hash: str = ""
    run: str = ""
    reused: tuple[str, ...] = ()
    resumed: tuple[str, ...] = ()

    @property
    def compression(self) -> float:
        return self.bytes_before / self.bytes_after if self.bytes_after else 0.0
