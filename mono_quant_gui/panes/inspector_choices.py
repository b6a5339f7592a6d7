"""What can be picked in the inspector: (word, tooltip) by key."""

from mono_quant_gui.i18n import tr


def bars() -> dict[str, tuple[str, str]]:
    """What the bars are of."""
    return {
        "weight": (tr("weights"), tr("SQNR of the weights")),
        "alone": (tr("output alone"), tr("SQNR of the output, when this layer alone is quantized")),
        "so_far": (tr("so far"), tr("SQNR of the output, when all layers before it are quantized too")),
    }


def orders() -> dict[str, tuple[str, str]]:
    """What the model section shows."""
    return {
        "network": (tr("network"), tr("Layers in network order")),
        "sorted": (tr("sorted"), tr("Layers from the worst to the best")),
        "spread": (tr("spread"), tr("How the layers' SQNR is distributed")),
        "sizes": (tr("sizes"), tr("Bytes by kind of layer, before and after")),
    }


def views() -> dict[str, tuple[str, str]]:
    """What the layer section shows."""
    return {
        "weights": (tr("weights"), tr("Histogram of the layer's weights")),
        "channels": (tr("channels"), tr("Range and SQNR of every output channel")),
        "error": (tr("error"), tr("Where in the weight the error lies")),
        "outliers": (tr("outliers"), tr("The largest weights")),
        "inputs": (tr("inputs"), tr("Histogram of what the layer is given")),
        "convergence": (tr("samples"), tr("Range of what the layer is given, against the number of samples")),
    }


def scales() -> dict[str, tuple[str, str]]:
    """How counts are shown."""
    return {"linear": (tr("linear"), tr("Counts on a linear axis")), "log": (tr("log"), tr("Counts on a logarithmic axis"))}
