"""``auto``: for each layer the best of a short list, by squared error; the report says how close it was."""

from engine.algorithms.base import Algorithm, Groups, NoOptions, Parameters


def fit(groups: Groups, options: NoOptions) -> Parameters:
    raise TypeError("auto stands for the algorithms on its short list")


AUTO = Algorithm(
    "auto",
    "Auto",
    "Tries RTN, percentile, range search and HQQ on each layer and takes the best.",
    fit,
    shortlist=("rtn", "percentile", "mse", "hqq"),
)
