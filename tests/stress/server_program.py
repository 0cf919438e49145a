"""The server of the stress tests: ``python server_program.py '{"handler": "echo"}'``.

Theory of operation
-------------------
What it is asked for comes as one JSON object: a handler of this file, limits, how many descriptors it may
have. It prints events as lines of JSON: where it listens, and an answer to each command that it reads on
standard input. Neither takes a descriptor that it does not have already, so it answers when there are none
left, too. When standard input ends, so does the server: whoever started it has gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import ssl
import sys
from dataclasses import asdict
from typing import Any

import aionet

MIB = 1 << 20


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)
        del data  # else the next read would wait with it


async def lines(sock: Any) -> None:
    while line := await sock.read_line():
        await sock.write(line)


async def pour_or_echo(sock: Any) -> None:
    """To who asks for it, pour without end."""
    if await sock.peek() != b"p":
        await echo(sock)
        return
    while True:
        await sock.write(b"x" * MIB)


async def faulty(sock: Any) -> None:
    """Go wrong in the way that the first byte asks for."""
    way = await sock.read_exactly(1)
    if way == b"r":
        raise RuntimeError("as the test wants it")
    if way == b"c":
        asyncio.current_task().cancel()  # type: ignore[union-attr]
    if way in b"ch":
        await asyncio.Event().wait()
    await echo(sock)


HANDLERS = {"echo": echo, "lines": lines, "pour_or_echo": pour_or_echo, "faulty": faulty}


async def regret(sock: Any) -> None:
    await sock.write(b"busy\n")


class Program:
    """One server, and what it tells of itself."""

    def __init__(self, options: dict[str, Any]) -> None:
        limits = options.get("limits", {})
        if limits.get("on_full") == "regret":
            limits["on_full"] = regret
        self._handler = HANDLERS[options["handler"]]
        self._running = self._most = 0
        self._records: list[dict[str, Any]] = []
        self._spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(
            self._counted if options.get("counted") else self._handler,
            limits=aionet.ConnectionLimits(**limits),
            on_close=self._on_close if options.get("records") else None,
        )
        self._tcp = aionet.TcpOptions(send_buffer=options.get("send_buffer"))
        self._tls: ssl.SSLContext | None = None
        if certificate := options.get("certificate"):
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
            self._tls.set_ecdh_curve("prime256v1")
        self._commands = b""
        self._draining: asyncio.Task[aionet.DrainReport] | None = None

    async def run(self) -> None:
        """Serve until a drain, or the end of standard input."""
        serving = asyncio.current_task()
        assert serving is not None
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._on_commands, serving)
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), options=self._tcp, tls=self._tls)
        tell(port=server.address.port, engine=aionet.implementation())
        try:
            await self._spawner.serve(server)
            if self._draining is not None:
                tell(**asdict(await self._draining))
                await asyncio.Event().wait()  # there may be questions
        except asyncio.CancelledError:  # standard input has ended
            pass
        finally:
            loop.remove_reader(0)

    async def _counted(self, sock: Any) -> None:
        self._running += 1
        self._most = max(self._most, self._running)
        try:
            await self._handler(sock)
        finally:
            self._running -= 1

    def _on_close(self, connection: Any, reason: aionet.CloseReason) -> None:
        self._records.append(
            {
                "id": connection.id,
                "port": connection.socket.peer_address.port,
                "cause": reason.cause.name,
                "age": reason.age,
                "at": asyncio.get_running_loop().time(),
            }
        )

    def _on_commands(self, serving: asyncio.Task[Any]) -> None:
        data = os.read(0, 65536)
        if not data:
            serving.cancel()
        *commands, self._commands = (self._commands + data).split(b"\n")
        for command in commands:
            self._do(*command.decode().split())

    def _do(self, command: str, *arguments: str) -> None:
        if command == "stats":
            stats = asdict(self._spawner.stats)
            stats["causes"] = {cause.name: count for cause, count in stats["causes"].items()}
            tell(**stats, running=self._running, most=self._most)
        elif command == "records":
            tell(records=self._records)
        elif command == "now":
            tell(at=asyncio.get_running_loop().time())
        elif command == "drain":
            grace, spread = map(float, arguments)
            tell(at=asyncio.get_running_loop().time())
            self._draining = asyncio.create_task(self._spawner.drain(grace, spread=spread))


def tell(**facts: object) -> None:
    """Print an event."""
    print(json.dumps(facts), flush=True)


def main() -> None:
    """Do as the first argument says."""
    options = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if descriptors := options.get("descriptors"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    program = Program(options)
    with asyncio.Runner(loop_factory=aionet.new_event_loop) as runner:
        runner.run(program.run())


if __name__ == "__main__":
    main()
