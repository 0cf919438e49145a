"""Writes in progress, on a socket that takes as much as the test says."""

from __future__ import annotations

import io
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aionet.wires.outgoing import OutgoingBuffers, OutgoingEof, OutgoingFile


class NarrowSocket:
    """Takes the given numbers of bytes, one after the other; 0 is a full buffer."""

    def __init__(self, *takes):
        self.takes = list(takes)
        self.received = bytearray()

    def send(self, data):
        return self.sendmsg([data])

    def sendmsg(self, buffers):
        assert len(buffers) <= os.sysconf("SC_IOV_MAX")
        take = self.takes.pop(0) if self.takes else 1 << 30
        if not take:
            raise BlockingIOError
        taken = b"".join(buffers)[:take]
        self.received += taken
        return len(taken)


def advance_to_end(outgoing, sock):
    for _ in range(100_000):
        try:
            if outgoing.advance(sock):
                return
        except BlockingIOError:
            pass
    raise AssertionError("never finished")


@given(st.lists(st.binary(max_size=20), max_size=8), st.lists(st.integers(0, 15), max_size=30))
def test_buffers_go_whole_and_in_order_however_little_is_taken(buffers, takes):
    sock, outgoing = NarrowSocket(*takes), OutgoingBuffers(buffers)
    whole = b"".join(buffers)
    assert outgoing.remaining == len(whole)
    advance_to_end(outgoing, sock)
    assert sock.received == whole
    assert (outgoing.sent, outgoing.remaining) == (len(whole), 0)


@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5),
    st.integers(1, 30),
    st.sampled_from([bytes, bytearray, lambda data: memoryview(bytearray(data)).toreadonly()]),
)
def test_kept_buffers_are_what_they_were(buffers, first, kind):
    given_buffers = [kind(buffer) for buffer in buffers]
    sock, outgoing = NarrowSocket(first), OutgoingBuffers(given_buffers)
    outgoing.advance(sock)
    outgoing.keep()
    for buffer in given_buffers:
        base = buffer.obj if isinstance(buffer, memoryview) else buffer
        if isinstance(base, bytearray):
            base[:] = bytes(len(base))
    advance_to_end(outgoing, sock)
    assert sock.received == b"".join(buffers)


def test_constant_bytes_are_not_copied_when_kept():
    data = bytes(1000)
    outgoing = OutgoingBuffers([data])
    outgoing.keep()
    assert outgoing._place[0][0].obj is data


def test_a_write_has_begun_with_its_first_byte():
    sock, outgoing = NarrowSocket(0, 1), OutgoingBuffers([b"ab"])
    assert not outgoing.begun
    with pytest.raises(BlockingIOError):
        outgoing.advance(sock)
    assert not outgoing.begun
    assert not outgoing.advance(sock)
    assert outgoing.begun


def test_a_part_that_was_sent_before():
    sock, outgoing = NarrowSocket(), OutgoingBuffers([b"hello"], 2)
    assert (outgoing.begun, outgoing.sent, outgoing.remaining) == (True, 2, 3)
    assert outgoing.advance(sock)
    assert sock.received == b"llo"
    assert outgoing.sent == 5


def test_releasing_lets_go_of_the_buffers():
    data = bytearray(b"hello")
    outgoing = OutgoingBuffers([data])
    with pytest.raises(BufferError):
        data.clear()
    outgoing.release()
    data.clear()


def test_the_end_of_a_stream():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        eof = OutgoingEof()
        assert not eof.begun
        assert eof.advance(ours)
        assert eof.begun
        assert theirs.recv(10) == b""
        assert (eof.sent, eof.remaining) == (0, 0)


@given(
    st.binary(max_size=100),
    st.integers(0, 120),
    st.none() | st.integers(0, 120),
    st.lists(st.integers(0, 30), max_size=20),
)
def test_a_file_in_memory(data, offset, count, takes):
    sock, outgoing = NarrowSocket(*takes), OutgoingFile(io.BytesIO(data), offset, count)
    advance_to_end(outgoing, sock)
    expected = data[offset:] if count is None else data[offset : offset + count]
    assert sock.received == expected
    assert outgoing.sent == len(expected)


def test_a_file_on_disk_outlives_its_owner_when_kept(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with path.open("rb") as file:
            outgoing = OutgoingFile(file, 2, 5)
            outgoing.keep()
        while not outgoing.advance(ours):
            pass
        outgoing.release()
        assert theirs.recv(100) == b"23456"
        outgoing.release()
