"""`ReceiveBuffer`: however the input was cut, the results are those of the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aionet.receive_buffer import ReceiveBuffer

# Few letters and short separators, so that matches, overlaps and near misses are frequent.
texts = st.text("ab\n", max_size=40).map(str.encode)
separator_sets = st.lists(
    st.text("ab\n", min_size=1, max_size=4).map(str.encode), min_size=1, max_size=3
).map(tuple)


def cut(data, places):
    """`data` in pieces, cut at `places`."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def naive_take_until(data, separators, max_bytes):
    """The shortest start of `data` that ends in a separator, and the rest; the simplest way to say it."""
    for end in range(1, min(len(data), max_bytes) + 1):
        if data[:end].endswith(separators):
            return data[:end], data[end:]
    return None, data


@given(texts, st.lists(st.integers(0, 40)), st.lists(st.integers(0, 10)))
def test_takes_are_those_of_the_whole(data, places, counts):
    buffer, left = ReceiveBuffer(), data
    for piece in cut(data, places):
        buffer.feed(piece)
    for count in counts:
        assert buffer.take(count) == left[:count]
        left = left[count:]
    assert len(buffer) == len(left)


@given(texts, st.lists(st.integers(0, 40)), separator_sets, st.integers(1, 45))
def test_what_is_found_does_not_depend_on_how_the_input_was_cut(data, places, separators, max_bytes):
    """Looking after every piece finds what looking at the whole finds."""
    expected, left = [], data
    while True:
        found, left = naive_take_until(left, separators, max_bytes)
        if found is None:
            break
        expected.append(found)
    buffer, got = ReceiveBuffer(), []
    for piece in cut(data, places):
        buffer.feed(piece)
        while (found := buffer.take_until(separators, max_bytes)) is not None:
            got.append(found)
    assert got == expected
    assert buffer.peek(1000) == left


@given(texts, st.lists(st.integers(1, 10)))
def test_into_a_buffer(data, sizes):
    buffer, left = ReceiveBuffer(), data
    buffer.feed(data)
    for size in sizes:
        target = bytearray(size)
        count = buffer.take_into(memoryview(target))
        assert target[:count] == left[:size]
        assert count == len(left[:size])
        left = left[size:]


class AgainstANaiveModel(RuleBasedStateMachine):
    """Any order of calls, with changing separators and limits, against a plain `bytes`."""

    def __init__(self):
        super().__init__()
        self.buffer = ReceiveBuffer()
        self.model = b""

    @rule(data=texts)
    def feed(self, data):
        self.buffer.feed(data)
        self.model += data

    @rule(count=st.integers(0, 10))
    def take(self, count):
        assert self.buffer.take(count) == self.model[:count]
        self.model = self.model[count:]

    @rule(size=st.integers(1, 10))
    def take_into(self, size):
        target = bytearray(size)
        assert self.buffer.take_into(memoryview(target)) == len(self.model[:size])
        assert target[: len(self.model)] == self.model[:size]
        self.model = self.model[size:]

    @rule(separators=separator_sets, max_bytes=st.integers(1, 50))
    def take_until(self, separators, max_bytes):
        found, self.model = naive_take_until(self.model, separators, max_bytes)
        assert self.buffer.take_until(separators, max_bytes) == found

    @invariant()
    def holds_the_same(self):
        assert len(self.buffer) == len(self.model)
        assert self.buffer.peek(10) == self.model[:10]


TestAgainstANaiveModel = AgainstANaiveModel.TestCase


@pytest.mark.parametrize("separators", [(b"\n",), (b"\r\n", b"\n\n")])
def test_input_that_trickles_in_is_searched_once(separators):
    """A megabyte that comes byte by byte takes time in proportion to its length, not to its square."""
    buffer = ReceiveBuffer()
    searched = 0

    class Counting(bytearray):
        def find(self, what, start=0):
            nonlocal searched
            searched += len(self) - start
            return super().find(what, start)

    buffer._data = Counting()
    for _ in range(5000):
        buffer.feed(b"x")
        assert buffer.take_until(separators, 10_000) is None
    assert searched <= 5000 * 4 * len(separators)
