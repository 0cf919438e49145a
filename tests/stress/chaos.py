"""What lives in the chaos of `test_chaos.py`, and how its bytes are checked.

Theory of operation
-------------------
*Streams.* What one end sends is an `OutgoingStream`: numbered frames, each with the number of its stream and
a body that depends on both numbers, so that no byte looks right in another place. The sender enters how each
write ended. The other end feeds what it receives to an `IncomingStream`, which learns from the first frame
whom it is listening to and compares every byte. So a byte that is lost, doubled, changed or delivered to
another connection shows at once. Afterwards `verify` looks at both sides together: what a write returned for
must be there if the stream ended cleanly; a write that was cancelled must be there whole, or not at all.

*Ends.* An `End` is one of our sockets with a few tasks that read, write and close it in every way there is.
Some of them harm others: they close sockets that another task waits for, cancel tasks, read where somebody
reads already. A `RawEnd` is a blocking socket in a thread, which knows nothing of aionet and has no manners.

*Judging.* Every operation goes through `judged`, with the exceptions that its documentation names. Anything
else fails the `World`, which stops. `attempt` runs an operation as users do: in peace, under a time-out, or
in a task that is cancelled; an operation that returns as if it had not been cancelled fails as well.

Each actor has a generator of random numbers of its own, made of the seed and its name. What it does is the
same in every run with that seed; when it happens is up to threads and the kernel.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import IO, Any

import aionet

__all__ = [
    "CrashedError",
    "End",
    "IncomingStream",
    "MakeFaults",
    "OutgoingStream",
    "RawEnd",
    "Work",
    "World",
    "reap",
]

HEADER = struct.Struct(">4sIII")  # magic, stream, number of the frame, length of the body
MAGIC = b"cHaO"
LONGEST = 300_000
PLACES = 65_537  # where a body may begin in the pattern; prime, so that frames in a row begin far apart
PATTERN = random.Random(0).randbytes(LONGEST + PLACES)

PATIENCE = 5.0  # seconds that an end's tasks may take to notice that it was closed
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_LOST, _CLOSED = aionet.ConnectionLostError, aionet.SocketClosedError
_EXHAUSTED = aionet.ResourceExhaustedError
DOCUMENTED: dict[str, tuple[type[Exception], ...]] = {
    "accept": (_CLOSED,),
    "aclose": (aionet.DeliveryError,),
    "connect": (aionet.ConnectError, aionet.SocketBusyError, _CLOSED),
    "inspect": (_CLOSED,),
    "read": (
        _LOST,
        _CLOSED,
        _EXHAUSTED,
        aionet.SocketBusyError,
        aionet.IncompleteReadError,
        aionet.LimitExceededError,
    ),
    "send_eof": (_LOST, _CLOSED, _EXHAUSTED),
    "wait_acknowledged": (aionet.DeliveryError, _CLOSED),
    "write": (_LOST, _CLOSED, _EXHAUSTED),
}
"""What may come out of each operation, `TimeoutError` and `CancelledError` of the caller's making aside."""


Work = Callable[[], Coroutine[Any, Any, object]]
MakeFaults = Callable[[random.Random], object] | None


class CrashedError(Exception):
    """What a handler raises that has a bug."""


# Streams ----------------------------------------------------------------------------------------------------


class OutgoingStream:
    """What one end sends: numbered frames, and how the write of each ended."""

    def __init__(self, key: int, *, may_tear: bool) -> None:
        self.key = key
        self.may_tear = may_tear
        """Whether the stream may break off within a frame and yet look as if it had ended cleanly."""
        self.ended = False
        self.outcomes: list[str] = []
        """Of each frame: pending, returned, cancelled or failed."""
        self._lengths: list[int] = []
        self.back: IncomingStream
        """The other direction, at this end."""
        self.receiver: IncomingStream | None = None

    def next_frame(self, length: int) -> tuple[int, bytes]:
        """Return the number of a new frame and the frame; to be written without giving up control before."""
        self._lengths.append(length)
        self.outcomes.append("pending")
        number = len(self._lengths) - 1
        return number, self.frame(number)

    def frame(self, number: int) -> bytes:
        """Return frame `number`, which must have been made."""
        assert number < len(self._lengths), f"frame {number} of stream {self.key} was never sent"
        length, place = self._lengths[number], (self.key * 7_919 + number * 10_007) % PLACES
        return HEADER.pack(MAGIC, self.key, number, length) + PATTERN[place : place + length]


class IncomingStream:
    """What one end receives, compared with what was sent."""

    def __init__(self, streams: dict[int, OutgoingStream], back: OutgoingStream) -> None:
        self._streams = streams
        self._back = back
        self._unparsed = bytearray()
        self._peeked = b""
        self._arrived: list[int] = []
        self._torn: int | None = None
        self._source: OutgoingStream | None = None
        self.ended = ""
        """How it ended: "clean", "lost", or "" while it has not, or nobody looked."""

    def feed(self, data: bytes) -> None:
        """Check what was received next."""
        if not data:
            return
        assert self.ended != "clean", f"{len(data)} bytes after the end of the stream"
        self._compare_peeked(data)
        self._peeked = self._peeked[len(data) :]
        self._unparsed += data
        while self._take_frame():
            pass

    def peek(self, data: bytes) -> None:
        """Check what was looked at and not taken: the next reads have to begin with it."""
        self._compare_peeked(data)
        self._peeked = max(self._peeked, data, key=len)

    def finish(self, how: str) -> None:
        """Check the rest: it must be the beginning of a frame, and a clean end must not cut a frame short."""
        if self.ended:
            return
        self.ended = how
        rest = bytes(self._unparsed)
        if not rest:
            assert how != "clean" or not self._peeked, "what was looked at never came"
            return
        if len(rest) >= HEADER.size:
            _, key, self._torn, _ = HEADER.unpack_from(rest)
            assert self._source_of(key).frame(self._torn).startswith(rest), "the last frame arrived changed"
        elif len(rest) >= 8:
            self._source_of(int.from_bytes(rest[4:8]))
        if how == "clean":
            source = self._source
            assert source is not None, f"{rest!r} is no frame"
            assert source.may_tear, f"a clean end {len(rest)} bytes into a frame of {source.key}"

    def verify(self) -> Counter[str]:
        """Compare with how the writes ended, after everything is over; return what became of them."""
        source = self._source
        if source is None:
            return Counter()
        arrived = set(self._arrived)
        missing = [number for number in range(len(source.outcomes)) if number not in arrived]
        last = len(source.outcomes) if self.ended == "clean" else max(arrived, default=-1)
        for number in missing:
            assert number > last or source.outcomes[number] != "returned", (
                f"frame {number} of stream {source.key} was written and did not arrive; {self.ended=}"
            )
        became = Counter(f"frame {source.outcomes[number]}, arrived" for number in arrived)
        became.update(f"frame {source.outcomes[number]}, absent" for number in missing if number < last)
        became["torn"] = self._torn is not None
        return became

    def _compare_peeked(self, data: bytes) -> None:
        n = min(len(self._peeked), len(data))
        assert data[:n] == self._peeked[:n], "what was looked at is not what came"

    def _take_frame(self) -> bool:
        if len(self._unparsed) < HEADER.size:
            return False
        magic, key, number, length = HEADER.unpack_from(self._unparsed)
        assert magic == MAGIC, f"no frame after {self._arrived[-1:]} of {self._source and self._source.key}"
        source = self._source_of(key)
        assert not self._arrived or number > self._arrived[-1], "out of order, or twice"
        if len(self._unparsed) < HEADER.size + length:
            return False
        expected = source.frame(number)
        whole = self._unparsed[: len(expected)]
        assert whole == expected, f"frame {number} of stream {key} arrived changed"
        del self._unparsed[: len(expected)]
        self._arrived.append(number)
        return True

    def _source_of(self, key: int) -> OutgoingStream:
        """Return the stream `key`, which must be the one that this end has been listening to."""
        source = self._streams[key]
        if self._source is None:
            assert source.receiver is None, f"stream {key} arrived at two ends"
            source.receiver = self
            self._source = source
        assert self._source is source, f"stream {key} arrived where {self._source.key} is due"
        other = source.back._source
        assert other is None or other is self._back, f"stream {key} arrived at a stranger's end"
        return source


# The world --------------------------------------------------------------------------------------------------


class World:
    """What all actors share: streams, random numbers, counts, failures, and when to stop."""

    def __init__(self, seed: int, make_faults: MakeFaults = None) -> None:
        self.seed = seed
        self.make_faults = make_faults
        """Has some of the next system calls fail for lack of resources, where there is such a thing."""
        self.counts: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.stopping = threading.Event()
        self.ends: list[End] = []
        """Ours that are alive, for others to harm."""
        self._keys = itertools.count(1)
        self._streams: dict[int, OutgoingStream] = {}
        self._receivers: list[IncomingStream] = []

    def random(self, *name: object) -> random.Random:
        """Return the generator of the actor `name`."""
        return random.Random(f"{self.seed}/{name}")

    def streams(self, *, may_tear: bool) -> tuple[IncomingStream, OutgoingStream]:
        """Return both directions of a new end."""
        outgoing = OutgoingStream(next(self._keys), may_tear=may_tear)
        outgoing.back = incoming = IncomingStream(self._streams, outgoing)
        self._streams[outgoing.key] = outgoing
        self._receivers.append(incoming)
        return incoming, outgoing

    def count(self, what: str) -> None:
        """Count `what`; this is the progress that the watchdog sees."""
        self.counts[what] += 1

    def fail(self, error: BaseException) -> None:
        """Remember `error` and stop."""
        self.failures.append(error)
        self.stopping.set()

    def verify(self) -> None:
        """Compare all that was received with all that was sent, after everything is over."""
        for receiver in self._receivers:
            try:
                self.counts.update(receiver.verify())
            except AssertionError as error:
                self.fail(error)
        pending = [stream.key for stream in self._streams.values() if "pending" in stream.outcomes]
        if pending:
            self.fail(AssertionError(f"writes neither returned nor raised, on streams {pending}"))

    async def judged(self, operation: str, work: Work) -> str:
        """Await `work()`; return "done" or the name of the documented error that it raised."""
        try:
            await work()
            outcome = "done"
        except asyncio.CancelledError:
            self.count(f"{operation}: cancelled")
            raise
        except Exception as error:
            outcome = type(error).__name__
            if type(error) not in DOCUMENTED[operation]:
                error.add_note(f"came out of {operation}")
                self.fail(error)
        self.count(f"{operation}: {outcome}")
        return outcome

    async def attempt(self, rng: random.Random, operation: str, work: Work) -> str:
        """Await `work()`, perhaps disturbed; return how it ended."""
        return await self._disturbed(rng, operation, self.judged(operation, work))

    async def _disturbed(self, rng: random.Random, operation: str, work: Coroutine[Any, Any, str]) -> str:
        way = rng.random()
        seconds = rng.choice((0.0, rng.random() * 0.002, rng.random() * 0.03))
        if way < 0.6:
            return await work
        outcome = "cut short"
        if way < 0.8:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds) as limit:
                    outcome = await work
            cut = limit.expired()
        else:
            task = asyncio.create_task(work)
            cut = await cancel_after(task, seconds)
            if not task.cancelled():
                outcome = task.result()
        if cut and outcome == "done":
            self.fail(AssertionError(f"{operation} returned as if it had not been cancelled"))
        return outcome


async def cancel_after(task: asyncio.Task[Any], seconds: float) -> bool:
    """Wait for `task`, and cancel it after `seconds`; return whether that came in time to reach it."""
    reached = []
    timer = asyncio.get_running_loop().call_later(seconds, lambda: reached.append(task.cancel()))
    try:
        await asyncio.wait([task])
    finally:
        timer.cancel()
        await reap([task])
    return any(reached)


async def reap(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks`, again and again, until the last has ended; being cancelled meanwhile has to wait."""
    pending = {task for task in tasks if not task.done()}
    cancelled = False
    while pending:
        for task in pending:
            task.cancel()
        try:
            _, pending = await asyncio.wait(pending, timeout=0.05)
        except asyncio.CancelledError:
            cancelled = True
            pending = {task for task in pending if not task.done()}
    if cancelled:
        raise asyncio.CancelledError


# Our ends ---------------------------------------------------------------------------------------------------


class End:
    """One of our sockets, and the tasks that read, write, close and harm."""

    def __init__(self, world: World, sock: Any, rng: random.Random) -> None:
        self.sock = sock
        self.tasks: list[asyncio.Task[Any]] = []
        self._owner: asyncio.Task[Any] | None = None
        self._world = world
        self._rng = rng
        self._tcp = isinstance(sock, aionet.AsyncTcpSocket)
        # A Unix socket knows no reset: a connection that was aborted looks as if it had ended cleanly.
        self._incoming, self._outgoing = world.streams(may_tear=not self._tcp)
        self._writers = rng.choice((1, 1, 2))

    async def live(self, *, close: bool = True) -> None:
        """Do everything at once for a while, then close, or leave that to others."""
        world, rng = self._world, self._rng
        activities = [self._read_on, *[self._write_on] * self._writers]
        if rng.random() < 0.3:
            activities.append(self._harm_on)
        self.tasks = [asyncio.create_task(self._persist(activity, rng.random())) for activity in activities]
        self._owner = asyncio.current_task()
        world.ends.append(self)
        try:
            await self._persist(lambda: self._until_over(rng.choice((0.01, 0.1, 0.4, 1.0))), rng.random())
            if close and await self._close():
                await self._see_all_wake()
        finally:
            world.ends.remove(self)
            await reap(self.tasks)

    async def write_frame(self) -> None:
        """Write a frame in a random way, and enter how that ended."""
        rng, outgoing = self._rng, self._outgoing
        length = rng.choice((0, 1, 100, 5_000, 70_000, rng.randrange(LONGEST)))
        ended = outgoing.ended
        number, data = outgoing.next_frame(length)
        outcome = "failed"
        try:
            written = await rng.choice(WRITES)(self.sock, data, rng)
            outcome = "returned"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            outgoing.outcomes[number] = outcome
        assert written == len(data), f"{written} bytes written, of {len(data)}"
        assert not ended, "a write returned after the stream had been ended"

    async def _persist(self, activity: Callable[[], Coroutine[Any, Any, None]], stubborn: float) -> None:
        """Run `activity`; some swallow their cancellation, once, and begin anew."""
        try:
            await activity()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if stubborn > 0.25 or task is None or task.uncancel():
                raise
            self._world.count("cancellation swallowed")
            await activity()

    async def _until_over(self, seconds: float) -> None:
        await asyncio.wait(self.tasks, timeout=seconds)

    # Reading

    async def _read_on(self) -> None:
        rng = self._rng
        while not self._incoming.ended and not self._world.stopping.is_set():
            outcome = await self._world.attempt(rng, "read", self._read)
            if outcome == "SocketClosedError":
                return
            if outcome == "SocketBusyError" or rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 0.01)
        if self._incoming.ended == "clean":  # and so it stays
            await self._world.attempt(rng, "read", self._read)

    async def _read(self) -> None:
        way, read = self._rng.choice(READS)
        try:
            data = await read(self.sock, self._rng)
        except aionet.IncompleteReadError as error:
            self._incoming.feed(error.partial)
            self._incoming.finish("clean")
            raise
        except aionet.ConnectionLostError:
            self._incoming.finish("lost")
            raise
        if not data:
            self._incoming.finish("clean")
        elif way == "peek":
            self._incoming.peek(data)
        else:
            self._incoming.feed(data)

    # Writing

    async def _write_on(self) -> None:
        world, rng = self._world, self._rng
        for _ in range(rng.choice((0, 1, 5, 40))):
            if world.stopping.is_set():
                return
            outcome = await world.attempt(rng, "write", self.write_frame)
            if outcome in ("SocketClosedError", "ConnectionLostError"):
                return
            if rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 0.01)
            if self._tcp and rng.random() < 0.1:
                await world.attempt(rng, "wait_acknowledged", self._wait_acknowledged)
        if rng.random() < 0.7:
            await world.attempt(rng, "send_eof", self._send_eof)

    async def _send_eof(self) -> None:
        await self.sock.send_eof()
        self._outgoing.ended = True

    async def _wait_acknowledged(self) -> None:
        await self.sock.wait_acknowledged()
        if self._writers == 1:  # else the other one may have written since
            assert self.sock.closed or self.sock.unacknowledged == 0

    # Closing

    async def _close(self) -> bool:
        """Close somehow; return whether it was done and not left to others."""
        world, rng = self._world, self._rng
        way = rng.choice(("aclose", "aclose", "aclose twice", "in good order", "abort", "leave"))
        if way == "leave":
            return False
        if way == "in good order":
            await world.attempt(rng, "send_eof", self._send_eof)
            await self._until_over(0.2)
        if way == "aclose twice":
            twice = [asyncio.create_task(self.aclose()) for _ in range(2)]
            self.tasks += twice
            await asyncio.wait(twice)
        elif way == "abort":
            self.abort()
        else:
            await self.aclose()
        return self.sock.closed

    async def _see_all_wake(self) -> None:
        """Closing has to wake whoever waits."""
        _, pending = await asyncio.wait(self.tasks, timeout=PATIENCE)
        if pending:
            self._world.fail(AssertionError(f"{self.sock!r} does not wake {pending}"))

    async def aclose(self) -> None:
        """Close, perhaps disturbed."""
        await self._world.attempt(self._rng, "aclose", self._aclose)

    async def _aclose(self) -> None:
        first = not self.sock.closed
        try:
            async with asyncio.timeout(PATIENCE):
                await self.sock.aclose()
        except asyncio.CancelledError:
            assert self.sock.fileno() == -1 or not first, "closing was cancelled, and the descriptor is open"
            raise
        finally:
            assert self.sock.closed
        assert self.sock.fileno() == -1, "closed, and the descriptor is open"

    def abort(self) -> None:
        """Reset the connection."""
        self.sock.abort()
        self._world.count("abort")
        if self.sock.fileno() != -1 or not self.sock.closed:
            self._world.fail(AssertionError(f"aborted, and not closed: {self.sock!r}"))

    # Harming

    async def _harm_on(self) -> None:
        world, rng = self._world, self._rng
        while not self.sock.closed and not world.stopping.is_set():
            await asyncio.sleep(rng.random() * 0.05)
            other = rng.choice(world.ends) if world.ends else self
            way = rng.choice(("read", "read", "read", "inspect", "inspect", "aclose", "abort", "cancel"))
            if way == "read":
                await world.attempt(rng, "read", self._read)
            elif way == "inspect":
                await world.judged("inspect", self._inspect)
                await world.attempt(rng, "connect", self._connect_again)
            elif way == "aclose":
                await other.aclose()
            elif way == "abort":
                other.abort()
            else:
                other.cancel_one_task()

    def cancel_one_task(self) -> None:
        """Cancel one of the tasks, or the one that they belong to."""
        task = self._rng.choice([*self.tasks, self._owner])
        if task is not None:
            task.cancel()

    async def _connect_again(self) -> None:
        await self.sock.connect_to(("127.0.0.1", 9) if self._tcp else "/nowhere")

    async def _inspect(self) -> None:
        repr(self.sock)
        if self.sock.raw_socket.fileno() != self.sock.fileno():
            raise AssertionError("two descriptors")
        if self._tcp:
            self.sock.tcp_info()


async def _read_into(sock: Any, rng: random.Random) -> bytes:
    buffer = bytearray(rng.choice((1, 1_000, 100_000)))
    n = await sock.read_into(buffer)
    del buffer[n:]  # which it refuses as long as anybody looks into it
    return bytes(buffer)


READS: list[tuple[str, Callable[[Any, random.Random], Coroutine[Any, Any, bytes]]]] = [
    ("read", lambda sock, rng: sock.read(rng.choice((1, 100, 65_536)))),
    ("read_exactly", lambda sock, rng: sock.read_exactly(rng.choice((1, 16, 1_000, 200_000)))),
    ("read_line", lambda sock, rng: sock.read_line(rng.choice((10, 65_536)))),
    ("read_until", lambda sock, rng: sock.read_until(b"\n", b"\0\0", max_bytes=rng.choice((10, 1_000)))),
    ("read_into", _read_into),
    ("peek", lambda sock, rng: sock.peek(1_000, at_least=rng.choice((1, 1, 3, 1_000)))),
    ("anext", lambda sock, rng: anext(sock, b"")),
]


async def _write_changed_afterwards(sock: Any, data: bytes, rng: random.Random) -> int:
    changing = bytearray(data)
    try:
        written: int = await sock.write(changing)
    finally:
        changing[:] = bytes(len(changing))
    return written


async def _write_vectored(sock: Any, data: bytes, rng: random.Random) -> int:
    changing = bytearray(data)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    pieces = [memoryview(changing)[i:j] for i, j in itertools.pairwise([0, *cuts, len(data)])]
    try:
        written: int = await sock.write_vectored(pieces)
    finally:
        changing[:] = bytes(len(changing))
    return written


async def _send_file(sock: Any, data: bytes, rng: random.Random) -> int:
    with tempfile.TemporaryFile() as file:  # closed as soon as the write is cancelled
        return await _send_part(sock, file, data, rng.randrange(1_000))


async def _send_memory_file(sock: Any, data: bytes, rng: random.Random) -> int:
    return await _send_part(sock, io.BytesIO(), data, rng.randrange(1_000))


async def _send_part(sock: Any, file: IO[bytes], data: bytes, offset: int) -> int:
    file.write(bytes(offset) + data + b"not part of it")
    file.flush()
    written: int = await sock.send_file(file, offset, len(data))
    return written


WRITES: list[Callable[[Any, bytes, random.Random], Coroutine[Any, Any, int]]] = [
    lambda sock, data, rng: sock.write(data),
    lambda sock, data, rng: sock.write(data),
    _write_changed_afterwards,
    _write_vectored,
    _send_file,
    _send_memory_file,
]


# Ends that know nothing of aionet --------------------------------------------------------------------------


class RawEnd:
    """A blocking socket in a thread: it stalls, floods, breaks off and disappears."""

    def __init__(self, world: World, sock: socket.socket, rng: random.Random) -> None:
        self._world = world
        self._sock = sock
        self._rng = rng
        self._incoming, self._outgoing = world.streams(may_tear=False)
        self._unsent = memoryview(b"")
        self._deadline = time.monotonic() + rng.choice((0.01, 0.1, 0.5))
        sock.settimeout(0.02)

    def live(self) -> None:
        """Do one thing after another for a while, then end it somehow."""
        steps: list[Callable[[], object]] = [
            self._send,
            self._receive,
            self._receive,
            self._flood,
            self._stall,
        ]
        endings = [self._drop, self._reset, self._break_off, self._half_close, self._half_close]
        try:
            with self._sock:
                while self._going_on():
                    self._rng.choice(steps)()
                self._rng.choice(endings)()
        except OSError as error:
            self._world.count(f"raw: {type(error).__name__}")
        except Exception as error:
            self._world.fail(error)
        finally:
            self._outgoing.outcomes[:] = [
                "failed" if outcome == "pending" else outcome for outcome in self._outgoing.outcomes
            ]

    def _going_on(self) -> bool:
        in_time = time.monotonic() < self._deadline and not self._world.stopping.is_set()
        return in_time and not self._incoming.ended

    def _send(self) -> bool:
        """Go on with the frame begun, or begin one; return whether all of it has gone."""
        if not self._unsent:
            length = self._rng.choice((0, 10, 3_000, 100_000))
            self._unsent = memoryview(self._outgoing.next_frame(length)[1])
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except TimeoutError:
            return False
        self._outgoing.outcomes[-1] = "returned"
        self._world.count("raw: sent")
        return True

    def _receive(self) -> None:
        try:
            data = self._sock.recv(self._rng.choice((100, 10_000, 1 << 20)))
        except TimeoutError:
            return
        except ConnectionError:
            self._incoming.finish("lost")
            raise
        if data:
            self._incoming.feed(data)
            self._world.count("raw: received")
        else:
            self._incoming.finish("clean")
            self._world.count("raw: end of the stream")

    def _flood(self) -> None:
        for _ in range(10):
            if not self._send():
                break

    def _stall(self) -> None:
        self._world.stopping.wait(self._rng.random() * 0.05)

    # Endings

    def _drop(self) -> None:
        self._outgoing.may_tear = bool(self._unsent)
        self._world.count("raw: dropped")

    def _reset(self) -> None:
        self._drop()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    def _break_off(self) -> None:
        """Disappear in the middle of a frame."""
        self._outgoing.may_tear = True
        if self._send():
            frame = self._outgoing.next_frame(100)[1]
            self._sock.sendall(frame[: self._rng.randrange(8, len(frame))])
        self._world.count("raw: broken off")

    def _half_close(self) -> None:
        """Finish, end this direction, and listen to the end."""
        self._outgoing.may_tear = bool(self._unsent) and not self._send()
        self._sock.shutdown(socket.SHUT_WR)
        self._deadline += 0.3
        while self._going_on():
            self._receive()
