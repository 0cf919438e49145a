"""Accepting: in order, losing nothing, whatever accept(2) fails with."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket

import pytest
from helpers import begin, give_turns, open_sockets, until
from peers import RawPeer

from aionet import AsyncTcpSocket, AsyncUnixSocket, SocketBusyError, SocketClosedError
from aionet.listening import ListeningSocket

pytestmark = pytest.mark.asyncio


@contextlib.contextmanager
def aborting(*sockets):
    try:
        yield
    finally:
        for sock in sockets:
            sock.abort()


async def exchange(accepted, peer):
    """Prove that these two are the ends of one connection, and close both."""
    with peer:
        peer.send_now(b"ping")
        assert await accepted.read_exactly(4) == b"ping"
        await accepted.write(b"pong")
        assert await peer.receive_exactly(4) == b"pong"
        accepted.abort()


async def test_the_classic_sequence(kind):
    async with kind.server() as server:
        accepting = await begin(server.accept())
        assert not accepting.done()
        peer = await kind.connect(server)
        accepted = await accepting
        assert isinstance(accepted, kind.socket_class)
        await exchange(accepted, peer)


async def test_connects_the_socket_that_is_passed_in(kind):
    async with kind.server() as server:
        mine = kind.socket_class()
        peer = await kind.connect(server)
        assert await server.accept(mine) is mine
        await exchange(mine, peer)


async def test_connects_the_socket_that_is_passed_in_later(kind):
    async with kind.server() as server:
        mine = kind.socket_class()
        accepting = await begin(server.accept(mine))
        peer = await kind.connect(server)
        assert await accepting is mine
        await exchange(mine, peer)


async def test_refuses_a_socket_that_is_connected(kind):
    async with kind.server() as server:
        peer = await kind.connect(server)
        connected = await server.accept()
        waiting = await kind.connect(server)
        with pytest.raises(SocketBusyError):
            await server.accept(connected)
        await exchange(connected, peer)
        await exchange(await server.accept(), waiting)


async def test_refuses_a_socket_that_is_closed(kind):
    async with kind.server() as server:
        closed = kind.socket_class()
        await closed.aclose()
        with pytest.raises(SocketClosedError):
            await server.accept(closed)


async def test_refuses_what_is_no_socket_of_its_kind(kind):
    other = AsyncUnixSocket if kind.socket_class is AsyncTcpSocket else AsyncTcpSocket
    async with kind.server() as server:
        for wrong in (other(), "socket", kind.socket_class):
            with pytest.raises(TypeError):
                await server.accept(wrong)


async def test_one_socket_is_not_accepted_for_twice(kind):
    """Of two calls that wait with the same socket one is refused; no connection disappears."""
    async with kind.server() as server:
        mine = kind.socket_class()
        calls = [await begin(server.accept(mine)), await begin(server.accept(mine))]
        peers = [await kind.connect(server), await kind.connect(server)]
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
        assert sum(result is mine for result in results) == 1
        assert sum(isinstance(result, SocketBusyError) for result in results) == 1
        with aborting(mine, *[await server.accept()]):
            for peer in peers:
                peer.close()


async def test_a_socket_closed_while_accept_waits_with_it_stays_closed(kind):
    async with kind.server() as server:
        mine = kind.socket_class()
        accepting = await begin(server.accept(mine))
        await mine.aclose()
        peer = await kind.connect(server)
        with pytest.raises(SocketClosedError):
            await asyncio.wait_for(accepting, 30)
        assert mine.closed
        await exchange(await asyncio.wait_for(server.accept(), 30), peer)


async def test_iterating(kind):
    served = []
    async with kind.server() as server:

        async def serve():
            async for accepted in server:
                served.append(await accepted.read())
                await accepted.aclose()

        serving = await begin(serve())
        for number in range(5):
            with await kind.connect(server) as peer:
                peer.send_now(b"%d" % number)
                assert await peer.receive_to_end() == b""
    await serving
    assert served == [b"0", b"1", b"2", b"3", b"4"]


async def test_many_connections_at_once(kind):
    async with kind.server() as server:
        peers = [await kind.connect(server) for _ in range(150)]
        accepted = [await server.accept() for _ in peers]
        for number, peer in enumerate(peers):
            peer.send_now(b"%03d" % number)
        numbers = [await sock.read_exactly(3) for sock in accepted]
        assert sorted(numbers) == [b"%03d" % number for number in range(150)]
        for sock, peer in zip(accepted, peers, strict=True):
            sock.abort()
            peer.close()


async def test_accepting_what_is_always_ready_lets_others_run(kind):
    async with kind.server() as server:
        peers = [await kind.connect(server) for _ in range(200)]
        turns = []

        async def count():
            while True:
                turns.append(None)
                await asyncio.sleep(0)

        counting = await begin(count())
        before = len(turns)
        accepted = [await server.accept() for _ in peers]
        assert len(turns) > before
        counting.cancel()
        for sock, peer in zip(accepted, peers, strict=True):
            sock.abort()
            peer.close()
        await asyncio.wait([counting])


# Several acceptors ------------------------------------------------------------------------------------------


async def test_acceptors_are_served_in_order(kind):
    async with kind.server() as server:
        served = []

        async def accept(number):
            accepted = await server.accept()
            served.append(number)
            return accepted

        accepting = [await begin(accept(number)) for number in range(5)]
        peers = [await kind.connect(server) for _ in range(5)]
        accepted = await asyncio.gather(*accepting)
        assert served == [0, 1, 2, 3, 4]
        with aborting(*accepted):
            for peer in peers:
                peer.close()


async def test_acceptors_are_served_in_order_when_connections_come_first(kind):
    async with kind.server() as server:
        peers = [await kind.connect(server) for _ in range(100)]
        served = []

        async def accept(number):
            accepted = await server.accept()
            served.append(number)
            return accepted

        accepted = await asyncio.gather(*[accept(number) for number in range(100)])
        assert served == list(range(100))
        with aborting(*accepted):
            for peer in peers:
                peer.close()


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancelled_acceptor_passes_the_word_on(kind, turns):
    async with kind.server() as server:
        first, second = await begin(server.accept()), await begin(server.accept())
        peer = await kind.connect(server)
        await give_turns(turns)
        first.cancel()
        await asyncio.wait([first])
        accepted = await asyncio.wait_for(second if first.cancelled() else first, 30)
        await exchange(accepted, peer)
        second.cancel()
        await asyncio.wait([second])


async def test_a_deadline_that_meets_a_connection_loses_nothing(kind):
    async with kind.server() as server:
        loop = asyncio.get_running_loop()

        async def accept(deadline):
            try:
                async with asyncio.timeout_at(deadline):
                    return await server.accept()
            except TimeoutError:
                return None

        accepted = []
        peers = []
        for _ in range(30):
            deadline = loop.time() + 0.001
            accepting = await begin(accept(deadline))
            peer = socket.socket(kind.family)  # not in a thread: the loop must not run meanwhile
            peer.connect(server.address.path if kind.family == socket.AF_UNIX else server.address.sockaddr())
            peers.append(peer)
            while loop.time() < deadline:
                pass
            accepted.append(await accepting)
        accepted = [sock for sock in accepted if sock is not None]
        while len(accepted) < 30:
            accepted.append(await asyncio.wait_for(server.accept(), 30))
        with aborting(*accepted):
            for peer in peers:
                peer.close()


# Pausing ----------------------------------------------------------------------------------------------------


async def test_a_paused_server_leaves_connections_in_the_queue(kind):
    async with kind.server() as server:
        accepting = await begin(server.accept())
        server.pause()
        assert server.paused
        peer = await kind.connect(server)
        await give_turns(30)
        assert not accepting.done()
        server.resume()
        assert not server.paused
        await exchange(await accepting, peer)


async def test_an_accept_on_a_paused_server_waits(kind):
    async with kind.server() as server:
        server.pause()
        peer = await kind.connect(server)
        accepting = await begin(server.accept())
        assert not accepting.done()
        server.resume()
        await exchange(await accepting, peer)


async def test_pausing_twice_and_resuming_once(kind):
    async with kind.server() as server:
        server.resume()
        server.pause()
        server.pause()
        server.resume()
        peer = await kind.connect(server)
        await exchange(await server.accept(), peer)


async def test_closing_a_paused_server_wakes_its_acceptors(kind):
    server = kind.server()
    server.pause()
    accepting = await begin(server.accept())
    await server.aclose()
    with pytest.raises(SocketClosedError):
        await accepting


# Closing ----------------------------------------------------------------------------------------------------


async def test_closing_wakes_all_acceptors(kind):
    server = kind.server()
    accepting = [await begin(server.accept()) for _ in range(3)]
    await server.aclose()
    for error in await asyncio.gather(*accepting, return_exceptions=True):
        assert isinstance(error, SocketClosedError)
        assert error.operation == "accept"
        assert error.local_address == server.address


async def test_after_closing(kind):
    before = open_sockets()
    server = kind.server()
    address = server.address
    assert server.filenos()
    await server.aclose()
    await server.aclose()
    assert server.closed
    assert server.filenos() == []
    assert server.address == address
    assert "closed" in repr(server)
    assert open_sockets() == before
    with pytest.raises(SocketClosedError):
        await server.accept()
    assert [sock async for sock in server] == []
    server.pause()
    server.resume()


async def test_closing_leaves_accepted_connections_alone(kind):
    async with kind.server() as server:
        peer = await kind.connect(server)
        accepted = await server.accept()
    await exchange(accepted, peer)


async def test_closing_meanwhile_by_another_task_does_not_take_a_connection(kind):
    server = kind.server()
    accepting = await begin(server.accept())
    peer = await kind.connect(server)
    server.close()
    try:
        accepted = await accepting
    except SocketClosedError:
        peer.close()
    else:
        await exchange(accepted, peer)


# Failures of accept(2) --------------------------------------------------------------------------------------

TRANSIENT = [
    "ECONNABORTED",
    "ECONNRESET",
    "EINTR",
    "EPERM",
    "EPROTO",
    "ENETDOWN",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ENETUNREACH",
    "ETIMEDOUT",
]


def system_error(name):
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))  # makes a BlockingIOError of EAGAIN, as the system does


@pytest.mark.parametrize("name", TRANSIENT)
async def test_transient_failures_cost_no_client(kind, fault, name, caplog):
    async with kind.server() as server:
        calls = []
        fault(server, lambda: calls.append(None) or (system_error(name) if len(calls) % 2 else None))
        for _ in range(5):
            accepting = await begin(server.accept())
            peer = await kind.connect(server)
            await exchange(await asyncio.wait_for(accepting, 30), peer)
        peers = [await kind.connect(server) for _ in range(5)]
        accepted = [await asyncio.wait_for(server.accept(), 30) for _ in peers]
        with aborting(*accepted):
            for peer in peers:
                peer.close()
    assert not caplog.records


async def test_a_storm_of_transient_failures_neither_holds_the_loop_nor_costs_a_client(kind, fault):
    async with kind.server() as server:
        errors = [system_error("ECONNABORTED") for _ in range(1000)]
        fault(server, lambda: errors.pop() if errors else None)
        peer = await kind.connect(server)
        others_turn = asyncio.Event()
        accepting = asyncio.create_task(server.accept())
        asyncio.get_running_loop().call_later(0, others_turn.set)
        await others_turn.wait()
        await exchange(await asyncio.wait_for(accepting, 30), peer)


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
async def test_exhaustion_backs_off_says_so_once_and_serves_after(kind, fault, name, caplog):
    async with kind.server() as server:
        calls = []
        exhausted = True
        fault(server, lambda: calls.append(None) or (system_error(name) if exhausted else None))
        accepting = await begin(server.accept())
        peer = await kind.connect(server)
        await until(lambda: len(calls) >= 3)
        await give_turns(50)
        assert len(calls) < 10, "it spins"
        assert not accepting.done()
        exhausted = False
        await exchange(await asyncio.wait_for(accepting, 30), peer)
    records = [record for record in caplog.records if record.name == "aionet.server"]
    assert len(records) == 1
    assert records[0].levelno == logging.WARNING
    assert os.strerror(getattr(errno, name)) in records[0].getMessage()
    assert str(server.address) in records[0].getMessage()


async def test_a_descriptor_that_this_process_closes_ends_the_back_off(kind, fault, caplog):
    async with kind.server() as server:
        peers = [await kind.connect(server), await kind.connect(server)]
        first = await server.accept()
        calls = []
        fault(server, lambda: calls.append(None) or (system_error("EMFILE") if len(calls) == 1 else None))
        started = asyncio.get_running_loop().time()
        accepting = await begin(server.accept())
        assert not accepting.done()
        first.abort()
        second = await accepting
        assert asyncio.get_running_loop().time() - started < 0.09
        with aborting(second):
            for peer in peers:
                peer.close()


async def test_closing_during_a_back_off(kind, fault, caplog):
    server = kind.server()
    fault(server, lambda: system_error("EMFILE"))
    accepting = [await begin(server.accept()) for _ in range(2)]
    peer = await kind.connect(server)
    await until(lambda: caplog.records)
    await server.aclose()
    for error in await asyncio.gather(*accepting, return_exceptions=True):
        assert isinstance(error, SocketClosedError)
    peer.close()


async def test_really_out_of_descriptors(kind, caplog):
    resource = pytest.importorskip("resource")
    async with kind.server() as server:
        accepting = await begin(server.accept())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        peer = RawPeer(socket.socket(kind.family))
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))  # no descriptor from here on
        try:
            peer.sock.connect(
                server.address.path if kind.family == socket.AF_UNIX else server.address.sockaddr()
            )
            await until(lambda: caplog.records)
            assert not accepting.done()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await exchange(await asyncio.wait_for(accepting, 30), peer)


@pytest.mark.parametrize("name", ["EINVAL", "EBADF", "ENOTSOCK"])
async def test_a_fatal_failure_is_raised(kind, fault, name):
    async with kind.server() as server:
        accepting = [await begin(server.accept()) for _ in range(2)]
        fault(server, lambda: system_error(name))
        peer = await kind.connect(server)
        for error in await asyncio.wait_for(asyncio.gather(*accepting, return_exceptions=True), 30):
            assert isinstance(error, OSError)
            assert error.errno == getattr(errno, name)
        peer.close()


@contextlib.contextmanager
def further_listener(kind, directory):
    """A listening socket of a kind, and a function that connects to it."""
    address = str(directory / "further") if kind.family == socket.AF_UNIX else ("127.0.0.1", 0)
    with ListeningSocket(kind.family) as sock:
        sock.bind(address)
        sock.listen()
        yield sock, lambda: RawPeer.connect(sock.getsockname(), kind.family)


async def test_a_listening_socket_is_added_and_removed_while_a_task_waits(kind, tmp_path):
    async with kind.server() as server:
        with further_listener(kind, tmp_path) as (further, connect):
            failures = []
            accepting = await begin(server.accept())
            server._acceptor.add(further, failures.append)
            peer = await connect()
            await exchange(await accepting, peer)
            peers = [await kind.connect(server), await connect()] * 2
            with aborting(*[await server.accept() for _ in range(2)]):
                for peer in peers:
                    peer.close()
            accepting = await begin(server.accept())
            server._acceptor.remove(further)
            left = await connect()
            peer = await kind.connect(server)
            await exchange(await accepting, peer)
            further.accept()[0].close()  # it was left in the queue
            left.close()
            assert failures == []


async def test_an_added_socket_that_breaks_is_dropped(kind, tmp_path):
    async with kind.server() as server:
        with further_listener(kind, tmp_path) as (further, _):
            failures = []
            server._acceptor.add(further, failures.append)
            accepting = await begin(server.accept())
            further.shutdown(socket.SHUT_RDWR)
            await until(lambda: failures)
            assert failures[0].errno == errno.EINVAL
            peer = await kind.connect(server)
            await exchange(await accepting, peer)


async def test_a_listening_socket_that_is_shut_down(kind):
    async with kind.server() as server:
        accepting = await begin(server.accept())
        server.raw_sockets[0].shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError, match=r"cannot accept on .*: Invalid argument") as caught:
            await accepting
        assert str(server.address) in str(caught.value)
