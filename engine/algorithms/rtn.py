"""Round to nearest: the range of each group is its least and greatest weight; nothing is searched."""

from engine.algorithms.base import Algorithm, Groups, NoOptions, Parameters


def fit(groups: Groups, options: NoOptions) -> Parameters:
    """Scale and zero point that cover each range."""
    return groups.first()


RTN = Algorithm("rtn", "RTN", "Round to nearest: fast, needs no data, the baseline.", fit)
