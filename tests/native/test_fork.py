"""fork(2) with sockets, a server and waiting tasks open: the parent notices nothing, the child can begin anew."""

from __future__ import annotations

import pytest

from .support import run_script

STAGE = """
import contextlib, logging, signal, socket

logging.disable()  # tasks that are destroyed pending: in the child all of them are
signal.alarm(20)
COUNT = 5


class Parent:
    '''A loop with an echo server, clients of ours that wait, and raw clients.'''

    def __init__(self):
        self.loop = new_loop()
        self.loop.run_until_complete(self.begin())

    async def begin(self):
        async def echo(sock):
            async for data in sock:
                await sock.write(data)

        self.spawner = aionet.ConnectionSpawner(echo)
        self.server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
        self.serving = asyncio.create_task(self.spawner.serve(self.server))
        self.raw = [socket.create_connection(("127.0.0.1", self.server.address.port)) for _ in range(COUNT)]
        for peer in self.raw:
            peer.settimeout(10)
        self.clients = [await aionet.AsyncTcpSocket().connect_to(self.server.address) for _ in range(COUNT)]
        self.tasks = [aionet.task_factory(self.loop, self.echoed(sock)) for sock in self.clients]
        for _ in range(2):
            await self.exchange()
        self.waiting = [asyncio.create_task(sock.read()) for sock in self.clients]
        await asyncio.sleep(0)

    async def echoed(self, sock):
        await sock.write(b"hello")
        return await sock.read_exactly(5)

    async def exchange(self):
        for task in self.tasks:
            assert await task == b"hello"
        self.tasks = [aionet.task_factory(self.loop, self.echoed(sock)) for sock in self.clients]
        for peer in self.raw:
            peer.sendall(b"raw")
        for peer in self.raw:
            assert await asyncio.to_thread(peer.recv, 100) == b"raw"
        await asyncio.gather(*self.tasks)

    def goes_on(self):
        '''Everything still works, and what waited when the child was made still waits.'''
        async def check():
            for _ in range(5):
                await asyncio.sleep(0)
            assert not any(task.done() for task in self.waiting), self.waiting
            for sock in self.clients:
                await sock.write(b"to those that waited")
            assert await asyncio.gather(*self.waiting) == [b"to those that waited"] * COUNT
            for _ in range(3):
                await self.exchange()
            new = await aionet.AsyncTcpSocket().connect_to(self.server.address)
            async with new:
                assert await self.echoed(new) == b"hello"
            for sock in self.clients:
                await sock.aclose()
            for peer in self.raw:
                peer.close()
            self.server.close()
            await self.serving
            assert self.spawner.stats.completed == 2 * COUNT + 1, self.spawner.stats

        self.loop.run_until_complete(check())
        self.loop.close()


def finish(child):
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"


def loop_of_its_own():
    async def talk():
        async def echo(sock):
            async for data in sock:
                await sock.write(data)

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
        loop = make()
        loop.run_until_complete(talk())
        loop.close()


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


parent = Parent()
"""


def run(body: str, loop_name: str, *options: str) -> None:
    done = run_script(STAGE + body, loop_name, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("done\n")


def test_a_child_that_does_nothing(loop_name):
    run("in_child(lambda: None); parent.goes_on(); print('done')", loop_name)


def test_a_child_with_a_loop_of_its_own(loop_name):
    run("in_child(loop_of_its_own); parent.goes_on(); print('done')", loop_name)


def test_a_child_with_a_loop_of_its_own_while_the_parent_goes_on(loop_name):
    body = """
    child = os.fork()
    if child == 0:
        loop_of_its_own()
        os._exit(0)
    parent.loop.run_until_complete(parent.exchange())
    finish(child)
    parent.goes_on()
    print("done")
    """
    run("if True:\n" + body, loop_name)


def test_a_child_forgets_the_sockets_that_nobody_waits_for(loop_name):
    body = """
    warnings.simplefilter("ignore", ResourceWarning)
    loop = parent.loop
    idle = [loop.run_until_complete(parent.echoed(s)) and s for s in []]

    async def connect():
        sock = await aionet.AsyncTcpSocket().connect_to(parent.server.address)
        await parent.echoed(sock)
        return sock

    idle = [loop.run_until_complete(connect()) for _ in range(3)]

    def body():
        idle.clear()
        gc.collect()
        loop_of_its_own()
        gc.collect()

    in_child(body)
    for sock in idle:
        loop.run_until_complete(parent.echoed(sock))
        loop.run_until_complete(sock.aclose())
    idle.clear()
    parent.spawner._outcomes["completed"] -= 3
    parent.goes_on()
    print("done")
    """
    run("if True:\n" + body, loop_name)


@pytest.mark.parametrize("close", ["os.close(sock.fileno())", "sock.raw_socket.close()", "sock.abort()"])
def test_a_child_closes_its_copies_of_the_descriptors(loop_name, close):
    body = f"""
    def body():
        for sock in [*parent.clients, *(each.socket for each in parent.spawner.connections)]:
            {close}
        gc.collect()
        loop_of_its_own()

    in_child(body)
    parent.goes_on()
    print("done")
    """
    run("if True:\n" + body, loop_name)


def test_a_child_closes_the_server(loop_name):
    body = """
    def body():
        parent.server.close()
        loop_of_its_own()

    in_child(body)
    parent.goes_on()
    print("done")
    """
    run("if True:\n" + body, loop_name)


def test_a_child_that_uses_an_inherited_socket_is_refused_and_the_parent_does_not_notice(loop_name):
    body = """
    def body():
        async def use():
            sock = parent.clients[0]
            for operation in (sock.read, sock.read_line, lambda: sock.read_into(bytearray(1)), sock.peek):
                try:
                    await asyncio.wait_for(operation(), 1)
                except (RuntimeError, aionet.SocketBusyError) as error:
                    assert not isinstance(error, TimeoutError), error
                else:
                    raise AssertionError("not refused")
            try:
                await asyncio.wait_for(fresh.read(), 1)
            except RuntimeError as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError("not refused")

        for make in LOOPS.values():
            make().run_until_complete(use())

    fresh = parent.loop.run_until_complete(aionet.AsyncTcpSocket().connect_to(parent.server.address))
    in_child(body)
    parent.loop.run_until_complete(parent.echoed(fresh))
    parent.loop.run_until_complete(fresh.aclose())
    parent.spawner._outcomes["completed"] -= 1
    parent.goes_on()
    print("done")
    """
    run("if True:\n" + body, loop_name)
