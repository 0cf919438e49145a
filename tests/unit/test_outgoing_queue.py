"""`OutgoingQueue`: however many writes wait, each change costs the same, and the sums are right."""

from __future__ import annotations

import asyncio
import random

import pytest
from helpers import give_turns

from aionet.wires.event_loop import running_state
from aionet.wires.outgoing import OutgoingBuffers
from aionet.wires.sending import OutgoingQueue, hold_nothing, nothing
from aionet.wires.tls.writes import SealedQueue

pytestmark = pytest.mark.asyncio

WAITING = 1_000
ORDERS = {
    "first first": lambda numbers: numbers,
    "last first": lambda numbers: numbers[::-1],
    "any": lambda numbers: random.Random(1).sample(numbers, len(numbers)),
}


class FullSocket:
    """Takes as many bytes as it has room for; it also does as a `Seal`."""

    def __init__(self):
        self.room = 1
        self.received = bytearray()
        self.rests = ()
        self.failure = None
        self.busy = False

    def send(self, data):
        taken = bytes(data[: self.room])
        if not taken:
            raise BlockingIOError
        self.room -= len(taken)
        self.received += taken
        return len(taken)

    def sendmsg(self, views):
        return self.send(b"".join(views))


class Counted(OutgoingBuffers):
    """Counts how often it is looked at."""

    __slots__ = ()
    looks = 0

    @property
    def remaining(self):
        Counted.looks += 1
        return super().remaining

    def __eq__(self, other):
        Counted.looks += 1
        return self is other

    __hash__ = object.__hash__


@pytest.fixture(params=["plain", "sealed"])
def made(request):
    """A queue, its socket, and what it said to hold at each change."""
    sock, said = FullSocket(), []

    def make():
        def on_change():
            said.append(queue.held)

        def translate(operation, error):
            return error

        if request.param == "plain":
            queue = OutgoingQueue(sock, running_state(), translate, nothing, hold_nothing, on_change)
        else:
            queue = SealedQueue(sock, running_state(), translate, hold_nothing, on_change)
        return queue, sock, said

    Counted.looks = 0
    return make


async def waiting_writes(queue, count):
    """The first has begun; each is of as many bytes as its number says, and ten more."""
    tasks = [
        asyncio.ensure_future(queue.send(Counted((bytes(10 + number),)), "write")) for number in range(count)
    ]
    await give_turns()
    assert len(queue) == count
    return tasks


@pytest.mark.parametrize("order", ORDERS)
async def test_cancelling_looks_at_each_waiting_write_a_few_times(made, order):
    queue, _, said = made()
    tasks = await waiting_writes(queue, WAITING)
    for number in ORDERS[order](range(1, WAITING)):  # one after the other
        tasks[number].cancel()
        await asyncio.wait([tasks[number]])
    assert Counted.looks < 20 * WAITING
    assert len(said) >= 2 * WAITING - 1
    assert len(queue) == 1
    assert (queue.held, queue.remaining) == (10, 9)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    queue.fail(ConnectionError)
    assert (len(queue), queue.held, queue.remaining) == (0, 0, 0)


async def test_sending_looks_at_each_waiting_write_a_few_times(made):
    queue, sock, _ = made()
    tasks = await waiting_writes(queue, WAITING)
    sock.room = 1 << 30
    while queue:
        queue.on_writable()
    await asyncio.gather(*tasks)
    assert Counted.looks < 20 * WAITING
    assert (queue.held, queue.remaining) == (0, 0)


async def test_the_sums_are_those_of_what_waits(made):
    rng = random.Random(2)
    queue, sock, said = made()
    left = dict(enumerate(await waiting_writes(queue, 100)))
    last = 1
    while left:
        if rng.random() < 0.5:
            number = rng.choice(list(left))
            left[number].cancel()
            await give_turns()
        else:
            sock.room = rng.randrange(100)
            queue.on_writable()
            await give_turns()
        for number in [number for number, task in left.items() if task.done()]:
            del left[number]
        entries = list(queue._entries)
        assert queue.remaining == sum(entry.remaining for entry in entries)
        assert queue.held == said[-1] == sum(entry.sent + entry.remaining for entry in entries)
        last = len(entries)
    assert last <= 1  # one that has begun may be left without its task
    queue.fail(ConnectionError)
    assert (queue.held, queue.remaining) == (0, 0)
