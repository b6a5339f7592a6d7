"""The columns of the layers table: their order, words, and what they are by themselves."""

from dataclasses import dataclass

from mono_quant_gui.i18n import tr

(
    NAME, KIND, SHAPE, DTYPE, PARAMETERS, BYTES, LOW, HIGH, STD, KURTOSIS, OUTLIERS, SCHEME, ALGORITHM, BITS, SIZE, SQNR, CAUSE,
    ALONE, SO_FAR,
) = range(19)  # fmt: skip
FIGURES = (LOW, HIGH, STD, KURTOSIS, OUTLIERS)
"""They need a pass over the weights: asked for only where they are shown."""
DECIBELS = (SQNR, ALONE, SO_FAR)
SIZES = (BYTES, SIZE)
TEXTS = (NAME, KIND, DTYPE, SCHEME, ALGORITHM, CAUSE)
"""Aligned to the left; all others are figures."""


@dataclass(frozen=True, slots=True)
class Column:
    """``key`` in settings, the head, words for menus and tooltips, and a width in pixels."""

    key: str
    head: str
    words: str
    width: int


def columns() -> tuple[Column, ...]:
    """By their place."""
    return (
        Column("name", tr("Name"), tr("Name of the layer"), 200),
        Column("kind", tr("Kind"), tr("What the layer is"), 80),
        Column("shape", tr("Shape"), tr("Sizes of the weight"), 86),
        Column("dtype", tr("Dtype"), tr("How the file stores it"), 58),
        Column("parameters", tr("Params"), tr("Number of parameters"), 66),
        Column("bytes", tr("Bytes"), tr("Bytes in the file"), 104),
        Column("min", tr("Min"), tr("Least weight"), 70),
        Column("max", tr("Max"), tr("Greatest weight"), 70),
        Column("std", tr("Std"), tr("Standard deviation of the weights"), 70),
        Column("kurtosis", tr("Kurtosis"), tr("Excess kurtosis of the weights: 0 for a Gaussian, 3 for a Laplacian"), 66),
        Column("outliers", tr("Outlier σ"), tr("Outlier ratio: how many standard deviations the furthest weight lies out"), 68),
        Column("scheme", tr("Scheme"), tr("Scheme that the recipe gives it"), 98),
        Column("algorithm", tr("Algorithm"), tr("Algorithm that the recipe gives it"), 78),
        Column("bits", tr("Bits/w"), tr("Bits per weight after quantization, scales included"), 54),
        Column("after", tr("Size"), tr("Bytes after quantization, as planned"), 104),
        Column("sqnr", tr("SQNR dB"), tr("SQNR of the weights, as stored; ▾ where a Gaussian layer would have clearly more"), 82),
        Column("cause", tr("Finding"), tr("How far it falls short of a Gaussian layer of its shape, and the likely cause"), 184),
        Column("alone", tr("Out dB"), tr("SQNR of the layer's output, when this layer alone is quantized"), 68),
        Column("so_far", tr("So far dB"), tr("SQNR of the layer's output, when all layers before it are quantized too"), 78),
    )


STANDARD = (NAME, KIND, SHAPE, SCHEME, SIZE, SQNR)
"""Shown where nothing else was chosen; those of outputs and findings come where there are any."""
