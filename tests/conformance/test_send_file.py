"""Sending files."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gzip
import io
import os
import socket
import tarfile
import tempfile
import types
import zipfile

import pytest
from helpers import begin, no_descriptors

from aionet import ConnectionLostError, SocketClosedError

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


@contextlib.contextmanager
def a_pipe(directory):
    reader, writer = os.pipe()
    with open(reader, "rb") as file, open(writer, "wb", buffering=0) as source:
        source.write(b"some, and then silence")
        yield file


@contextlib.contextmanager
def a_fifo(directory):
    os.mkfifo(directory / "fifo")
    with open(os.open(directory / "fifo", os.O_RDWR), "rb", buffering=0) as file:
        yield file


@contextlib.contextmanager
def a_socket(directory):
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as file:
        yield file


@contextlib.contextmanager
def a_terminal(directory):
    master, slave = os.openpty()
    with open(master, "rb", buffering=0), open(slave, "rb", buffering=0) as file:
        yield file


@contextlib.contextmanager
def compression_over_a_pipe(directory):
    with a_pipe(directory) as pipe, gzip.GzipFile(fileobj=pipe) as file:
        yield file


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("kind", [a_pipe, a_fifo, a_socket, a_terminal, compression_over_a_pipe])
async def test_what_may_be_silent_is_refused_before_any_of_it_is_read(sock, peer, kind, queued, tmp_path):
    """Reading it in the loop would hold all other connections until it has something to say."""
    size = BIG if queued else 0
    first = await begin(sock.write(b"a" * size))
    with kind(tmp_path) as file, pytest.raises(ValueError, match="regular file"):
        await sock.send_file(file)
    last = await begin(sock.write(b"after"))
    assert (await peer.receive_exactly(size + 5))[size:] == b"after"
    await asyncio.gather(first, last)


class Shouting(io.FileIO):
    """A file of which `read` and the descriptor differ."""

    def read(self, count=-1):
        return super().read(count).upper()


PIECE = CONTENT[:300_000]


def of_gzip(path):
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(PIECE)
    return gzip.open(path, "rb")


def of_buffered_gzip(path):
    return io.BufferedReader(of_gzip(path))


def of_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("before", b"other bytes")
        archive.writestr("content", PIECE)
    return zipfile.ZipFile(path).open("content")


def of_tar(path):
    with tarfile.open(path, "w") as archive:
        for name, content in (("before", b"other bytes"), ("content", PIECE)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with path.open("rb") as file:
        archive = io.BytesIO(file.read())
    return tarfile.open(fileobj=archive).extractfile("content")


def of_unflushed(path):
    file = path.open("w+b", buffering=2 * len(PIECE))
    file.write(PIECE)
    return file


def of_half_read_and_written(path):
    path.write_bytes(PIECE[:1000] + b"old" + PIECE[1003:])
    file = path.open("r+b")
    file.read(1000)
    file.write(PIECE[1000:1003])
    return file


def of_temporary(path):
    file = tempfile.NamedTemporaryFile(dir=path.parent)  # noqa: SIM115
    file.write(PIECE)
    return file


def of_spooled(path):
    file = tempfile.SpooledTemporaryFile(max_size=2 * len(PIECE))  # noqa: SIM115
    file.write(PIECE)
    return file


def of_spooled_out(path):
    file = tempfile.SpooledTemporaryFile(max_size=1000, dir=path.parent)  # noqa: SIM115
    file.write(PIECE)
    return file


def of_raw(path):
    path.write_bytes(PIECE)
    return open(path, "rb", buffering=0)


KINDS = [value for name, value in sorted(globals().items()) if name.startswith("of_")]


@pytest.mark.parametrize("make", KINDS)
async def test_sends_what_reading_the_file_returns(sock, peer, make, tmp_path):
    with make(tmp_path / "file") as file:
        sending = asyncio.create_task(sock.send_file(file))
        assert await peer.receive_exactly(len(PIECE)) == PIECE
        assert await sending == len(PIECE)
        sending = asyncio.create_task(sock.send_file(file, 1001, 200_000))
        assert await peer.receive_exactly(200_000) == PIECE[1001:201_001]
        assert await sending == 200_000


async def test_a_class_that_reads_in_its_own_way(sock, peer, tmp_path):
    (tmp_path / "file").write_bytes(b"whisper")
    with Shouting(tmp_path / "file") as file:
        assert await sock.send_file(file) == 7
    assert await peer.receive_exactly(7) == b"WHISPER"


async def test_a_spooled_file_stays_in_memory(sock, peer):
    with tempfile.SpooledTemporaryFile(max_size=1000) as file:
        file.write(b"small")
        assert await sock.send_file(file) == 5
        assert isinstance(file._file, io.BytesIO)
    assert await peer.receive_exactly(5) == b"small"


class Stream(io.RawIOBase):
    """What can only be read on, a piece at a time."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read(self, count=-1):
        return self.pieces.pop(0) if self.pieces else b""


async def test_a_stream_is_sent_from_where_it_stands(sock, peer):
    assert await sock.send_file(Stream(b"ab", bytearray(b"cd"), array.array("H", [0x6565]))) == 6
    assert await peer.receive_exactly(6) == b"abcdee"
    with pytest.raises(ValueError, match="not seekable"):
        await sock.send_file(Stream(b"ab"), 1)


async def test_nothing_to_read_yet_is_not_the_end_of_the_file(sock, peer):
    with pytest.raises(BlockingIOError):
        await sock.send_file(Stream(None, b"later"))
    await sock.write(b"intact")
    assert await peer.receive_exactly(6) == b"intact"


async def test_a_closed_file(sock, peer, path):
    for file in (path.open("rb"), io.BytesIO(), path.open("rb", buffering=0)):
        file.close()
        with pytest.raises(ValueError, match="closed"):
            await sock.send_file(file)
    await sock.write(b"intact")
    assert await peer.receive_exactly(6) == b"intact"


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
        (lambda: types.SimpleNamespace(read=lambda count: b"x"), (), TypeError),
        (lambda: types.SimpleNamespace(seekable=lambda: False), (), TypeError),
        (lambda: tempfile.TemporaryFile("w+"), (), TypeError),  # noqa: SIM115
        (lambda: tempfile.NamedTemporaryFile("w+"), (), TypeError),  # noqa: SIM115
        (lambda: tempfile.SpooledTemporaryFile(mode="w+"), (), TypeError),  # noqa: SIM115
    ],
)
async def test_refuses_bad_arguments_before_any_io(sock, peer, make_file, arguments, error):
    file = make_file()
    with pytest.raises(error):
        await sock.send_file(file, *arguments)
    getattr(file, "close", str)()
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


@pytest.mark.parametrize("why", ["no descriptors", "closed"])
async def test_a_cancellation_stays_one_where_the_file_cannot_be_kept(sock, peer, tmp_path, why):
    (tmp_path / "large").write_bytes(b"")
    os.truncate(tmp_path / "large", 64 << 20)
    with (tmp_path / "large").open("rb") as file:
        sending = await begin(sock.send_file(file))
        if why == "closed":
            file.close()
        with no_descriptors() if why == "no descriptors" else contextlib.nullcontext():
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
    with pytest.raises(ConnectionLostError):
        await sock.write(b"must not follow")
    sock.abort()


@pytest.mark.parametrize("end", [b"", b"more", OSError(5, "the disk is gone")], ids=["end", "more", "error"])
async def test_a_file_that_aborts_its_socket(sock, peer, end):
    class Aborting(io.BytesIO):
        reads = 0

        def read(self, count=-1):
            self.reads += 1
            if self.reads * count < 8 << 20:
                return bytes(count)
            sock.abort()
            if isinstance(end, OSError):
                raise end
            return end

    sending = await begin(sock.send_file(Aborting()))
    receiving = peer.in_thread(lambda sock: b"".join(iter(lambda: sock.recv(1 << 20), b"")))
    with pytest.raises(SocketClosedError):
        await sending
    await asyncio.gather(receiving, return_exceptions=True)


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
