"""A thousand clients, a hundred of whose handlers crash: nobody else notices, and every crash is reported."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from typing import Any

import pytest
from helpers import until

import aionet

CLIENTS = 1_000
CRASHES = 100
NUMBER = struct.Struct(">I")


class CrashedError(Exception):
    pass


def receive_all(client: socket.socket) -> bytes | None:
    """Receive to the end; ``None`` if that is a reset."""
    received = b""
    try:
        while data := client.recv(100):
            received += data
    except ConnectionResetError:
        return None
    return received


@pytest.mark.asyncio
async def test_of_1_000_clients_900_finish_and_100_crashes_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    reported: list[tuple[Any, Exception]] = []
    all_connected = asyncio.Event()

    async def handler(sock: aionet.AsyncTcpSocket) -> None:
        data = await sock.read_exactly(NUMBER.size)
        await all_connected.wait()  # all of them at once
        (number,) = NUMBER.unpack(data)
        if number % (CLIENTS // CRASHES) == 3:
            raise CrashedError(number)
        await sock.write(data)

    def on_error(sock: aionet.AsyncTcpSocket, error: Exception) -> None:
        reported.append((sock.peer_address, error))

    spawner = aionet.ConnectionSpawner(handler, on_error=on_error)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    open_before = len(os.listdir("/proc/self/fd"))
    serving = asyncio.create_task(spawner.serve(server))
    clients = []
    for number in range(CLIENTS):
        client = socket.create_connection(("127.0.0.1", server.address.port), timeout=10)
        client.sendall(NUMBER.pack(number))
        clients.append(client)
    names = [str(aionet.SocketAddress(*client.getsockname())) for client in clients]
    while spawner.stats.active < CLIENTS:
        await asyncio.sleep(0.001)
    all_connected.set()
    replies = await asyncio.to_thread(lambda: [receive_all(client) for client in clients])

    finished = [number for number, reply in enumerate(replies) if reply == NUMBER.pack(number)]
    crashed = [number for number, reply in enumerate(replies) if reply is None]
    assert len(finished) == 900
    assert len(crashed) == 100
    for client in clients:
        client.close()
    report = await spawner.drain(5)
    await serving

    assert len(reported) == 100
    assert {(str(peer), *error.args) for peer, error in reported} == {(names[n], n) for n in crashed}

    def logged() -> int:
        """Lines of one kind are limited; a further one has the number of those that were left out."""
        records = [record for record in caplog.records if record.levelno >= logging.ERROR]
        return sum(getattr(record, "left_out", 1) for record in records)

    await until(lambda: logged() == 100)
    shown = [record for record in caplog.records if record.exc_info]
    assert {record.name for record in shown} == {"aionet.server"}
    assert all(record.exc_info and isinstance(record.exc_info[1], CrashedError) for record in shown)
    for record in shown:
        assert sum(f"{names[number]} " in f"{record.getMessage()} " for number in crashed) == 1
    assert (report.cancelled, report.aborted) == (0, 0)
    stats = spawner.stats
    assert (stats.accepted, stats.completed, stats.failed, stats.active) == (1_000, 900, 100, 0)
    assert len(os.listdir("/proc/self/fd")) <= open_before
