"""The program of the fork tests: a parent with everything open, and what its children do."""

from __future__ import annotations

import subprocess

from .support import run_script

__all__ = ["run"]

_STAGE = """
import logging, signal, warnings

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
logging.disable()  # tasks that are destroyed pending: in a child all of them are
signal.alarm(60)
COUNT = 4


async def echo(sock):
    async for data in sock:
        await sock.write(data)


class Parent:
    '''A loop with an echo server, clients of ours, some of which wait, and raw clients.'''

    def __init__(self, handler=echo):
        self.loop = new_loop()
        self.loop.run_until_complete(self.begin(handler))

    async def begin(self, handler):
        self.spawner = aionet.ConnectionSpawner(handler)
        self.server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        self.serving = asyncio.create_task(self.spawner.serve(self.server))
        self.raw = [socket.create_connection(("127.0.0.1", self.server.address.port)) for _ in range(COUNT)]
        for peer in self.raw:
            peer.settimeout(10)
        self.clients = [await self.connect() for _ in range(COUNT)]
        self.readers = [await self.connect() for _ in range(2 * COUNT)]
        make = [asyncio.create_task, lambda coroutine: asyncio.create_task(self.awaiting(coroutine))]
        self.waiting = [make[number % 2](sock.read()) for number, sock in enumerate(self.readers)]
        for _ in range(2):
            await self.exchange()

    async def awaiting(self, coroutine):
        return await coroutine

    async def connect(self):
        return await aionet.AsyncTcpSocket().connect_to(self.server.address)

    async def echoed(self, sock):
        await sock.write(b"hello")
        assert await sock.read_exactly(5) == b"hello"
        return sock

    async def exchange(self):
        for peer in self.raw:
            peer.sendall(b"raw")
        for peer in self.raw:
            assert await asyncio.to_thread(peer.recv, 100) == b"raw"
        await asyncio.gather(*map(self.echoed, self.clients))
        assert not any(task.done() for task in self.waiting), self.waiting

    def lingers(self):
        '''How closing would go; options are of the open file, which a child shares.'''
        served = [each.socket for each in self.spawner.connections]
        for sock in self.clients + self.readers + served:
            yield sock.raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)

    async def check(self):
        '''Everything still works, and what waited when the child was made still waits.'''
        assert set(self.lingers()) == {bytes(8)}, "the child has changed options"
        for _ in range(3):
            await self.exchange()
        for sock in self.readers:
            await sock.write(b"late")
        assert await asyncio.gather(*self.waiting) == [b"late"] * len(self.readers)
        async with await self.connect() as new:
            await self.echoed(new)
        for sock in self.clients + self.readers:
            await sock.aclose()
        for peer in self.raw:
            peer.close()
        self.server.close()
        await self.serving
        stats = self.spawner.stats
        assert stats.completed == stats.accepted, stats

    def goes_on(self):
        self.loop.run_until_complete(self.check())
        self.loop.close()
        print("done")


def loop_of_its_own():
    async def talk():
        spawner = aionet.ConnectionSpawner(echo)
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        serving = asyncio.create_task(spawner.serve(server))
        clients = [await aionet.AsyncTcpSocket().connect_to(server.address) for _ in range(3)]
        for sock in clients:
            for _ in range(3):
                await sock.write(b"child")
                assert await sock.read_exactly(5) == b"child"
        for sock in clients:
            await sock.aclose()
        server.close()
        await serving

    for make in LOOPS.values():
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(talk())


def finish(child):
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"


def in_child(body):
    '''Run `body` in a child that exits at once afterwards.'''
    child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    finish(child)


"""


def run(body: str, loop_name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `body`, which ends with ``parent.goes_on()``; fail if anything went wrong in it or its children."""
    done = run_script(_STAGE + body, loop_name, *options)
    outcome = done.returncode, done.stdout, done.stderr
    assert outcome == (0, "done\n", ""), done.stderr
    return done
