"""Records to JSON and back, whatever numbers they hold."""

import json
import math

from engine.records.codec import from_data, to_data
from engine.records.report import ChannelRanges, Histogram


def test_numbers_come_back_and_what_is_not_finite_becomes_nothing() -> None:
    ranges = ChannelRanges(2, (0.5, -1e308, 1e308), (1.0, 2.0, 3.0))
    assert from_data(ChannelRanges, json.loads(json.dumps(to_data(ranges)))) == ranges
    assert to_data(ChannelRanges(1, (math.nan, 1.0), (math.inf, -math.inf)))["low"] == [None, 1.0]
    assert to_data((1.0, math.inf)) == [1.0, None] and to_data((2, 0.5, math.nan)) == [2, 0.5, None]
    histogram = Histogram(1.0, (1, 2), (), (3,))
    assert from_data(Histogram, to_data(histogram)) == histogram


def test_whole_numbers_where_floats_are_wanted_become_floats() -> None:
    found = from_data(ChannelRanges, {"channels_per_band": 1, "low": [0, 1.5], "high": [1, 2]})
    assert found.low == (0.0, 1.5) and found.high == (1.0, 2.0)
    assert {type(value) for value in (*found.low, *found.high)} == {float}
