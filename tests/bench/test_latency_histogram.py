"""The histogram against exact percentiles of sorted values."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.bench import LatencyHistogram

LATENCIES = st.one_of(st.integers(0, 1000), st.integers(0, 10_000_000_000), st.integers(0, (1 << 63) - 1))


def histogram_of(values: list[int]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    histogram.record_all(values)
    return histogram


def exact_percentile(values: list[int], thousandths: int) -> int:
    """Nearest rank, in whole numbers only."""
    rank = max(1, -(-thousandths * len(values) // 100_000))
    return sorted(values)[rank - 1]


@given(st.lists(LATENCIES, min_size=1), st.integers(0, 100_000))
def test_a_percentile_is_within_the_stated_error_of_the_exact_one(
    values: list[int], thousandths: int
) -> None:
    exact = exact_percentile(values, thousandths)
    reported = histogram_of(values).percentile(thousandths / 1000)
    assert reported is not None
    assert abs(reported - exact) <= exact * LatencyHistogram.RELATIVE_ERROR


@given(st.lists(LATENCIES, min_size=1))
def test_count_total_and_both_ends_are_exact(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert histogram.count == len(values)
    assert histogram.total == sum(values)
    assert (histogram.minimum, histogram.maximum) == (min(values), max(values))
    assert histogram.mean == pytest.approx(math.fsum(values) / len(values))


@given(st.lists(LATENCIES), st.lists(LATENCIES))
def test_merging_is_recording_both(first: list[int], second: list[int]) -> None:
    merged = histogram_of(first)
    merged.merge(histogram_of(second))
    assert merged == histogram_of(first + second)


@given(st.lists(LATENCIES))
def test_json_brings_back_the_same_histogram(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert LatencyHistogram.from_json(json.loads(json.dumps(histogram.to_json()))) == histogram


@given(st.lists(st.integers(0, 255), min_size=1), st.integers(0, 100_000))
def test_small_values_are_exact(values: list[int], thousandths: int) -> None:
    assert histogram_of(values).percentile(thousandths / 1000) == exact_percentile(values, thousandths)


def test_an_empty_histogram_has_no_percentile() -> None:
    histogram = LatencyHistogram()
    assert histogram.percentile(50) is None
    assert histogram.mean is None


@pytest.mark.parametrize("percent", [-0.1, 100.1, math.nan])
def test_a_percentile_outside_of_its_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="percentile is from 0 to 100"):
        histogram_of([1]).percentile(percent)


@pytest.mark.parametrize("value", [-1, 1 << 63])
def test_a_value_that_cannot_be_a_latency_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=str(value)):
        LatencyHistogram().record(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"linear_bits": 5, "counts": {}, "total": 0},
        {"linear_bits": 7, "counts": [], "total": 0},
        {"linear_bits": 7, "counts": {"x": 1}, "total": 0},
        {"linear_bits": 7, "counts": {"99999": 1}, "total": 0},
        {"linear_bits": 7, "counts": {"-1": 1}, "total": 0},
        {"linear_bits": 7, "counts": {"1": 0}, "total": 0},
        {"linear_bits": 7, "counts": {"1": 1}, "total": 1, "minimum": None, "maximum": 1},
    ],
)
def test_json_of_something_else_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a latency histogram"):
        LatencyHistogram.from_json(value)
