"""`ReceiveBuffer`: however the input was cut, the results are those of the whole."""

from __future__ import annotations

import tracemalloc
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


class Searched(bytearray):
    """Counts the bytes that it is asked to search."""

    count = 0

    def find(self, what, start=0, end=None):
        found = super().find(what, start, len(self) if end is None else end)
        last = found + len(what) if found >= 0 else min(len(self), len(self) if end is None else end)
        Searched.count += max(0, last - start)
        return found


@pytest.fixture
def buffer():
    made = ReceiveBuffer()
    made._data = Searched()
    Searched.count = 0
    return made


@pytest.mark.parametrize("separators", [(b"\n",), (b"\r\n", b"\n\n"), (b"\r\n\r\n", b"\n\n", b"\0")])
def test_input_that_trickles_in_is_searched_once(buffer, separators):
    for _ in range(5000):
        buffer.feed(b"x")
        assert buffer.take_until(separators, 10_000) is None
    assert Searched.count <= 5000 * 4 * len(separators)


@pytest.mark.parametrize(
    "record", [b"\n\n", b"ab\n\n", b"x" * 100 + b"\n\n", b"\r\n" * 50 + b"\n\n", b"\n\r\n\r\n"]
)
@pytest.mark.parametrize(
    "separators",
    [
        [(b"\n\n", b"\r\n\r\n")],
        [(b"\r\n\r\n", b"\0", b"\n\n")],
        [(b"\0", b"\n\n"), (b"\n\n", b"\1"), (b"\n", b"\r\n")],
    ],
    ids=["two", "the rare ones first", "one set after the other"],
)
@pytest.mark.parametrize("at_once", [1, 7, 1 << 16])
def test_each_record_is_searched_for_its_own_length(buffer, record, separators, at_once):
    """However many lie behind it, whichever separator does not occur, and however it arrives."""
    data = record * (20_000 // len(record))
    taken = tries = 0
    for start in range(0, len(data), at_once):
        buffer.feed(data[start : start + at_once])
        while (found := buffer.take_until(separators[tries % len(separators)], 1 << 16)) is not None:
            assert found
            taken += len(found)
            tries += 1
    assert taken > len(data) - len(record)
    per_try = 4 * 64 * 3  # the first windows of three separators, and what is looked at twice
    assert Searched.count <= 20 * len(data) + per_try * tries


def test_the_limit_of_a_result_limits_the_search(buffer):
    buffer.feed(b"x" * 100_000 + b"\n")
    for separators in ((b"\n",), (b"\n", b"\0")):
        for _ in range(100):
            assert buffer.take_until(separators, 1000) is None
    assert Searched.count <= 20_000


@given(st.binary(max_size=5000), st.integers(0, 5000), st.integers(0, 5000))
def test_a_large_take_leaves_the_rest(data, first, second):
    """On both sides of what is small."""
    buffer, target = ReceiveBuffer(), bytearray(second or 1)
    buffer.feed(data * 4)
    assert buffer.peek(first) == (data * 4)[:first]
    assert buffer.take(first) == (data * 4)[:first]
    count = buffer.take_into(memoryview(target))
    assert target[:count] == (data * 4)[first : first + count]
    assert buffer.take(1 << 20) == (data * 4)[first + count :]
    assert len(buffer) == 0


def peak_of(function, *arguments):
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_large_parts_are_copied_once():
    buffer, size = ReceiveBuffer(), 1 << 20
    buffer.feed(bytes(3 * size))
    assert peak_of(buffer.take_into, memoryview(bytearray(size))) < 1000
    buffer.feed(bytes(size))
    assert peak_of(buffer.peek, size) < size + 1000
    assert peak_of(buffer.take, size) < size + 1000
