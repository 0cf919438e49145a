"""A client that comes from another IPv6 address each time, and a server with limits for each peer.

python rotating.py BITS COUNT CERTIFICATE KEY AUTHORITY    # in a namespace: test_rotating_addresses.py

The client has the network 2001:db8:1::/BITS. Prints a line of JSON: what became of COUNT connections that it
held, for each of the limits, and how long an honest client from elsewhere waited for an answer meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any

import aionet

_FREEBIND = 78  # IPV6_FREEBIND, linux/in6.h: no interface has all of these addresses
_PREFIX = 0x20010DB8_00010000_00000000_00000000
_HONEST = "2001:db8:ffff::1"
_LIMITS: dict[str, dict[str, Any]] = {
    "number": {"max_per_peer": 5},
    "rate": {"accept_rate_per_peer": 5},
    "handshakes": {"max_handshakes": 60, "handshake_timeout": 60},
}


def connect(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6)
    sock.settimeout(30)
    sock.setsockopt(socket.IPPROTO_IPV6, _FREEBIND, 1)
    sock.bind((host, 0))
    with contextlib.suppress(ConnectionResetError):
        sock.connect(("::1", port))
    return sock


def addresses(bits: int, count: int) -> Iterator[str]:
    chosen = random.Random(bits)
    for _ in range(count):
        host = _PREFIX | chosen.getrandbits(128 - bits)
        yield socket.inet_ntop(socket.AF_INET6, host.to_bytes(16, "big"))


def ask(port: int, authority: str | None) -> float:
    """Return how many seconds it takes to connect and to get an answer."""
    began = time.monotonic()
    sock = connect(_HONEST, port)
    if authority is not None:
        sock = ssl.create_default_context(cafile=authority).wrap_socket(sock, server_hostname="localhost")
    with sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    return time.monotonic() - began


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


async def attacked(limit: str, bits: int, count: int, files: list[str]) -> dict[str, Any]:
    tls = aionet.ServerTls(*files[:2]) if limit == "handshakes" else None
    server = aionet.AsyncTcpConnectionServer(("::1", 0), tls=tls)
    limits = aionet.ConnectionLimits(**_LIMITS[limit])
    spawner: aionet.ConnectionSpawner[Any] = aionet.ConnectionSpawner(echo, limits=limits)
    serving = asyncio.create_task(spawner.serve(server))
    held = []
    for host in addresses(bits, count):
        held.append(await asyncio.to_thread(connect, host, server.address.port))
        while spawner.stats.accepted < len(held) and not server.paused:
            await asyncio.sleep(0)
    stats = spawner.stats
    waited = await asyncio.to_thread(ask, server.address.port, files[2] if tls else None)
    for sock in held:
        sock.close()
    await spawner.drain(0.0)
    await serving
    return {"active": stats.active, "rejected": stats.rejected, "waited": round(waited, 3)}


async def main(bits: int, count: int, files: list[str]) -> None:
    print(json.dumps({limit: await attacked(limit, bits, count, files) for limit in _LIMITS}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
