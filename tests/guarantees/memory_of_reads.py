"""Many connections that read a byte each with a `max_bytes` of so much; prints what that took.

python memory_of_reads.py asyncio|uvloop|aionet MAX_BYTES CONNECTIONS ROUNDS
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys

import aionet
from aionet.running import loop_factory


def private_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


async def main(max_bytes: int, connections: int, rounds: int) -> None:
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        peers, socks, kept = [], [], [b""] * connections
        for _ in range(connections):
            peer = socket.create_connection(("127.0.0.1", server.address.port))
            peers.append(peer)
            socks.append(await server.accept())
        peers[0].send(b"x")
        await socks[0].read(max_bytes)  # what is kept is there from now on
        bytes_before, faults_before = private_bytes(), faults()
        for _ in range(rounds):
            for number, (peer, sock) in enumerate(zip(peers, socks, strict=True)):
                peer.send(b"x")
                kept[number] = await sock.read(max_bytes)
        print(
            json.dumps(
                {
                    "faults_per_read": (faults() - faults_before) / (connections * rounds),
                    "bytes_per_connection": (private_bytes() - bytes_before) / connections,
                }
            )
        )
        for peer, sock in zip(peers, socks, strict=True):
            sock.abort()
            peer.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(main(*map(int, sys.argv[2:])))
