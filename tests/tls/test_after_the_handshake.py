"""What TLS itself says between the data, as OpenSSL's server says it: key updates, renegotiation, tickets."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ssl
import termios
from collections.abc import AsyncIterator

import pytest
import trustme
from helpers import begin, require_program, until
from tls_peers import HOST

from aionet import AsyncTcpSocket

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


class OpensslServer:
    """``openssl s_server``: what is written to it goes to the client, unless it is a command."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, client: ssl.SSLContext) -> None:
        self.process, self.port, self.client = process, port, client

    async def say(self, line: bytes) -> None:
        """Have it read `line`, alone: a command is what a read begins with."""
        self.process.stdin.write(line + b"\n")
        pipe = self.process.stdin.get_extra_info("pipe")
        await until(lambda: not any(fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0")))

    async def hears(self, text: bytes) -> None:
        while text not in await self.process.stdout.readline():
            pass

    async def connect(self) -> AsyncTcpSocket:
        return await AsyncTcpSocket().connect_to(
            ("127.0.0.1", self.port), tls=self.client, server_hostname=HOST
        )


@contextlib.asynccontextmanager
async def openssl_server(directory, *options: str) -> AsyncIterator[OpensslServer]:
    authority = trustme.CA()
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    process = await asyncio.create_subprocess_exec(
        require_program("openssl"), "s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", *options,
        cwd=directory, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            while not (line := await process.stdout.readline()).startswith(b"ACCEPT"):
                assert line, "openssl s_server has ended"
            yield OpensslServer(process, int(line.rpartition(b":")[2]), client)
    finally:
        process.kill()
        await process.communicate()


async def test_key_updates_in_the_middle_of_the_data(tmp_path):
    async with openssl_server(tmp_path, "-tls1_3") as server, await server.connect() as sock:
        for number in range(3):
            await server.say(b"K")  # new keys, and the client is asked for new ones
            await server.say(b"told %d" % number)
            assert await sock.read_line() == b"told %d\n" % number
            await sock.write(b"heard %d\n" % number)
            await server.hears(b"heard %d" % number)
        sock.abort()


async def test_a_key_update_while_a_read_waits_and_another_task_writes(tmp_path):
    async with openssl_server(tmp_path, "-tls1_3") as server, await server.connect() as sock:
        reading = await begin(sock.read())
        await server.say(b"K")
        await sock.write(b"meanwhile\n")
        await server.hears(b"meanwhile")
        await server.say(b"data")
        assert await reading == b"data\n"
        sock.abort()


async def test_a_server_that_renegotiates(tmp_path):
    async with openssl_server(tmp_path, "-tls1_2") as server, await server.connect() as sock:
        reading = await begin(sock.read_line())
        await server.say(b"r")
        for number in range(20):  # some of them, perhaps, in the middle of it
            await sock.write(b"written %d\n" % number)
            await server.hears(b"written %d" % number)
        await server.say(b"told")
        assert await reading == b"told\n"
        sock.abort()


async def test_many_tickets(tmp_path):
    async with (
        openssl_server(tmp_path, "-tls1_3", "-num_tickets", "20") as server,
        await server.connect() as sock,
    ):
        await server.say(b"data")
        assert await sock.read() == b"data\n"
        sock.abort()
