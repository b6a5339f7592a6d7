"""What a scheme does to a Gaussian weight of a layer's shape: the figure beside which a measured one is read.

The weight is drawn once with a fixed seed and quantized by the very encoders of a run, so the figure holds for every family,
granularity and algorithm without a formula for each. A sample of channels stands for all of them. One scale for a whole tensor
depends on the largest of all its values, so that one is set to the median maximum of as many Gaussian values,
``Phi^-1((1 + 2^(-1/n)) / 2)``: the quantile function of the largest of n independent magnitudes at one half.
"""

from functools import lru_cache
from statistics import NormalDist

import numpy as np

from engine.algorithms import chain
from engine.numerics.affine import to_bytes
from engine.planning.planner import plan_trial
from engine.quantizing.encoding import attempt
from engine.readers.memory import MemoryFiles, summary_of
from engine.records.model import LayerInfo, TensorInfo
from engine.records.scheme import Scheme
from engine.schemes import format_scheme, parse_scheme
from engine.schemes.grouping import Matrix

SAMPLE, ROWS = 1 << 18, 64
"""Weights drawn, and channels at least: enough for 0.1 dB."""


def expected_db(scheme: Scheme, algorithm: str, layer: LayerInfo) -> float | None:
    """SQNR in dB that ``scheme`` gives a Gaussian weight of this layer's shape; None where it loses nothing or cannot be told.

    Algorithms that need data stand for RTN: what they gain depends on the data, which a Gaussian weight has none of.
    """
    matrix = Matrix.of(layer)
    if scheme.family == "keep" or not layer.parameters:
        return None
    solver = chain(algorithm).solver
    text = "rtn" if solver.algorithm.data else str(solver)
    cols = min(matrix.cols, SAMPLE // 4)
    height = max(scheme.block_rows or 1, 1)
    rows = min(matrix.slice_rows, max(SAMPLE // cols // height, -(-ROWS // height)) * height)
    one_scale = scheme.granularity == "tensor" or scheme.family == "nvfp4"
    whole = matrix.slice_rows * matrix.cols if one_scale else 0
    return _simulated(format_scheme(scheme), text, layer.dtype, rows, cols, whole)


@lru_cache(maxsize=4096)
def _simulated(scheme: str, algorithm: str, dtype: str, rows: int, cols: int, whole: int) -> float | None:
    drawn = np.random.default_rng(2**31 - 1).standard_normal((rows, cols)).astype(np.float32)
    if whole > drawn.size:
        top = NormalDist().inv_cdf((1 + 0.5 ** (1 / whole)) / 2)
        drawn = np.clip(drawn, -top, top)
        drawn.flat[np.abs(drawn).argmax()] = top
    raw = np.frombuffer(to_bytes(drawn.reshape(-1), dtype), np.uint8)
    tensor = TensorInfo("gaussian", dtype, (rows, cols), raw.size, 0, 0)
    layer = LayerInfo("gaussian", "linear", (rows, cols), dtype, (tensor,))
    made = plan_trial(summary_of(layer), layer, parse_scheme(scheme), algorithm)
    if made.errors:
        return None
    return attempt(made, layer.name, MemoryFiles({"gaussian": raw})).report.sqnr_db
