"""KeyboardInterrupt and SystemExit while an event is handled: they end the run, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest
from conftest import LOOP_FACTORIES
from helpers import until
from peers import RawPeer

import aionet

MESSAGE = bytes(range(256)) * 16_000
SMALL = 32 * 1024  # the buffers of the kernel: each message waits for room
REACTOR = {"on_events", "_on_cold_events", "on_writable", "_readable", "_writable"}
LOOPS = {**LOOP_FACTORIES, "own": aionet.new_event_loop}


class Interrupt:
    """Raises `error` at the `number`th call or return of the engine's code that the reactor has called.

    Not in asyncio's: a future whose `call_soon` is interrupted has lost its wake-up, whatever it is used for.
    """

    def __init__(self, error, number):
        self.error = error
        self.left = number
        self.raised = None

    def __call__(self, frame, event, argument):
        if not frame.f_globals["__name__"].startswith("aionet."):
            return
        while frame is not None and frame.f_code.co_name not in REACTOR:
            frame = frame.f_back
        if frame is None:
            return
        self.left -= 1
        if self.left == 0:
            sys.setprofile(None)
            self.raised = f"{event} {argument}"
            raise self.error

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *exc_info):
        sys.setprofile(None)


@contextlib.contextmanager
def connected(loop):
    """A socket of ours and its peer, and the complaints of the loop."""
    complaints = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    async def connect():
        options = aionet.TcpOptions(send_buffer=SMALL)
        async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=options) as server:
            peer = await RawPeer.connect(("127.0.0.1", server.address.port), receive_buffer=SMALL)
            return await server.accept(), peer

    sock, peer = loop.run_until_complete(connect())
    try:
        yield sock, peer
    finally:
        sock.abort()
        peer.stop()
        assert not complaints


@pytest.fixture(params=LOOPS)
def loop(request):
    loop = LOOPS[request.param]()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def run_interrupted(loop, coroutine, interrupt):
    """Run `coroutine` to its end, over the interrupt, which is to come out of the loop."""
    task = loop.create_task(coroutine)
    came_out = False
    with interrupt:
        try:
            loop.run_until_complete(task)
        except interrupt.error:
            came_out = True
    result = loop.run_until_complete(asyncio.wait_for(task, 10)) if came_out else task.result()
    assert came_out == (interrupt.raised is not None)
    return result


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_write_that_waits_for_room_continues(loop, error):
    """Whichever call of the engine's code it comes in, each byte is sent once, and the task is woken."""

    async def write(sock, peer):
        writing = asyncio.create_task(sock.write(MESSAGE))
        assert await peer.receive_exactly(len(MESSAGE)) == MESSAGE
        return await writing

    came = 0
    for number in range(1, 40):
        with connected(loop) as (sock, peer):
            interrupt = Interrupt(error, number)
            assert run_interrupted(loop, write(sock, peer), interrupt) == len(MESSAGE)
            assert sock.bytes_written == len(MESSAGE)
        came += interrupt.raised is not None
    assert came > 5


def test_those_who_wait_for_other_sockets_are_woken(loop):
    """The events of one turn come once."""

    async def read_all(lines):
        readings = [asyncio.create_task(sock.read()) for sock, _ in lines]
        writing = asyncio.create_task(lines[0][0].write(MESSAGE))
        await until(lambda: all(sock._wire._watched for sock, _ in lines))
        receiving = asyncio.create_task(lines[0][1].receive_exactly(len(MESSAGE)))
        for _, peer in lines:
            peer.send_now(b"x")
        results = await asyncio.gather(*readings)
        await receiving
        await writing
        return results

    for number in (1, 2, 5):
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(connected(loop)) for _ in range(5)]
            interrupt = Interrupt(KeyboardInterrupt, number)
            assert run_interrupted(loop, read_all(lines), interrupt) == [b"x"] * 5
            assert interrupt.raised is not None
