"""Sending files."""

from __future__ import annotations

import asyncio
import io
import os

import pytest
from helpers import begin

from aionet import ConnectionLostError

pytestmark = pytest.mark.asyncio

BIG = 3 << 19
CONTENT = os.urandom(BIG)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (1000, 5000), (12345, None), (0, 0), (BIG - 5, 100)],
)
@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_sends_the_part_that_was_asked_for(sock, peer, path, kind, offset, count):
    expected = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]
    with path.open("rb") if kind == "file" else io.BytesIO(CONTENT) as file:
        sending = asyncio.create_task(sock.send_file(file, offset, count))
        assert await peer.receive_exactly(len(expected)) == expected
        assert await sending == len(expected)
    await sock.write(b"after")
    assert await peer.receive_exactly(5) == b"after"


async def test_a_file_on_disk_keeps_its_position(sock, peer, path):
    with path.open("rb") as file:
        file.seek(77)
        await sock.send_file(file, 0, 1000)
        assert file.tell() == 77
    assert await peer.receive_exactly(1000) == CONTENT[:1000]


async def test_a_pipe(sock, peer):
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        with open(writer, "wb") as source:
            source.write(b"through a pipe")
        assert await sock.send_file(file) == 14
    assert await peer.receive_exactly(14) == b"through a pipe"
    await sock.write(b"after")
    assert await peer.receive_exactly(5) == b"after"


async def test_a_part_of_a_pipe(sock, peer):
    reader, writer = os.pipe()
    with open(reader, "rb") as file, open(writer, "wb", buffering=0) as source:
        source.write(b"through a pipe")
        assert await sock.send_file(file, count=7) == 7
    assert await peer.receive_exactly(7) == b"through"


async def test_a_file_shorter_than_was_asked_for(sock, peer, path):
    with path.open("rb") as file:
        sending = asyncio.create_task(sock.send_file(file, BIG - 10, 1000))
        assert await peer.receive_exactly(10) == CONTENT[-10:]
        assert await sending == 10


async def test_stands_in_line_with_the_writes(sock, peer, path):
    first = await begin(sock.write(b"a" * BIG))
    with path.open("rb") as file:
        second = await begin(sock.send_file(file, 0, 100_000))
        third = await begin(sock.write(b"b"))
        assert await peer.receive_exactly(BIG + 100_001) == b"a" * BIG + CONTENT[:100_000] + b"b"
        await asyncio.gather(first, second, third)


async def test_two_parts_of_one_file_object_in_line(sock, peer):
    first = await begin(sock.write(b"a" * BIG))
    file = io.BytesIO(b"0123456789")
    peer.sock.settimeout(1)
    parts = [await begin(sock.send_file(file, 0, 5)), await begin(sock.send_file(file, 5, 5))]
    assert await peer.receive_exactly(BIG + 10) == b"a" * BIG + b"0123456789"
    await asyncio.gather(first, *parts)


async def test_cancelled_midway_and_closed_at_once_it_is_sent_whole(sock, peer, path):
    with path.open("rb") as file:
        sending = await begin(sock.send_file(file))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    following = await begin(sock.write(b"next"))
    assert await peer.receive_exactly(BIG + 4) == CONTENT + b"next"
    await following


async def test_cancelled_midway_a_file_in_memory_is_sent_whole(sock, peer):
    sending = await begin(sock.send_file(io.BytesIO(CONTENT)))
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await peer.receive_exactly(BIG) == CONTENT


async def test_cancelled_before_its_first_byte_nothing_of_it_is_sent(sock, peer, path):
    first = await begin(sock.write(b"a" * BIG))
    with path.open("rb") as file:
        second = await begin(sock.send_file(file))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
    await begin(sock.write(b"b"))
    assert await peer.receive_exactly(BIG + 1) == b"a" * BIG + b"b"
    await first


@pytest.mark.parametrize(
    ("make_file", "arguments", "error"),
    [
        (lambda: io.BytesIO(b"x"), (-1,), ValueError),
        (lambda: io.BytesIO(b"x"), (0, -1), ValueError),
        (lambda: io.StringIO("text"), (), TypeError),
        (lambda: "name", (), TypeError),
        (lambda: b"bytes", (), TypeError),
    ],
)
async def test_refuses_bad_arguments_before_any_io(sock, peer, make_file, arguments, error):
    with pytest.raises(error):
        await sock.send_file(make_file(), *arguments)
    await sock.write(b"!")
    assert await peer.receive_exactly(1) == b"!"


class FailingFile(io.RawIOBase):
    """A file that yields `good` bytes and then fails."""

    def __init__(self, good=0):
        self.good = good

    def seek(self, *args):
        return 0

    def read(self, count=-1):
        if not self.good:
            raise OSError(5, "the disk is gone")
        self.good, given = 0, self.good
        return bytes(given)


@pytest.mark.parametrize("queued", [False, True])
async def test_a_file_that_cannot_be_read_is_not_a_lost_connection(sock, peer, queued):
    ahead = BIG if queued else 0
    first = await begin(sock.write(b"a" * ahead))
    sending = await begin(sock.send_file(FailingFile()))
    receiving = asyncio.create_task(peer.receive_exactly(ahead + 6))
    with pytest.raises(OSError, match="disk") as caught:
        await sending
    assert not isinstance(caught.value, ConnectionLostError)
    await first
    await sock.write(b"intact")
    assert (await receiving)[ahead:] == b"intact"


async def test_a_file_open_for_writing_only_is_not_a_lost_connection(sock, peer, tmp_path):
    with (tmp_path / "new").open("wb") as file, pytest.raises(OSError) as caught:
        await sock.send_file(file)
    assert not isinstance(caught.value, ConnectionLostError)
    await sock.write(b"intact")
    assert await peer.receive_exactly(6) == b"intact"


async def test_a_file_that_fails_midway_leaves_no_stream_that_looks_whole(sock, peer):
    with pytest.raises(OSError, match="disk"):
        await sock.send_file(FailingFile(good=1000))
    with pytest.raises(ConnectionLostError):
        await sock.write(b"must not follow")


async def test_a_file_closed_midway_leaves_no_stream_that_looks_whole(sock, peer, path):
    with path.open("rb") as file:
        sending = await begin(sock.send_file(file))
    receiving = peer.in_thread(lambda sock: b"".join(iter(lambda: sock.recv(1 << 20), b"")))
    with pytest.raises(Exception):  # noqa: B017 - which one is not promised
        await sending
    with pytest.raises(ConnectionLostError):
        await sock.write(b"must not follow")
    sock.abort()
    await asyncio.gather(receiving, return_exceptions=True)
