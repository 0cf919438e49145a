"""Delivery is knowable: how much the peer's TCP has not acknowledged, when it has, and that it never will."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import pytest
import pytest_asyncio
from helpers import begin, until
from peers import RawListener, RawPeer

import aionet
from aionet.wires import delivery, portable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")

LARGE = 8 << 20  # more than both buffers of a connection hold

Ends = tuple[aionet.AsyncTcpSocket, RawPeer]


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[Ends]:
    """A connected socket, and its peer with a small window."""
    with RawListener() as listener:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        options = aionet.TcpOptions(linger=0.1, send_buffer=256 * 1024)
        sock = await aionet.AsyncTcpSocket(options=options).connect_to(listener.address)
        with await listener.accept() as peer:
            yield sock, peer
        sock.abort()


@contextmanager
def cancelled_at_the_end(task: asyncio.Future[object]) -> Iterator[None]:
    try:
        yield
    finally:
        task.cancel()


async def fill(sock: aionet.AsyncTcpSocket, peer: RawPeer) -> int:
    """Write until the peer's window is full; return how many bytes the peer will read in the end.

    The last write may have begun when it was given up, and then goes on alone.
    """
    before = unread(sock, peer)
    written = 0
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.1):
                written += await sock.write(bytes(4_000))
    filled = unread(sock, peer) - before
    assert written <= filled < written + 4_000
    return filled


def unread(sock: aionet.AsyncTcpSocket, peer: RawPeer) -> int:
    return sock.unacknowledged + received_by_system(peer)


async def missing_of(written: int, sock: aionet.AsyncTcpSocket, peer: RawPeer) -> int:
    """What the peer's system has not received, once it has acknowledged the rest."""
    await until(lambda: sock.unacknowledged == written - received_by_system(peer) > 0)
    return sock.unacknowledged


def received_by_system(peer: RawPeer) -> int:
    """What the peer's system has received and its program not yet read."""
    return int.from_bytes(fcntl.ioctl(peer.sock.fileno(), termios.FIONREAD, bytes(4)), "little")


@pytest.mark.asyncio
async def test_bytes_that_do_not_fit_into_the_peers_window_are_unacknowledged(ends: Ends) -> None:
    sock, peer = ends
    assert sock.unacknowledged == 0
    written = await fill(sock, peer)
    assert await missing_of(written, sock, peer) > 0
    reading = asyncio.ensure_future(peer.receive_exactly(written))
    await sock.wait_acknowledged()
    assert sock.unacknowledged == 0
    await reading


@pytest.mark.asyncio
async def test_bytes_that_still_wait_in_this_process_count_too(ends: Ends) -> None:
    sock, peer = ends
    task = asyncio.create_task(sock.write(bytes(LARGE)))
    with cancelled_at_the_end(task):
        await until(lambda: sock.unacknowledged == LARGE - received_by_system(peer))
        assert sock.unacknowledged > LARGE - (1 << 20)
        reading = asyncio.ensure_future(peer.receive_exactly(LARGE))
        await sock.wait_acknowledged()
        assert sock.unacknowledged == 0
        assert len(await reading) == LARGE
        assert await task == LARGE


@pytest.mark.asyncio
async def test_waiting_ends_only_when_the_peer_has_read_enough(ends: Ends) -> None:
    sock, peer = ends
    written = await fill(sock, peer)
    waiting = asyncio.create_task(sock.wait_acknowledged())
    await peer.receive_exactly(1_000)  # not enough to open the window for all the rest
    assert sock.unacknowledged > 0
    assert not waiting.done()
    await peer.receive_exactly(written - 1_000)
    await waiting
    assert sock.unacknowledged == 0


@pytest.mark.asyncio
async def test_a_reset_tells_how_many_bytes_were_not_acknowledged(ends: Ends) -> None:
    sock, peer = ends
    written = await fill(sock, peer)
    missing = await missing_of(written, sock, peer)
    waiting = asyncio.create_task(sock.wait_acknowledged())
    await asyncio.sleep(0)
    peer.reset()
    with pytest.raises(aionet.DeliveryError) as caught:
        await waiting
    assert caught.value.unacknowledged == missing
    assert str(missing) in str(caught.value)
    assert caught.value.peer_address == sock.peer_address
    with pytest.raises(aionet.ConnectionLostError):  # and it stays lost
        await sock.read()


@pytest.mark.asyncio
async def test_a_reset_tells_of_the_bytes_that_waited_in_this_process_too(ends: Ends) -> None:
    sock, peer = ends
    writing = asyncio.create_task(sock.write(bytes(LARGE)))
    await until(lambda: sock.unacknowledged == LARGE - received_by_system(peer))
    missing = sock.unacknowledged
    waiting = asyncio.create_task(sock.wait_acknowledged())
    await asyncio.sleep(0)
    peer.reset()
    with pytest.raises(aionet.ConnectionLostError):
        await writing
    with pytest.raises(aionet.DeliveryError) as caught:
        await waiting
    assert caught.value.unacknowledged == missing


@pytest.mark.asyncio
async def test_a_wait_after_the_reset_tells_as_well(ends: Ends) -> None:
    sock, peer = ends
    written = await fill(sock, peer)
    missing = await missing_of(written, sock, peer)
    peer.reset()
    with pytest.raises(aionet.ConnectionLostError):
        await sock.read()
    with pytest.raises(aionet.DeliveryError) as caught:
        await sock.wait_acknowledged()
    assert caught.value.unacknowledged == missing


@pytest.mark.asyncio
async def test_a_reset_after_everything_was_acknowledged_is_no_delivery_error(ends: Ends) -> None:
    sock, peer = ends
    await sock.write(b"all of it")
    await sock.wait_acknowledged()
    peer.reset()
    await sock.wait_acknowledged()


@pytest.mark.asyncio
async def test_the_second_wait_is_woken_by_an_event_and_does_not_poll(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock, peer = ends
    written = await fill(sock, peer)
    waiting = await begin(
        sock.wait_acknowledged()
    )  # switches the events on, as there is something to wait for
    await peer.receive_exactly(written)
    await waiting
    monkeypatch.setattr(delivery, "_FIRST_PAUSE", 3600.0)  # from here on only an event can wake it in time
    monkeypatch.setattr(delivery, "_LONGEST_PAUSE", 3600.0)
    looks = count_calls(monkeypatch, portable.delivery, "unacknowledged_bytes")
    for _ in range(3):
        written = await fill(sock, peer)
        looks.clear()
        reading = asyncio.ensure_future(peer.receive_exactly(written))
        await sock.wait_acknowledged()
        assert sock.unacknowledged == 0
        assert len(looks) < 200  # one for each acknowledgement at most, not thousands
        await reading


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[None]:
    calls: list[None] = []
    real = getattr(owner, name)

    def counting(*args: object, **kwargs: object) -> object:
        calls.append(None)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    return calls


@pytest.mark.asyncio
async def test_acknowledgements_do_not_keep_a_waiting_reader_busy(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock, peer = ends
    wakes = count_calls(monkeypatch, portable.PortableWire, "on_events")
    written = await fill(sock, peer)
    waiting = await begin(sock.wait_acknowledged())
    await peer.receive_exactly(written)
    await waiting
    reader = asyncio.create_task(sock.read())
    await asyncio.sleep(0)
    for _ in range(10):
        await sock.write(b"x")
        await peer.receive_exactly(1)
    wakes.clear()
    turns = 0
    deadline = asyncio.get_running_loop().time() + 0.2
    while asyncio.get_running_loop().time() < deadline:
        turns += 1
        await asyncio.sleep(0)
    assert turns > 100
    assert len(wakes) < 20  # those of the last acknowledgement; with a busy reader: one each turn
    assert not reader.done()
    peer.send_now(b"at last")
    assert await reader == b"at last"


@pytest.mark.asyncio
async def test_reading_and_writing_go_on_after_acknowledgement_events(ends: Ends) -> None:
    """libuv forgets a descriptor that reports an error, and an acknowledgement event looks like one."""
    sock, peer = ends
    await sock.write(b"first")
    await peer.receive_exactly(5)
    for round_ in range(20):
        reader = asyncio.create_task(sock.read())
        await asyncio.sleep(0)
        written = await sock.write(bytes(1 << (round_ % 15)))
        await peer.receive_exactly(written)
        await sock.wait_acknowledged()
        question = b"%d" % round_
        peer.send_now(question)
        assert await reader == question


@pytest.mark.asyncio
async def test_a_write_that_waits_for_room_gets_it_after_acknowledgement_events(ends: Ends) -> None:
    sock, peer = ends
    written = await fill(sock, peer)
    reading = asyncio.ensure_future(peer.receive_exactly(written))
    await sock.wait_acknowledged()
    await reading
    for _ in range(3):
        writing = asyncio.create_task(sock.write(bytes(LARGE)))
        reading = asyncio.ensure_future(peer.receive_exactly(LARGE))
        await sock.wait_acknowledged()
        assert await writing == LARGE
        await reading


@pytest.mark.asyncio
async def test_where_the_kernel_refuses_events_it_polls(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    sock, peer = ends
    monkeypatch.setattr(delivery, "_SO_TIMESTAMPING", 9999)  # ENOPROTOOPT, as an old kernel says
    for _ in range(2):
        written = await fill(sock, peer)
        reading = asyncio.ensure_future(peer.receive_exactly(written))
        await sock.wait_acknowledged()
        assert sock.unacknowledged == 0
        await reading
    written = await fill(sock, peer)
    missing = await missing_of(written, sock, peer)
    waiting = asyncio.create_task(sock.wait_acknowledged())
    await asyncio.sleep(0)
    peer.reset()
    with pytest.raises(aionet.DeliveryError) as caught:
        await waiting
    assert caught.value.unacknowledged == missing


@pytest.mark.asyncio
async def test_elsewhere_it_says_that_the_system_does_not_tell(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock, _ = ends
    monkeypatch.setattr(delivery, "_LINUX", False)
    with pytest.raises(NotImplementedError, match="SIOCOUTQ"):
        sock.unacknowledged  # noqa: B018
    with pytest.raises(NotImplementedError, match="SIOCOUTQ"):
        await sock.wait_acknowledged()
    await sock.aclose()  # which would like to know as well, and must do without


@pytest.mark.asyncio
async def test_the_end_of_the_stream_is_not_counted_as_a_byte(ends: Ends) -> None:
    sock, peer = ends
    written = await fill(sock, peer)
    missing = await missing_of(written, sock, peer)
    await sock.send_eof()
    assert sock.unacknowledged == missing
    reading = asyncio.ensure_future(peer.receive_to_end())
    await sock.wait_acknowledged()
    assert sock.unacknowledged == 0
    assert len(await reading) == written
    await sock.wait_acknowledged()


@pytest.mark.asyncio
async def test_ending_an_idle_stream_leaves_nothing_to_wait_for(ends: Ends) -> None:
    sock, peer = ends
    await sock.send_eof()
    assert sock.unacknowledged == 0
    await sock.wait_acknowledged()
    assert await peer.receive() == b""


@pytest.mark.asyncio
@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_closing_wakes_who_waits(ends: Ends, close: str) -> None:
    sock, peer = ends
    await fill(sock, peer)
    waiting = [asyncio.create_task(sock.wait_acknowledged()) for _ in range(3)]
    await asyncio.sleep(0.01)
    if close == "abort":
        sock.abort()
    else:
        await sock.aclose()
    for task in waiting:
        with pytest.raises(aionet.SocketClosedError):
            await task
    with pytest.raises(aionet.SocketClosedError):
        await sock.wait_acknowledged()


@pytest.mark.asyncio
async def test_a_cancelled_wait_changes_nothing(ends: Ends) -> None:
    sock, peer = ends
    written = await fill(sock, peer)
    for pause in (0, 0, 0.002):
        waiting = asyncio.create_task(sock.wait_acknowledged())
        await asyncio.sleep(pause)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    reading = asyncio.ensure_future(peer.receive_exactly(written))
    await asyncio.gather(sock.wait_acknowledged(), sock.wait_acknowledged())
    assert sock.unacknowledged == 0
    await reading
