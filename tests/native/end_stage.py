"""The programs of the tests about ends: everything there is to wait for, and what may be complained of."""

from __future__ import annotations

import re

from .support import run_script

__all__ = ["STAGE", "ends"]

STAGE = """
import contextlib, logging, signal

signal.alarm(60)


# Debug mode tells of slow callbacks: that is of the machine, not of what was left open.
logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing "))


async def connected():
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        raw = socket.create_connection(("127.0.0.1", server.address.port))
        return await server.accept(), raw


async def begun(coroutine):
    task = asyncio.create_task(coroutine)
    for _ in range(6):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def begin():
    '''Everything there is to wait for.'''
    everything = []
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    accepting = await begun(server.accept())
    everything += [server, accepting]
    for wrap in (lambda coroutine: coroutine, plain, nested):
        for name in ("read", "read_line", "peek", "__anext__"):
            sock, raw = await connected()
            everything += [sock, raw, await begun(wrap(getattr(sock, name)()))]
    sock, raw = await connected()
    everything += [sock, raw, await begun(written(sock))]

    async def handler(sock):
        async for data in sock:
            await sock.write(data)

    spawner = aionet.ConnectionSpawner(handler)
    served = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    everything += [spawner, served, await begun(spawner.serve(served))]
    for _ in range(3):
        raw = socket.create_connection(("127.0.0.1", served.address.port))
        raw.sendall(b"x")
        assert await asyncio.to_thread(raw.recv, 1) == b"x"
        everything.append(raw)
    await asyncio.get_running_loop().shutdown_default_executor()  # its thread holds what it did
    return everything


async def plain(coroutine):
    return await coroutine


async def nested(coroutine):
    return await asyncio.create_task(coroutine)


async def written(sock):
    await sock.write(bytes(50_000_000))
"""

PERHAPS = re.compile(
    r"^$|^  |^Traceback |^The above exception was the direct cause"
    r"|ResourceWarning: (unclosed|Enable tracemalloc)"
    r"|RuntimeWarning: (coroutine .* was never awaited|Enable tracemalloc)"
    r"|^Task was destroyed but it is pending!|^task: <|^source_traceback: Object created at "
    r"|^Task exception was never retrieved|^future: <"
    r"|^Exception ignored in: <coroutine"
    r"|^RuntimeError: (Event loop is closed|no running event loop)$"
    r"|^--- Logging error ---$|^Exception ignored in: <bound method BaseEventLoop.call_exception_handler"
    r"|^ImportError: sys.meta_path is None"  # by then there is no module left to make a traceback with
    r"|^StopAsyncIteration|^ConnectionResetError: |^aionet.errors.ConnectionLostError: |^SystemExit: 0$"
)


def ends(body: str, loop_name: str, *options: str) -> str:
    """Run `body`; return what it wrote to stderr: nothing but complaints of what was left open."""
    done = run_script(STAGE + body, loop_name, *options)
    strange = [line for line in done.stderr.splitlines() if not PERHAPS.search(line)]
    assert (done.returncode, strange) == (0, []), done.stderr
    assert done.stdout.endswith("done\n")
    return done.stderr
