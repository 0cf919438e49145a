"""Latencies as counts in log-linear buckets.

Theory of operation
-------------------
Values are whole nanoseconds. Up to 255 every value has a bucket of its own; above that every power of two is
cut into 128 equal buckets. A bucket is therefore never wider than 1/128 of its lowest value, and because its
middle is what `percentile()` reports, the relative error is below 1/256: **less than 0.4 %**. The smallest
and the largest value are kept exactly, and no percentile is reported outside them.

Percentiles are of the nearest-rank kind: the smallest recorded value that at least that share of all values
does not exceed. There is no interpolation, so what is reported was, within the error, measured.

Recording is a shift, an addition and one list access; memory is one list of at most 7,424 integers whatever
is recorded. Two histograms merge by adding, in any order; the JSON form holds only the buckets in use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

__all__ = ["LatencyHistogram"]

_LINEAR_BITS = 7  # 2 ** 7 buckets to every power of two
_LONGEST = (1 << 63) - 1  # 292 years


class LatencyHistogram:
    """How often each latency, in nanoseconds, was seen."""

    RELATIVE_ERROR = 1 / (1 << (_LINEAR_BITS + 1))
    """`percentile()` is off by less than this share of the exact value."""

    __slots__ = ("_counts", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self._counts = [0] * (_bucket_of(_LONGEST) + 1)
        self.count = 0
        self.total = 0
        self.minimum: int | None = None
        self.maximum: int | None = None

    def record(self, nanoseconds: int) -> None:
        """Count one value. Raises `ValueError` if it is negative or above 2**63 - 1."""
        if not 0 <= nanoseconds <= _LONGEST:
            raise ValueError(f"a latency is from 0 to {_LONGEST} nanoseconds, not {nanoseconds}")
        shift = nanoseconds.bit_length() - (_LINEAR_BITS + 1)
        self._counts[nanoseconds if shift <= 0 else (shift << _LINEAR_BITS) + (nanoseconds >> shift)] += 1
        self.count += 1
        self.total += nanoseconds
        if self.maximum is None or nanoseconds > self.maximum:
            self.maximum = nanoseconds
        if self.minimum is None or nanoseconds < self.minimum:
            self.minimum = nanoseconds

    def record_all(self, values: Iterable[int]) -> None:
        """Count every one of ``values``."""
        for value in values:
            self.record(value)

    def percentile(self, percent: float) -> float | None:
        """The value that ``percent`` of all values do not exceed, in nanoseconds; None if there is none.

        Raises `ValueError` unless ``0 <= percent <= 100``.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile is from 0 to 100, not {percent}")
        if self.minimum is None or self.maximum is None:
            return None
        # The rounding undoes what binary fractions do to numbers like 99.9.
        rank = max(1, math.ceil(round(percent * self.count / 100, 6)))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(max(_middle_of(bucket), self.minimum), self.maximum)
        raise AssertionError("the buckets hold fewer values than were counted")

    @property
    def mean(self) -> float | None:
        """The exact mean in nanoseconds; None if nothing was recorded."""
        return self.total / self.count if self.count else None

    def merge(self, other: LatencyHistogram) -> None:
        """Add everything that ``other`` holds."""
        for bucket, count in enumerate(other._counts):
            if count:
                self._counts[bucket] += count
        self.count += other.count
        self.total += other.total
        if other.minimum is not None:
            self.minimum = other.minimum if self.minimum is None else min(self.minimum, other.minimum)
        if other.maximum is not None:
            self.maximum = other.maximum if self.maximum is None else max(self.maximum, other.maximum)

    def to_json(self) -> dict[str, object]:
        """What `from_json()` reads: plain dictionaries, strings and integers."""
        return {
            "linear_bits": _LINEAR_BITS,
            "total": self.total,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "counts": {str(bucket): count for bucket, count in enumerate(self._counts) if count},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> LatencyHistogram:
        """The histogram that `to_json()` gave. Raises `ValueError` if it is something else."""
        histogram = cls()
        try:
            if value["linear_bits"] != _LINEAR_BITS:
                raise ValueError(f"it has {value['linear_bits']} linear bits, here are {_LINEAR_BITS}")
            counts = value["counts"]
            if not isinstance(counts, Mapping):
                raise TypeError(f"its counts are {counts!r}")
            for bucket, count in counts.items():
                number = int(bucket)
                if number < 0 or not isinstance(count, int) or count < 1:
                    raise ValueError(f"bucket {bucket!r} holds {count!r}")
                histogram._counts[number] = count
                histogram.count += count
            histogram.total = _whole_number(value, "total")
            if histogram.count:
                histogram.minimum = _whole_number(value, "minimum")
                histogram.maximum = _whole_number(value, "maximum")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"not a latency histogram: {error}") from error
        return histogram

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LatencyHistogram):
            return NotImplemented
        return self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.count} values from {self.minimum} to {self.maximum} ns>"


def _bucket_of(value: int) -> int:
    shift = value.bit_length() - (_LINEAR_BITS + 1)
    return value if shift <= 0 else (shift << _LINEAR_BITS) + (value >> shift)


def _middle_of(bucket: int) -> float:
    shift = (bucket >> _LINEAR_BITS) - 1
    if shift <= 0:
        return float(bucket)  # one value wide
    lowest = (bucket - (shift << _LINEAR_BITS)) << shift
    return lowest + ((1 << shift) - 1) / 2


def _whole_number(value: Mapping[str, object], name: str) -> int:
    number = value[name]
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"its {name} is {number!r}")
    return number
