"""Streams that the reactor has on its list of newcomers (`native/newcomers.c`) when the loop stops."""

from __future__ import annotations

from .support import run_script

SERVED = """
import weakref

COUNT = 8
loop = new_loop()
waiting = []

async def handler(sock):
    waiting.append(weakref.ref(sock))
    if len(waiting) == COUNT:
        loop.stop()  # the next turn, in which they would be looked at, is not to come
    await sock.read()

def serve():
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    raws = [socket.create_connection(("127.0.0.1", server.address.port)) for _ in range(COUNT)]
    spawner = aionet.ConnectionSpawner(handler)
    serving = loop.create_task(spawner.serve(server))
    loop.run_forever()
    assert len(waiting) == spawner.stats.active == COUNT
    return server, serving, raws
"""


def finish(source: str, loop_name: str) -> None:
    done = run_script(SERVED + source, loop_name, "-X", "dev", "-W", "ignore::ResourceWarning")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_they_are_collected_with_a_loop_that_is_closed(loop_name: str) -> None:
    finish(
        """
server, serving, raws = serve()
loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending"
loop.close()
del server, serving, loop
gc.collect()
gc.collect()
assert not [ref for ref in waiting if ref() is not None]
print("done")
""",
        loop_name,
    )


def test_they_are_served_when_the_loop_goes_on(loop_name: str) -> None:
    finish(
        """
server, serving, raws = serve()
for raw in raws:
    raw.sendall(b"x")

async def rest():
    while waiting[-1]() is not None:
        await asyncio.sleep(0)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)

loop.run_until_complete(rest())
loop.close()
assert [raw.recv(1) for raw in raws] == [b""] * COUNT
print("done")
""",
        loop_name,
    )


def test_a_child_of_a_fork_leaves_them_to_its_parent(loop_name: str) -> None:
    finish(
        """
server, serving, raws = serve()
child = os.fork()
if child == 0:
    loop.call_soon(loop.stop)
    loop.run_forever()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
for raw in raws:
    raw.sendall(b"x")
for _ in range(1000):
    loop.call_soon(loop.stop)
    loop.run_forever()
    if waiting[-1]() is None:
        break
assert [raw.recv(1) for raw in raws] == [b""] * COUNT
serving.cancel()
loop.run_until_complete(asyncio.gather(serving, return_exceptions=True))
loop.close()
print("done")
""",
        loop_name,
    )
