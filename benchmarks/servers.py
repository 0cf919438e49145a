"""The servers that are compared, each written the way its documentation shows an echo server.

``python servers.py NAME`` binds a free port on 127.0.0.1, prints one line of JSON (``port`` and what runs)
and serves until its standard input ends; ``python servers.py --list`` says which can run here and why the
others cannot.

What is the same for all: a backlog of 4096; reads of up to 64 KiB where the interface takes a size (protocols
take what their transport gives: up to 256 KiB); an ``await`` server waits for its write before it reads
again; a connection that is reset ends its handler quietly. Nothing is tuned for one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

BACKLOG = 4096
READ_BYTES = 65536
BUILD = Path(__file__).resolve().parent / "build"
TLS_CERTIFICATE, TLS_KEY = BUILD / "tls_certificate.pem", BUILD / "tls_key.pem"


def tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS_CERTIFICATE, TLS_KEY)
    return context


def announce(port: int, **facts: object) -> None:
    """Tell the port, and end the process when nobody holds its standard input any more."""
    print(json.dumps({"port": port, **facts}), flush=True)

    def end_with_standard_input() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(0)

    threading.Thread(target=end_with_standard_input, daemon=True).start()


# -- asyncio and what runs under its interfaces ---------------------------------------------------------


async def streams(tls: ssl.SSLContext | None = None) -> None:
    """https://docs.python.org/3/library/asyncio-stream.html#tcp-echo-server-using-streams"""

    async def handle_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(READ_BYTES):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle_echo, "127.0.0.1", 0, backlog=BACKLOG, ssl=tls)
    announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


async def streams_with_tls() -> None:
    await streams(tls_context())


class EchoServerProtocol(asyncio.Protocol):
    """https://docs.python.org/3/library/asyncio-protocol.html#tcp-echo-server"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


async def protocol(tls: ssl.SSLContext | None = None) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoServerProtocol, "127.0.0.1", 0, backlog=BACKLOG, ssl=tls)
    announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


async def protocol_with_tls() -> None:
    await protocol(tls_context())


# -- await libraries ------------------------------------------------------------------------------------


async def anyio_echo() -> None:
    """https://anyio.readthedocs.io/en/stable/networking.html#working-with-tcp-sockets"""
    import anyio

    async def handle(client: anyio.abc.SocketStream) -> None:
        async with client:
            with contextlib.suppress(anyio.BrokenResourceError):
                async for data in client:
                    await client.send(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0, backlog=BACKLOG)
    announce(listener.extra(anyio.abc.SocketAttribute.local_port))
    await listener.serve(handle)


async def trio_echo() -> None:
    """https://trio.readthedocs.io/en/stable/tutorial.html#an-echo-server"""
    import trio

    async def echo_server(server_stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in server_stream:
                await server_stream.send_all(data)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
    announce(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(echo_server, listeners)


async def aionet_echo(tls: ssl.SSLContext | None = None) -> None:
    import aionet

    async def echo(socket: aionet.AsyncTcpSocket) -> None:
        if tls is not None:
            await socket.start_tls(tls, server_side=True)
        while data := await socket.read(READ_BYTES):
            await socket.write(data)

    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=BACKLOG)
    announce(server.address.port, engine=aionet.implementation())
    await aionet.ConnectionSpawner(echo).serve(server)


async def aionet_echo_with_tls() -> None:
    await aionet_echo(tls_context())


# -- what runs them -------------------------------------------------------------------------------------


def on_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(main())  # type: ignore[arg-type]


async def aionet_accept_loop() -> None:
    """What a spawner is compared with: an accept loop, and a task of the same kind for each connection."""
    import aionet

    async def echo(socket: aionet.AsyncTcpSocket) -> None:
        async with socket:
            with contextlib.suppress(aionet.ConnectionLostError):
                async for chunk in socket:
                    await socket.write(chunk)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(aionet.task_factory)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=BACKLOG)
    announce(server.address.port, engine=aionet.implementation())
    tasks: set[asyncio.Task[None]] = set()
    async for socket in server:
        task = loop.create_task(echo(socket))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def aionet_with_limits() -> None:
    """A spawner with everything on: deadlines, a cap, counted traffic, and a reason for every end."""
    import aionet

    async def echo(socket: aionet.AsyncTcpSocket) -> None:
        async for chunk in socket:
            await socket.write(chunk)

    limits = aionet.ConnectionLimits(
        max_connections=100_000,
        max_pending_bytes=1 << 30,
        idle_timeout=60,
        read_stall_timeout=120,
        write_stall_timeout=60,
        handler_timeout=3600,
    )
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), backlog=BACKLOG)
    announce(server.address.port, engine=aionet.implementation())
    spawner = aionet.ConnectionSpawner(echo, limits=limits, on_close=lambda connection, reason: None)
    spawner.count_traffic()
    await spawner.serve(server)


def on_aionet(main: Callable[[], Awaitable[None]]) -> None:
    import aionet

    aionet.run(main())  # type: ignore[arg-type]


def on_uvloop(main: Callable[[], Awaitable[None]]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())  # type: ignore[arg-type]


def on_aiofastnet(main: Callable[[], Awaitable[None]]) -> None:
    import aiofastnet

    with asyncio.Runner(loop_factory=aiofastnet.loop_factory()) as runner:
        runner.run(main())  # type: ignore[arg-type]


def on_aiofastnet_over_uvloop(main: Callable[[], Awaitable[None]]) -> None:
    import aiofastnet
    import uvloop

    with asyncio.Runner(loop_factory=aiofastnet.loop_factory(uvloop.new_event_loop)) as runner:
        runner.run(main())  # type: ignore[arg-type]


def on_anyio(main: Callable[[], Awaitable[None]]) -> None:
    import anyio

    anyio.run(main, backend="asyncio")


def on_trio(main: Callable[[], Awaitable[None]]) -> None:
    import trio

    trio.run(main)


@dataclass(frozen=True)
class Server:
    """One of the servers that are compared."""

    main: Callable[[], Awaitable[None]]
    run: Callable[[Callable[[], Awaitable[None]]], None]
    kind: str
    """``await`` or ``callback``: what the author of a server writes."""
    modules: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def why_not(self) -> str | None:
        """Why it cannot run here; None if it can."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                return f"{module} cannot be imported: {error}"
        return None

    def versions(self) -> dict[str, str]:
        """The versions of what it runs on."""
        found = {}
        for module in self.modules:
            name = "aionet-toolkit" if module == "aionet" else module
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[module] = importlib.metadata.version(name)
        return found


SERVERS = {
    "asyncio-streams": Server(streams, on_asyncio, "await"),
    "asyncio-protocol": Server(protocol, on_asyncio, "callback"),
    "uvloop-streams": Server(streams, on_uvloop, "await", ("uvloop",)),
    "uvloop-protocol": Server(protocol, on_uvloop, "callback", ("uvloop",)),
    "anyio": Server(anyio_echo, on_anyio, "await", ("anyio",)),
    "trio": Server(trio_echo, on_trio, "await", ("trio",)),
    "aiofastnet-asyncio": Server(protocol, on_aiofastnet, "callback", ("aiofastnet",)),
    "aiofastnet-uvloop": Server(protocol, on_aiofastnet_over_uvloop, "callback", ("aiofastnet", "uvloop")),
    "aionet-asyncio": Server(aionet_echo, on_asyncio, "await", ("aionet",)),
    "aionet-aionet": Server(aionet_echo, on_aionet, "await", ("aionet",)),
    "aionet-uvloop": Server(aionet_echo, on_uvloop, "await", ("aionet", "uvloop")),
    "aionet-portable-asyncio": Server(
        aionet_echo, on_asyncio, "await", ("aionet",), {"AIONET_ENGINE": "portable"}
    ),
    "asyncio-streams-tls": Server(streams_with_tls, on_asyncio, "await"),
    "uvloop-protocol-tls": Server(protocol_with_tls, on_uvloop, "callback", ("uvloop",)),
    "aionet-tls": Server(aionet_echo_with_tls, on_asyncio, "await", ("aionet",)),
    "aionet-accept-loop-asyncio": Server(aionet_accept_loop, on_asyncio, "await", ("aionet",)),
    "aionet-limits-asyncio": Server(aionet_with_limits, on_asyncio, "await", ("aionet",)),
}


def settle_malloc() -> None:
    """Bring glibc's malloc to the state that a process reaches once it freed one large block.

    asyncio's transports read into objects of 256 KiB. Until then malloc maps, remaps and unmaps memory for
    each of them, which halves those servers; whether a process gets out of that state by itself is luck.
    """
    if not os.environ.get("COLD_MALLOC"):
        bytes(1 << 20)


def main() -> None:
    if sys.argv[1:] == ["--list"]:
        for name, server in SERVERS.items():
            print(f"{name:24} {server.why_not() or 'can run'}")
        return
    if len(sys.argv) != 2 or sys.argv[1] not in SERVERS:
        sys.exit(f"usage: python servers.py --list | {' | '.join(SERVERS)}")
    settle_malloc()
    server = SERVERS[sys.argv[1]]
    server.run(server.main)


if __name__ == "__main__":
    main()
