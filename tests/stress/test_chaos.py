"""Chaos: everything that can happen to connections happens at once, at random, and nothing is lost or left.

Theory of operation
-------------------
One loop, three servers (a spawner with little room serves a TCP and a Unix one; tasks that call `accept`
serve another TCP one), clients of ours, raw ones in threads, and addresses to dial that refuse, hang or
reset. What the two ends of a connection do, and how every byte is checked, is described in `chaos.py`; what
has a plan, in `drills.py`.

A watchdog thread sees to it that something happens all the time. After the given time everybody is told to
stop, the spawner is drained, and the books have to balance: bytes, tasks, descriptors, objects, counts.

Each test runs the chaos with several seeds, one after the other: one that is always the same, and others that
are new. They are printed before they run, and each again when its run is over. ``AIONET_CHAOS_SEED`` repeats
the runs of the seeds that it lists (``1,2``), ``AIONET_CHAOS_SECONDS`` sets the length of the long test, all
of its seeds together.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import logging
import os
import random
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from helpers import open_descriptors

import aionet

from .chaos import CrashedError, End, MakeFaults, RawEnd, World, reap
from .drills import DRILLS

SEEDS = [int(seed) for seed in os.environ.get("AIONET_CHAOS_SEED", "").split(",") if seed]
SECONDS = float(os.environ.get("AIONET_CHAOS_SECONDS", "60"))
PATIENCE = 10.0  # seconds without any progress
LINGER = 0.3
ROOM = 12  # connections at a time for the spawner: fewer than there are clients

OUR_CLIENTS = 10
RAW_CLIENTS = 4
THREADS = 8
OUR_CLASSES = (
    aionet.AsyncTcpSocket,
    aionet.AsyncUnixSocket,
    aionet.AsyncTcpConnectionServer,
    aionet.AsyncUnixConnectionServer,
)

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def _new_eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def _loop_factories() -> dict[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.SelectorEventLoop}
    if sys.version_info >= (3, 12):
        factories["eager"] = _new_eager_loop
    with suppress(ImportError):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    own: LoopFactory | None = getattr(aionet, "new_event_loop", None)
    if own is not None:
        factories["aionet"] = own
    return factories


LOOP_FACTORIES = _loop_factories()


class Chaos:
    """All actors of one run."""

    def __init__(self, world: World, pool: ThreadPoolExecutor, directory: str) -> None:
        self._world = world
        self._pool = pool
        self._raw_sessions: set[asyncio.Future[None]] = set()
        self._loose: set[asyncio.Task[None]] = set()
        self._crashes = 0
        self._connection_numbers = iter(range(1 << 30))
        self._spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(
            self._handle, limits=aionet.ConnectionLimits(max_connections=ROOM), on_error=self._on_error
        )
        self._spawned = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        self._bare = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        self._unix = aionet.AsyncUnixConnectionServer(f"{directory}/chaos")
        self._servers = (self._spawned, self._bare, self._unix)

    async def run(self, seconds: float) -> None:
        """Let them loose for `seconds`, then have everything end."""
        serving = asyncio.create_task(self._spawner.serve(self._spawned, self._unix))
        acceptors = [asyncio.create_task(self._accept_on(number)) for number in range(2)]
        actors = [asyncio.create_task(self._repeat(name, cycle)) for name, cycle in self._cast()]
        ending = asyncio.get_running_loop().call_later(seconds, self._world.stopping.set)
        try:
            await _all_or_first_error(actors)
            while self._raw_sessions:
                await asyncio.wait(self._raw_sessions)
            await self._end(serving, acceptors)
        finally:
            ending.cancel()
            for server in self._servers:
                server.close()
            await reap([*actors, *acceptors, serving, *self._loose])

    def _cast(self) -> Iterator[tuple[str, Callable[[random.Random], Coroutine[Any, Any, None]]]]:
        for number in range(OUR_CLIENTS):
            yield f"client {number}", self._be_client
        for number in range(RAW_CLIENTS):
            yield f"raw client {number}", self._be_raw_client
        yield "pauses", self._pause_a_server
        if self._world.make_faults is not None:
            yield "faults", self._make_faults
            return  # the drills expect that everything succeeds
        for name, drill in DRILLS.items():
            yield name, lambda rng, drill=drill: drill(self._world, rng).run()

    async def _repeat(self, name: str, cycle: Callable[[random.Random], Coroutine[Any, Any, None]]) -> None:
        """Do `cycle` again and again, in a task of its own, because others will cancel it."""
        rng = self._world.random(name)
        while not self._world.stopping.is_set():
            task = asyncio.create_task(cycle(rng))
            try:
                await asyncio.wait([task])
            finally:
                await reap([task])
            if not task.cancelled():
                task.result()
            self._world.count(name.rstrip("0123456789 "))

    async def _end(self, serving: asyncio.Task[None], acceptors: list[asyncio.Task[None]]) -> None:
        for server in self._servers:
            server.resume()
        self._bare.close()
        report = await self._spawner.drain(0.3)
        await asyncio.gather(serving, *acceptors)
        while self._loose:
            await asyncio.wait(self._loose)
        stats = self._spawner.stats
        print(f"{report}\n{stats}")
        assert report.aborted == 0
        assert stats.active == 0
        assert (
            stats.accepted
            == stats.completed + stats.failed + stats.disconnected + stats.cancelled + stats.cut
        )
        assert set(stats.causes) & {aionet.CloseCause.EXHAUSTED} == set() or self._world.make_faults
        assert stats.failed == self._crashes

    # Serving ------------------------------------------------------------------------------------------

    async def _handle(self, sock: Any) -> None:
        rng = self._world.random("handler", next(self._connection_numbers))
        end = End(self._world, sock, rng)
        fate = rng.choice(("close", "close", "leave", "crash", "write on"))
        await end.live(close=fate == "close")
        if fate == "crash":
            raise CrashedError
        if fate == "write on":  # and let the spawner have what comes of it
            await end.write_frame()

    def _on_error(self, sock: Any, error: Exception) -> None:
        self._crashes += 1
        if not isinstance(error, CrashedError):
            self._world.fail(error)

    async def _accept_on(self, number: int) -> None:
        rng = self._world.random("acceptor", number)
        while not self._bare.closed:
            await self._world.attempt(rng, "accept", lambda: self._accept(rng))

    async def _accept(self, rng: random.Random) -> None:
        loop = asyncio.get_running_loop()
        way = rng.choice(("new", "new", "given", "given, and closed"))
        given = None if way == "new" else aionet.AsyncTcpSocket()
        closing = loop.call_later(rng.random() * 0.01, given.abort) if given and "closed" in way else None
        try:
            sock = await self._bare.accept(given)
        finally:
            if closing is not None:
                closing.cancel()
        task = loop.create_task(self._live_and_abort(sock, rng.random()))
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)

    async def _live_and_abort(self, sock: Any, seed: float) -> None:
        try:
            await End(self._world, sock, self._world.random("accepted", seed)).live()
        finally:
            sock.abort()

    async def _pause_a_server(self, rng: random.Random) -> None:
        server = rng.choice(self._servers)
        await asyncio.sleep(rng.random() * 0.05)
        server.pause()
        await asyncio.sleep(rng.random() * 0.02)
        server.resume()

    async def _make_faults(self, rng: random.Random) -> None:
        await asyncio.sleep(rng.random() * 0.02)
        assert self._world.make_faults is not None
        self._world.make_faults(rng)

    # Dialing ------------------------------------------------------------------------------------------

    async def _be_client(self, rng: random.Random) -> None:
        with ExitStack() as clean_up:
            way = rng.choice(("spawned", "bare", "unix", "unix", "named", "raw", "raw", "refused", "stuck"))
            address = self._address_for(way, rng, clean_up)
            sock: Any = aionet.AsyncUnixSocket() if way == "unix" else aionet.AsyncTcpSocket()
            clean_up.callback(sock.abort)
            if way == "stuck" or rng.random() < 0.1:  # closed while it connects
                closing = asyncio.get_running_loop().call_later(rng.random() * 0.01, sock.abort)
                clean_up.callback(closing.cancel)
            outcome = await self._world.attempt(rng, "connect", lambda: sock.connect_to(address))
            if outcome == "done":
                await End(self._world, sock, rng).live()

    def _address_for(self, way: str, rng: random.Random, clean_up: ExitStack) -> Any:
        if way == "unix":
            return self._unix.address
        if way == "raw":
            return self._raw_listener(rng)
        if way == "refused":
            return clean_up.enter_context(_bound()).getsockname()
        if way == "stuck":
            return _full_listener(clean_up)
        server = self._spawned if way == "spawned" else self._bare
        return ("two-addresses.example", server.address.port) if way == "named" else server.address

    def _raw_listener(self, rng: random.Random) -> Any:
        """Return the address of a listener in a thread, which takes one connection, mostly."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        address = listener.getsockname()
        self._in_thread(self._accept_raw, listener, rng.random())
        return address

    def _accept_raw(self, listener: socket.socket, seed: float) -> None:
        rng = self._world.random("raw", seed)
        with listener, suppress(TimeoutError):
            listener.settimeout(0.2)
            if rng.random() < 0.9:  # else closing resets what waits in its queue
                RawEnd(self._world, listener.accept()[0], rng).live()

    async def _be_raw_client(self, rng: random.Random) -> None:
        server = rng.choice(self._servers)
        await self._in_thread(self._dial_raw, server.address, rng.random())

    def _dial_raw(self, address: Any, seed: float) -> None:
        unix = isinstance(address, aionet.UnixAddress)
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.connect(address.path if unix else (address.host, address.port))
        RawEnd(self._world, sock, self._world.random("raw client", seed)).live()

    def _in_thread(self, function: Callable[..., None], *args: Any) -> asyncio.Future[None]:
        session = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        self._raw_sessions.add(session)
        session.add_done_callback(self._raw_sessions.discard)
        return session


def _bound() -> socket.socket:
    """Return a socket that has a port and does not listen."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def _full_listener(clean_up: ExitStack) -> Any:
    """Return the address of a listener whose queue is full: connecting to it takes for ever."""
    listener = clean_up.enter_context(_bound())
    listener.listen(0)
    clean_up.enter_context(socket.create_connection(listener.getsockname()))
    return listener.getsockname()


async def _two_addresses(host: str, port: int) -> list[aionet.SocketAddress]:
    return [aionet.SocketAddress("127.0.0.2", port), aionet.SocketAddress("127.0.0.1", port)]


async def _all_or_first_error(tasks: list[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


# The run and its books --------------------------------------------------------------------------------------


class Watchdog(threading.Thread):
    """Fails the world, with the stacks of all tasks, when nothing happens for too long."""

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._world = world
        self._loop = loop
        self._stop_run = stop
        self._over = threading.Event()

    def run(self) -> None:
        seen, since = -1, 0.0
        while not self._over.wait(0.25):
            now = self._world.counts.total()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                report = f"nothing happened for {PATIENCE} s\n{self._stacks()}"
                print(report, file=sys.stderr)  # now, for the run may be beyond stopping
                self._world.fail(AssertionError(report))
                self._loop.call_soon_threadsafe(self._stop_run)
                return

    def _stacks(self) -> str:
        out = io.StringIO()
        for task in asyncio.all_tasks(self._loop):
            task.print_stack(file=out)
        for thread, frame in sys._current_frames().items():
            print(f"Thread {thread}", *traceback.format_stack(frame), sep="\n", file=out)
        return out.getvalue()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self.join()


async def live_through(world: World, seconds: float) -> None:
    """Run the chaos, with its toolkit, its threads and its watchdog; check what can be seen from inside."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: world.fail(_ComplaintError(context)))
    main = asyncio.current_task()
    assert main is not None
    before = open_descriptors()
    toolkit = aionet.NetworkToolkit(
        options=aionet.TcpOptions(linger=LINGER, send_buffer=64 * 1024),
        unix_options=aionet.UnixOptions(linger=LINGER, send_buffer=64 * 1024),
        resolver=_two_addresses,
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        ThreadPoolExecutor(THREADS, "raw") as pool,
        Watchdog(world, loop, main.cancel),
    ):
        async with toolkit:
            await Chaos(world, pool, directory).run(seconds)
            assert toolkit.open_sockets == frozenset()
        world.verify()
        left = asyncio.all_tasks() - {main}
        assert not left, f"tasks left: {left}"
    gc.collect()  # whoever was never retrieved complains now
    _compare(before, world)


class _ComplaintError(Exception):
    """The loop complained."""

    def __init__(self, context: dict[str, Any]) -> None:
        whose = context.get("task") or context.get("future")
        super().__init__(f"{context['message']}: {context.get('exception')!r} {whose or ''}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Crashes are counted, not logged: a log that pytest keeps would keep their sockets as well."""
    logger = logging.getLogger("aionet")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _compare(before: dict[int, str], world: World) -> None:
    left = {number: what for number, what in open_descriptors().items() if before.get(number) != what}
    if left:
        world.fail(AssertionError(f"descriptors left open: {left}"))


def run_chaos(loop_factory: LoopFactory, seconds: float, seed: int, make_faults: MakeFaults = None) -> World:
    """Run the chaos and check all the books; raise what went wrong, all of it."""
    world = World(seed, make_faults)
    before = open_descriptors()
    with _quiet(), asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            runner.run(live_through(world, seconds))
        except (Exception, asyncio.CancelledError) as error:
            world.fail(error)
    gc.collect()
    alive = [found for found in gc.get_objects() if issubclass(type(found), OUR_CLASSES)]
    if alive and not world.failures:  # whose tracebacks hold on to much
        world.fail(AssertionError(f"{len(alive)} objects are still alive, such as {alive[0]!r}"))
    _compare(before, world)
    print(f"AIONET_CHAOS_SEED={seed}", *sorted(world.counts.items()), sep="\n")
    if world.failures:
        raise BaseExceptionGroup(f"chaos with AIONET_CHAOS_SEED={seed}", world.failures)
    return world


def seeds_for(count: int) -> list[int]:
    """Return the seeds that were asked for, or `count`, of which the first is always the same."""
    return SEEDS or [1, *(random.SystemRandom().randrange(2, 1 << 32) for _ in range(count - 1))]


def run_seeds(loop_factory: LoopFactory, seconds: float, seeds: list[int]) -> Counter[str]:
    """Run the chaos with each of `seeds`, for `seconds` in all; return what was counted."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts += run_chaos(loop_factory, seconds / len(seeds), seed).counts
    return counts


def announced(seeds: list[int], capfd: pytest.CaptureFixture[str]) -> list[int]:
    """Print `seeds` at once: a run that ends the process leaves nothing of what was captured."""
    with capfd.disabled():
        print(f"\nAIONET_CHAOS_SEED={','.join(map(str, seeds))}", file=sys.stderr, flush=True)
    return seeds


chaotic = functools.partial(pytest.mark.parametrize, "loop_name", LOOP_FACTORIES)


@chaotic()
def test_a_little_chaos(loop_name: str, capfd: pytest.CaptureFixture[str]) -> None:
    run_seeds(LOOP_FACTORIES[loop_name], 1.0, announced(seeds_for(2), capfd))


SEEN = (
    *("accept: cancelled", "accept: done", "accept: SocketClosedError"),
    *("connect: cancelled", "connect: done", "connect: ConnectError"),
    *("connect: SocketBusyError", "connect: SocketClosedError"),
    *("read: cancelled", "read: done", "read: ConnectionLostError", "read: IncompleteReadError"),
    *("read: LimitExceededError", "read: SocketBusyError", "read: SocketClosedError"),
    *("write: cancelled", "write: ConnectionLostError", "write: SocketClosedError"),
    *("wait_acknowledged: DeliveryError", "wait_acknowledged: done"),
    *("aclose: cancelled", "aclose: done", "aclose: DeliveryError"),
    *("frame cancelled, absent", "frame cancelled, arrived", "torn", "cancellation swallowed"),
    *("late", "urgent", "unreferenced"),
)
"""What a long run has to meet: without it, it would show less than it promises."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@chaotic()
def test_long_chaos(loop_name: str, capfd: pytest.CaptureFixture[str]) -> None:
    counts = run_seeds(LOOP_FACTORIES[loop_name], SECONDS, announced(seeds_for(3), capfd))
    assert counts["connect: done"] > 300
    missed = [what for what in SEEN if not counts[what]]
    assert not missed or SECONDS < 30, f"never happened: {missed}"
