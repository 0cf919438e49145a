"""A host of its own: a program in a network namespace, whose ephemeral ports are few.

python namespaces.py LOCAL...    # within it: connects from each LOCAL, and prints how often that worked
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys

import pytest

__all__ = ["in_namespace", "needs_namespaces"]

_ALONE = ("unshare", "--user", "--map-root-user", "--net")
_FEW_PORTS = "ip link set lo up && echo 50000 50015 >/proc/sys/net/ipv4/ip_local_port_range"
_PEERS, _EACH = 5, 12


@functools.cache
def _has_namespaces() -> bool:
    try:
        done = subprocess.run([*_ALONE, "sh", "-c", _FEW_PORTS], capture_output=True, timeout=20)
    except OSError:
        return False
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(not _has_namespaces(), reason="no network namespace can be made here")


def in_namespace(*local_addresses: str) -> subprocess.CompletedProcess[str]:
    """Run this file in a network namespace."""
    program = [*_ALONE, "sh", "-c", f'{_FEW_PORTS} && exec "$@"', "sh", sys.executable, __file__]
    return subprocess.run([*program, *local_addresses], capture_output=True, text=True, timeout=60)


async def _connect_often(local: str) -> int:
    from aionet import AsyncTcpConnectionServer, AsyncTcpSocket, SocketAddress

    host = SocketAddress.parse(local).host
    made = []
    peers = [AsyncTcpConnectionServer((host, 40000 + number)) for number in range(_PEERS)]
    for _ in range(_EACH):
        for peer in peers:
            made.append(await AsyncTcpSocket().connect_to(peer.address, local_address=local))
            made.append(await peer.accept())
    count = len(made) // 2
    for sock in made:
        sock.abort()
    for peer in peers:
        peer.close()
    return count


if __name__ == "__main__":
    for text in sys.argv[1:]:
        print(asyncio.run(_connect_often(text)))
