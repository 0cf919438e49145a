"""`serve(tls=...)` and `run_workers(tls=...)`: what they take, and SIGHUP."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, connect_raw, environment
from helpers import until

import aionet
from aionet import ServerTls

from .authority import Authority, leaf_serial, put


async def greet(sock: Any) -> None:
    await sock.write(b"hello")
    await sock.read()


def certificate_at(address: str, context: ssl.SSLContext) -> bytes | None:
    with connect_raw(address) as sock, context.wrap_socket(sock, server_hostname="localhost") as wrapped:
        assert wrapped.recv(5) == b"hello"
        found = wrapped.getpeercert(binary_form=True)
        wrapped.unwrap().close()
        return found


@pytest.mark.asyncio
async def test_sighup_reads_the_files_again(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    pair = authority.pair("server")
    good, before = pair.serial, signal.getsignal(signal.SIGHUP)
    listening = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        aionet.serve(greet, "127.0.0.1:0", tls=ServerTls(*pair.files), on_listening=listening.set_result)
    )
    address = str((await listening).address)

    async def shown() -> bytes | None:
        return await asyncio.to_thread(certificate_at, address, authority.client())

    assert await shown() == good
    other = authority.leaf("localhost")
    put(pair.certificate, other.cert_chain_pems[0].bytes())
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: "does not belong to the certificate" in caplog.text)
    assert await shown() == good
    put(pair.key, other.private_key_pem.bytes())
    os.kill(os.getpid(), signal.SIGHUP)
    while await shown() != leaf_serial(other):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert (await serving).aborted == 0
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.asyncio
async def test_a_server_has_its_own(authority: Authority) -> None:
    tls = ServerTls(*authority.pair("server").files)
    async with aionet.AsyncTcpConnectionServer("127.0.0.1:0", tls=tls) as server:
        with pytest.raises(ValueError, match="has a tls of its own"):
            await aionet.serve(greet, server, tls=tls)
    with pytest.raises(TypeError, match="tls must be a ServerTls or an ssl"):
        await aionet.serve(greet, "127.0.0.1:0", tls=True)  # type: ignore[arg-type]


def test_workers_take_no_context(authority: Authority) -> None:
    context = authority.server(authority.pair("server"))
    with pytest.raises(TypeError, match="tls must be a ServerTls, which workers load for themselves"):
        aionet.run_workers(greet, "127.0.0.1:0", tls=context)  # type: ignore[arg-type]


SCRIPT = """
import aionet

async def greet(socket):
    await socket.write(b"hello")
    await socket.read()

if __name__ == "__main__":
    tls = aionet.ServerTls("server.pem", "server.key")
    show = lambda addresses: print(*addresses, flush=True)
    print(aionet.run_workers(greet, "127.0.0.1:0", workers=2, tls=tls, drain_grace=5, on_listening=show))
"""


def test_workers(authority: Authority, tmp_path: Path) -> None:
    pair, context = authority.pair("server"), authority.client()
    (tmp_path / "server.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "server.py"], cwd=tmp_path, env=environment(), stdout=-1, stderr=-1, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            good = pair.serial
            assert certificate_at(address, context) == good
            other = authority.leaf("localhost")
            put(pair.certificate, other.cert_chain_pems[0].bytes())
            process.send_signal(signal.SIGHUP)  # which the supervisor refuses
            assert process.stderr is not None
            while "does not belong to the certificate" not in process.stderr.readline():
                pass
            assert certificate_at(address, context) == good
            put(pair.key, other.private_key_pem.bytes())
            process.send_signal(signal.SIGHUP)
            while certificate_at(address, context) != leaf_serial(other):
                pass
            process.terminate()
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
