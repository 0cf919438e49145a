"""`relay`: a two-way copy between two connected sockets.

Theory of operation
-------------------
Each way is a task of its own that reads a chunk, writes it, and only then reads the next. So backpressure
travels, memory is one chunk each way, and a side that does not read holds up the way towards it, not the
other one.

*An end travels.* The end of one side's stream becomes `send_eof` on the other, and the way back goes on.
When both ways have ended, both sockets are closed in good order.

*An end of TLS without close_notify* may be a cut (RFC 8446, 6.1), but mostly is not: many programs just close
their socket, Python's among them. Over plain TCP the other side could not tell the two apart either, and a
reset takes from it what an honest peer has sent. So it travels as an end unless the caller says otherwise,
and the report names the side. HAProxy 2.6 and socat 1.7 do the same, both ways.

*A loss travels too, behind the last bytes.* A reset destroys what its receiver's system has not got yet. So
when one side is lost, first everything that it had sent is delivered: read to the last byte, written, and
acknowledged by the survivor's TCP. Then the survivor is reset. What it sends meanwhile is thrown away (the
reset tells it so), because a peer that is busy sending may not read before it has finished. It has all the
time that it needs as long as it gets on; a standstill ends the delivery, and the report tells what was lost.
A Unix socket has no reset and needs no acknowledgement: what was written to it is in its peer's hands, and it
is simply closed.

*Cancelled*, or failing otherwise, it aborts both sides. A clean end would tell the peers that they have got
everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .errors import ConnectionLostError, DeliveryError, TlsError, TlsTruncatedError
from .stream_socket import AsyncStreamSocket
from .tcp_socket import AsyncTcpSocket

__all__ = ["RelayReport", "relay"]

_CHUNK = 256 * 1024
_STANDSTILL = 10.0  # seconds without progress after which the last bytes of a lost side are given up

_LOSS = (
    ConnectionLostError,
    TlsError,
)  # a stream of TLS that was cut short, or tampered with, is as good as lost

_StreamSocket: TypeAlias = AsyncStreamSocket[Any]


@dataclass(frozen=True, slots=True)
class RelayReport:
    """What went each way, and how it ended."""

    a_to_b: int
    """Bytes read from `a` and written to `b`."""
    b_to_a: int
    """Bytes read from `b` and written to `a`."""
    lost: Literal["a", "b"] | None
    """The side whose connection was lost, the first of them if both were; ``None``: both streams ended."""
    error: ConnectionLostError | TlsError | None
    """How it was lost."""
    undelivered: int
    """Of the lost side's bytes, how many the surviving side's TCP had not acknowledged when it was reset."""
    truncated: tuple[Literal["a", "b"], ...] = ()
    """The sides whose TLS stream ended without close_notify, where that was passed on as an end."""


async def relay(a: _StreamSocket, b: _StreamSocket, *, accept_truncation: bool = True) -> RelayReport:
    """Copy between `a` and `b`, both ways, until both streams have ended or one side is lost; close both.

    A connection that is lost is no exception here but an ending: the report tells of it.

    Args:
        a: one side.
        b: the other side.
        accept_truncation: pass an end of a TLS stream without close_notify on as an end, which gives up
            that the other side knows whether the stream was cut off. If false, it counts as a loss: the other
            side is reset, after the bytes that came before.

    Raises:
        SocketClosedError: one of them is closed, or somebody else closes it meanwhile.
        SocketBusyError: another task is reading from one of them.
        ValueError: both are the same socket.

    Cancel safety: cancelled, it aborts both; their peers see a reset and not the end of a stream that has
    been cut short.
    """
    if a is b:
        raise ValueError(f"relay() needs two sockets, and was given {a!r} twice")
    try:
        return await _Relaying(a, b, accept_truncation).run()
    finally:  # of no effect where both streams have ended: they are closed then
        a.abort()
        b.abort()


class _Way:
    """One of the two directions."""

    def __init__(self, source: _StreamSocket, sink: _StreamSocket, accept_truncation: bool) -> None:
        self.source = source
        self.sink = sink
        self.count = 0
        self.truncated = False
        self._accept_truncation = accept_truncation
        self.lost: _StreamSocket | None = None
        self.error: ConnectionLostError | TlsError | None = None
        self.task = asyncio.create_task(self._copy())

    async def _copy(self) -> None:
        """Copy to the end of the stream, or until one of the two is lost, and remember which."""
        end = self.source
        try:
            while True:
                end = self.source
                try:
                    data = await self.source.read(_CHUNK)
                except TlsTruncatedError:
                    if not self._accept_truncation:
                        raise
                    self.truncated, data = True, b""
                end = self.sink
                if not data:
                    return await self.sink.send_eof()
                await self.sink.write(data)
                self.count += len(data)
        except _LOSS as error:
            self.lost, self.error = end, error


class _Relaying:
    """One relay: two ways, and what to do when they end."""

    def __init__(self, a: _StreamSocket, b: _StreamSocket, accept_truncation: bool) -> None:
        self._a = a
        self._b = b
        self._accept_truncation = accept_truncation

    async def run(self) -> RelayReport:
        ways = (
            _Way(self._a, self._b, self._accept_truncation),
            _Way(self._b, self._a, self._accept_truncation),
        )
        undelivered = 0
        try:
            broken = await _first_loss(ways)
            if broken is None:
                await self._a.aclose()
                await self._b.aclose()
            else:
                out, back = ways if broken.lost is self._a else ways[::-1]
                undelivered = await _deliver_the_rest(out, back)
        finally:
            await _cancel(*(way.task for way in ways))
        return RelayReport(
            a_to_b=ways[0].count,
            b_to_a=ways[1].count,
            lost=None if broken is None else "a" if broken.lost is self._a else "b",
            error=None if broken is None else broken.error,
            undelivered=undelivered,
            truncated=_sides_of(*(way.truncated for way in ways)),
        )


def _sides_of(a: bool, b: bool) -> tuple[Literal["a", "b"], ...]:
    sides: tuple[Literal["a", "b"], ...] = ("a", "b")
    return tuple(side for side, is_one in zip(sides, (a, b), strict=True) if is_one)


async def _first_loss(ways: Sequence[_Way]) -> _Way | None:
    """Return the first way that meets a lost connection; ``None`` when both have reached their end."""
    pending = {way.task for way in ways}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        for way in ways:
            if way.lost is not None:
                return way
    return None


async def _deliver_the_rest(out: _Way, back: _Way) -> int:
    """The source of `out` is lost: bring what it sent to the sink; return how many bytes did not arrive."""
    survivor = out.sink
    await _cancel(back.task)
    delivery = asyncio.create_task(_delivered(out))
    discarding = asyncio.create_task(_discard_input(survivor))
    try:
        before = None
        while not delivery.done() and (now := (out.count, _unacknowledged(survivor))) != before:
            before = now
            await asyncio.wait({delivery}, timeout=_STANDSTILL)
        return delivery.result() if delivery.done() else _unacknowledged(survivor)
    finally:
        await _cancel(delivery, discarding)


async def _delivered(out: _Way) -> int:
    await asyncio.wait({out.task})
    out.task.result()
    if not isinstance(out.sink, AsyncTcpSocket):
        return 0
    try:
        await out.sink.wait_acknowledged()
    except DeliveryError as error:
        return error.unacknowledged
    except NotImplementedError:  # not Linux: the last bytes matter more than the reset
        await out.sink.aclose()
    return 0


async def _discard_input(socket: _StreamSocket) -> None:
    try:
        while await socket.read(_CHUNK):
            pass
    except _LOSS:  # `_delivered` will tell
        pass


def _unacknowledged(socket: _StreamSocket) -> int:
    if not isinstance(socket, AsyncTcpSocket) or socket.closed:
        return 0
    try:
        return socket.unacknowledged
    except NotImplementedError:
        return 0


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
