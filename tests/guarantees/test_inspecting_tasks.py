"""What debuggers and asyncio's own tools see of the tasks of a server's connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import give_turns, until

import aionet

pytestmark = pytest.mark.asyncio

COUNT = 3


async def read_request(sock: Any) -> bytes:
    data: bytes = await sock.read()
    return data


async def handler(sock: Any) -> None:
    while data := await read_request(sock):
        await sock.write(data)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[aionet.ConnectionSpawner[Any]]:
    """Yield the spawner of some connections, all of which have had a reply and wait for more."""
    spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(handler)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    serving = asyncio.create_task(spawner.serve(server))
    with contextlib.ExitStack() as stack:
        raws = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.address.port)))
            for _ in range(COUNT)
        ]
        await until(lambda: len(spawner.connections) == COUNT)
        for raw in raws:
            raw.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(raw, b"x")
            assert await asyncio.get_running_loop().sock_recv(raw, 1) == b"x"
        await give_turns()
        yield spawner
    await spawner.drain(5)
    await serving


async def test_the_frames_of_a_connection() -> None:
    async with served() as spawner:
        for connection in spawner.connections:
            assert connection.task is not None
            coroutine, names = connection.task.get_coro(), []
            while getattr(coroutine, "cr_frame", None) is not None:
                names.append(coroutine.cr_frame.f_code.co_name)  # type: ignore[union-attr]
                coroutine = coroutine.cr_await  # type: ignore[union-attr,assignment]
            assert names[:3] == ["connection", "handler", "read_request"]
            [frame] = connection.task.get_stack()
            assert frame.f_code.co_name == "connection"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="these tools are of Python 3.14")
@pytest.mark.parametrize("tool", ["ps", "pstree"])
async def test_asyncios_tools(tool: str) -> None:
    async with served():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asyncio", tool, str(os.getpid())),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
    if "ermission" in said:
        pytest.skip("this system lets no process look into another one")
    assert process.returncode == 0, said
    if tool == "ps":
        assert said.count("read_request -> handler -> connection") == COUNT
    else:
        for name in ("connection", "handler", "read_request"):
            assert said.count(f"  {name} /") == COUNT, said
