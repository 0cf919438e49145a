"""A connection that ends with bytes unsent ends in a reset, whatever ended it: no code of ours need run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from peers import PATIENCE

import aionet

PROGRAM = """
import asyncio, gc, os, signal, sys, tempfile
import aionet
from aionet.running import loop_factory

port, loop_name, how, end = int(sys.argv[1]), *sys.argv[2:]
WRITES = {
    "write": lambda sock: sock.write(bytes(30_000_000)),
    "write_vectored": lambda sock: sock.write_vectored([bytes(1_000_000)] * 30),
    "broken file": lambda sock: sock.send_file(CutShort(), 0, None),
}


class CutShort:
    '''A file of which a part can be read.'''

    def __init__(self):
        self.left = 10_000_000

    def read(self, count):
        if self.left <= 0:
            raise OSError("it is gone")
        self.left -= count
        return bytes(count)

    def seekable(self):
        return False


async def main():
    sock = aionet.AsyncTcpSocket(options=aionet.TcpOptions(send_buffer=65536))
    await sock.connect_to(("127.0.0.1", port))
    writing = asyncio.create_task(WRITES[how](sock))
    if how == "broken file":
        await asyncio.wait([writing])
        assert isinstance(writing.exception(), OSError), writing
    else:
        for _ in range(10):
            await asyncio.sleep(0)
        assert not writing.done()
    print("torn", flush=True)
    if end == "dropped":
        del sock, writing
        gc.collect()
        assert how == "broken file"
    elif end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif end == "cancelled":
        writing.cancel()
    return sock if end in ("loop closed", "interpreter") else None


loop = loop_factory(loop_name)()
sock = loop.run_until_complete(main())
if end == "interpreter":
    sys.exit()
loop.close()
del loop, sock
gc.collect()
print("collected", flush=True)
sys.stdin.read()
"""

LOOPS = ["asyncio", "uvloop"] + (["aionet"] if aionet.implementation() == "native" else [])


@contextlib.contextmanager
def torn(how, end, loop_name):
    """Yield the peer of a program that has torn a write and ended so; the program still runs if it can."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        environment = {**os.environ, "PYTHONPATH": str(Path(aionet.__file__).parent.parent)}
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.getsockname()[1]), loop_name, how, end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        with program:
            try:
                peer, _ = listener.accept()
                with peer:
                    peer.settimeout(PATIENCE)
                    yield program, peer
            finally:
                program.kill()


def receive_to_end(peer):
    received = 0
    while data := peer.recv(1 << 20):
        received += len(data)
    return received


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("write", "loop closed"),
        ("write", "interpreter"),
        ("write", "killed"),
        ("write", "cancelled"),
        ("write_vectored", "loop closed"),
        ("broken file", "dropped"),
        ("broken file", "interpreter"),
    ],
)
def test_the_peer_sees_a_reset(how, end, loop_name):
    with torn(how, end, loop_name) as (program, peer):
        if how == "broken file":  # it has to be read to where it breaks
            with pytest.raises(ConnectionResetError):
                receive_to_end(peer)
            return
        assert program.stdout.readline() == b"torn\n", program.stderr.read().decode()
        if end in ("interpreter", "killed"):
            program.wait(PATIENCE)
            assert program.returncode == (0 if end == "interpreter" else -signal.SIGKILL), (
                program.stderr.read()
            )
        else:
            assert program.stdout.readline() == b"collected\n", program.stderr.read().decode()
        with pytest.raises(ConnectionResetError):
            receive_to_end(peer)
