"""``--keepalive`` and ``--user-timeout``, as the kernel has them."""

from __future__ import annotations

import argparse
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import PATIENCE, AionetServer, command, connect_raw, environment, receive_exactly

from aionet import KeepAlive, TcpOptions
from aionet.cli.tcp_options import add_tcp_arguments, tcp_options_from

LOCAL = "127.0.0.1:0"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def address_of(listener: socket.socket) -> str:
    return "{}:{}".format(*listener.getsockname())


def probes_due(*ports: int) -> list[float]:
    """The seconds to the next keepalive probe of each connection of this host whose own port is given."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        timer, _, when = fields[5].partition(":")
        if fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) in ports and timer == "02":
            found.append(int(when, 16) / 100)
    return found


def probed_after(seconds: float, *ports: int) -> bool:
    """Whether each of these ports has a connection that is probed after so many seconds of silence."""
    due = probes_due(*ports)
    return len(due) == len(ports) and all(seconds / 2 < left <= seconds + 1 for left in due)


@pytest.mark.parametrize(("options", "idle"), [([], 60), (["--keepalive", "300,5,3"], 300)])
def test_relay_probes_both_sides(listener: socket.socket, options: list[str], idle: float) -> None:
    with (
        AionetServer("relay", LOCAL, address_of(listener), *options) as relay,
        connect_raw(relay.address),
        listener.accept()[0] as target,
    ):
        assert probed_after(idle, relay.port, target.getpeername()[1])


def test_relay_probes_neither_side(listener: socket.socket) -> None:
    with (
        AionetServer("relay", LOCAL, address_of(listener), "--keepalive", "off") as relay,
        connect_raw(relay.address),
        listener.accept()[0] as target,
    ):
        assert probes_due(relay.port, target.getpeername()[1]) == []


@pytest.mark.parametrize(
    "command_",
    [["echo"], ["serve", "aionet.cli.echo:echo"], ["serve", "aionet.cli.echo:echo", "--workers", "2"]],
    ids=" ".join,
)
def test_servers(command_: list[str]) -> None:
    with (
        AionetServer(*command_, "--bind", LOCAL, "--keepalive", "300,5,3") as server,
        connect_raw(server.address) as sock,
    ):
        sock.sendall(b"a")
        assert receive_exactly(sock, 1) == b"a"
        assert probed_after(300, server.port)


def test_connect(listener: socket.socket) -> None:
    words = command("connect", address_of(listener), "--keepalive", "300")
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environment()) as process:
        with listener.accept()[0] as sock:
            assert probed_after(300, sock.getpeername()[1])
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], None),
        (["--keepalive", "30"], TcpOptions(keepalive=KeepAlive(idle=30))),
        (["--keepalive", "30,5"], TcpOptions(keepalive=KeepAlive(idle=30, interval=5))),
        (["--keepalive", "off"], TcpOptions(keepalive=False)),
        (["--user-timeout", "20.5"], TcpOptions(user_timeout=20.5)),
    ],
)
def test_what_options_mean(words: list[str], options: TcpOptions | None) -> None:
    parser = argparse.ArgumentParser()
    add_tcp_arguments(parser)
    assert tcp_options_from(parser.parse_args(words)) == options
