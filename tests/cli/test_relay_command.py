"""``aionet relay`` between the programs that people use."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import http.server
import json
import random
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import (
    PATIENCE,
    AionetServer,
    aionet,
    aionet_here,
    connect_raw,
    receive_exactly,
    receive_to_end,
)
from helpers import require_program, unused_port

from aionet import ProxyHeader, SocketAddress
from aionet.addresses import as_address
from aionet.cli.own_addresses import leads_here

LOCAL = "127.0.0.1:0"
MEBIBYTE = 1 << 20


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A listening socket for the relay to connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def name_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def accept(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE)
    return sock


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """100 MiB that do not repeat, and their SHA-256."""
    path = tmp_path_factory.mktemp("big") / "file"
    digest = hashlib.sha256()
    numbers = random.Random(100)
    with path.open("wb") as file:
        for _ in range(100):
            block = numbers.randbytes(MEBIBYTE)
            digest.update(block)
            file.write(block)
    return path, digest.hexdigest()


def digest_of_stream(sock: socket.socket) -> str:
    digest = hashlib.sha256()
    while data := sock.recv(MEBIBYTE):
        digest.update(data)
    return digest.hexdigest()


# Programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nc_through_relay_to_echo(loop: str) -> None:
    nc = require_program("nc")
    data = random.Random(1).randbytes(300_000)
    with (
        AionetServer("echo", "--bind", LOCAL, "--loop", loop) as echo,
        AionetServer("relay", LOCAL, echo.address, "--loop", loop) as relay,
    ):
        done = subprocess.run(
            [nc, "-N", "127.0.0.1", str(relay.port)], input=data, capture_output=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stdout) == (0, data)
        event = relay.next_event()
        assert event["event"] == "closed"
        assert event["client_to_target"] == event["target_to_client"] == len(data)
        assert event["lost"] is event["error"] is None
        assert event["target"] == echo.address


def test_socat_through_relay_to_echo_over_unix_sockets(tmp_path: Path) -> None:
    socat = require_program("socat")
    data = random.Random(2).randbytes(300_000)
    with (
        AionetServer("echo", "--bind", f"unix:{tmp_path}/echo") as echo,
        AionetServer("relay", f"unix:{tmp_path}/relay", echo.address) as relay,
    ):
        assert echo.address == f"unix:{tmp_path}/echo"
        done = subprocess.run(
            [socat, "-t10", "-", f"UNIX-CONNECT:{tmp_path}/relay"],
            input=data,
            capture_output=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stdout) == (0, data)
        relay.signal()
        assert relay.ended()[0] == 0
        assert not (tmp_path / "relay").exists()


def test_curl_through_relay_to_a_web_server(tmp_path: Path) -> None:
    curl = require_program("curl")
    data = random.Random(3).randbytes(2 * MEBIBYTE)
    (tmp_path / "file.bin").write_bytes(data)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    ) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with AionetServer("relay", LOCAL, f"127.0.0.1:{server.server_port}") as relay:
                url = f"http://{relay.address}/"
                done = subprocess.run(
                    [curl, "-sSf", "--noproxy", "*", url + "file.bin", url + "file.bin"],
                    capture_output=True,
                    timeout=PATIENCE,
                )
                assert done.stderr == b""
                assert done.stdout == 2 * data
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_100_mebibytes_arrive_bit_for_bit(
    target: socket.socket, big_file: tuple[Path, str], loop: str
) -> None:
    nc = require_program("nc")
    path, digest = big_file
    with (
        concurrent.futures.ThreadPoolExecutor(1) as threads,
        AionetServer("relay", LOCAL, name_of(target), "--loop", loop) as relay,
        path.open("rb") as file,
    ):
        sending = subprocess.Popen(
            [nc, "-N", "127.0.0.1", str(relay.port)], stdin=file, stdout=subprocess.DEVNULL
        )
        with sending, accept(target) as receiver:
            assert threads.submit(digest_of_stream, receiver).result() == digest
        assert sending.returncode == 0
        assert relay.next_event()["client_to_target"] == path.stat().st_size


def test_100_mebibytes_downloaded_from_a_socat_server_over_unix(
    tmp_path: Path, big_file: tuple[Path, str]
) -> None:
    socat = require_program("socat")
    path, digest = big_file
    server = subprocess.Popen(
        # -d -d: it says when it listens
        [socat, "-d", "-d", "-U", f"UNIX-LISTEN:{tmp_path}/from", f"OPEN:{path},rdonly"],
        stderr=subprocess.PIPE,
    )
    try:
        assert server.stderr is not None
        assert b"listening" in server.stderr.readline()
        with (
            AionetServer("relay", f"unix:{tmp_path}/to", f"unix:{tmp_path}/from") as relay,
            connect_raw(relay.address) as client,
        ):
            assert digest_of_stream(client) == digest
    finally:
        server.kill()
        server.communicate()


# What travels -------------------------------------------------------------------------------------------


def test_a_half_close_travels(target: socket.socket) -> None:
    with (
        AionetServer("relay", LOCAL, name_of(target)) as relay,
        connect_raw(relay.address) as client,
        accept(target) as server,
    ):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive_to_end(server) == b"question"
        server.sendall(b"answer")
        server.close()
        assert receive_to_end(client) == b"answer"


def test_the_last_bytes_before_a_reset_arrive_and_then_the_reset(target: socket.socket) -> None:
    data = random.Random(4).randbytes(50_000)
    with AionetServer("relay", LOCAL, name_of(target)) as relay:
        with connect_raw(relay.address) as client, accept(target) as server:
            server.sendall(data)
            assert receive_exactly(client, 1) == data[:1]  # all of it has left the server's system
            reset(server)
            assert receive_exactly(client, len(data) - 1) == data[1:]
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        event = relay.next_event()
        assert event["lost"] == "target"
        assert event["target_to_client"] == len(data)
        assert event["undelivered"] == 0
        assert "Connection reset" in event["error"]


def test_a_side_that_does_not_read_does_not_stall_the_other(target: socket.socket) -> None:
    flood = bytes(64 * MEBIBYTE)  # more than all the buffers on the way, grown to the most
    with (
        AionetServer("relay", LOCAL, name_of(target)) as relay,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
        connect_raw(relay.address) as client,
        accept(target) as server,
    ):
        flooding = threads.submit(server.sendall, flood)
        for number in range(100):
            client.sendall(b"%4d" % number)
            assert receive_exactly(server, 4) == b"%4d" % number
        assert not flooding.done()
        assert receive_exactly(client, len(flood)) == flood


# Who the client is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "version"), [(["--send-proxy"], 2), (["--send-proxy", "v2"], 2), (["--send-proxy=v1"], 1)]
)
def test_the_target_is_told_who_the_client_is(target: socket.socket, option: list[str], version: int) -> None:
    with (
        AionetServer("relay", LOCAL, name_of(target), *option) as relay,
        connect_raw(relay.address) as client,
        accept(target) as server,
    ):
        header = ProxyHeader(
            version=1 if version == 1 else 2,
            source=SocketAddress.from_sockaddr(client.getsockname()),
            destination=SocketAddress.parse(relay.address),
        ).to_bytes()
        assert receive_exactly(server, len(header)) == header  # before the client has said anything
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive_to_end(server) == b"question"
        server.close()
        assert receive_to_end(client) == b""
        assert relay.next_event()["client_to_target"] == len(b"question")


@pytest.mark.parametrize(
    ("version", "beginning"), [("v1", b"PROXY UNKNOWN\r\n"), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x31")]
)
def test_a_client_of_a_unix_socket(
    target: socket.socket, tmp_path: Path, version: str, beginning: bytes
) -> None:
    with (
        AionetServer("relay", f"unix:{tmp_path}/relay", name_of(target), "--send-proxy", version) as relay,
        connect_raw(relay.address),
        accept(target) as server,
    ):
        assert receive_exactly(server, len(beginning)) == beginning


# When the target is not there ---------------------------------------------------------------------------


def test_a_target_that_refuses_is_one_line_and_a_reset() -> None:
    with AionetServer("relay", LOCAL, "127.0.0.1:1") as relay:
        with pytest.raises(ConnectionResetError), connect_raw(relay.address) as client:
            client.recv(1)
        event = relay.next_event()
        assert (event["lost"], event["client_to_target"], event["target_to_client"]) == ("target", 0, 0)
        assert event["error"] == "cannot connect to 127.0.0.1:1: Connection refused"
        relay.signal()
        code, _, errors = relay.ended()
    assert code == 0
    assert len(errors.splitlines()) == 1
    assert "cannot connect to 127.0.0.1:1: Connection refused" in errors


def test_many_failures_are_many_events_and_few_lines() -> None:
    """Programs are told of each; the log has a few of a second, and the number of the others."""
    with AionetServer("relay", LOCAL, "127.0.0.1:1") as relay:
        for _ in range(100):
            with pytest.raises(ConnectionResetError), connect_raw(relay.address) as client:
                client.recv(1)
        errors = [relay.next_event()["error"] for _ in range(100)]
        relay.signal()
        code, _, log = relay.ended()
    assert code == 0
    assert errors == ["cannot connect to 127.0.0.1:1: Connection refused"] * 100
    text = "cannot connect to 127.0.0.1:1: Connection refused"
    lines = [line for line in log.splitlines() if text in line]
    counts = [int(number) for line in lines for number in re.findall(r"and (\d+) more like this", line)]
    assert counts
    assert len(lines) - len(counts) + sum(counts) == 100


def test_a_target_that_is_no_socket(tmp_path: Path) -> None:
    with AionetServer("relay", f"unix:{tmp_path}/relay", f"unix:{tmp_path}/nothing") as relay:
        with connect_raw(relay.address) as client:
            assert client.recv(1) == b""
        assert relay.next_event()["error"].startswith(f"cannot connect to unix:{tmp_path}/nothing: No such")


# Ending -------------------------------------------------------------------------------------------------


def test_a_drain_lets_connections_finish(target: socket.socket) -> None:
    with AionetServer("relay", LOCAL, name_of(target)) as relay:
        with connect_raw(relay.address) as client, accept(target) as server:
            client.sendall(b"before")
            assert receive_exactly(server, 6) == b"before"
            relay.signal()
            assert relay.next_event()["event"] == "draining"
            with pytest.raises(ConnectionRefusedError):
                connect_raw(relay.address)
            server.sendall(b"after")
            assert receive_exactly(client, 5) == b"after"
            client.close()
            assert receive_to_end(server) == b""
            server.close()
            assert relay.next_event()["event"] == "closed"
            drained = relay.next_event()
        assert (drained["event"], drained["finished"], drained["cancelled"]) == ("drained", 1, 0)
        assert relay.ended() == (0, "", "")


def test_a_second_signal_ends_the_grace(target: socket.socket) -> None:
    with AionetServer("relay", LOCAL, name_of(target), "--drain-grace", 60) as relay:
        with connect_raw(relay.address) as client, accept(target) as server:
            client.sendall(b"x")
            assert receive_exactly(server, 1) == b"x"
            relay.signal(signal.SIGINT)
            assert relay.next_event() == {"event": "draining", "connections": 1, "grace": 60.0}
            relay.signal(signal.SIGINT)
            assert relay.next_event()["grace"] == 0
            closed = relay.next_event()
            assert (closed["event"], closed["cause"]) == ("closed", "cancelled by the drain")
            assert (closed["client_to_target"], closed["target_to_client"], closed["lost"]) == (1, 0, None)
            drained = relay.next_event()
            assert (drained["event"], drained["finished"], drained["cancelled"]) == ("drained", 0, 1)
            with pytest.raises(ConnectionResetError):  # cut short, and told so
                client.recv(1)
        assert relay.ended()[0] == 0


@pytest.mark.parametrize(
    ("limit", "cause"), [("--idle-timeout", "idle"), ("--handler-timeout", "handler took too long")]
)
def test_a_connection_that_is_cut_is_told(target: socket.socket, limit: str, cause: str) -> None:
    with (
        AionetServer("relay", LOCAL, name_of(target), limit, "0.3", "--send-proxy") as relay,
        connect_raw(relay.address) as client,
        accept(target) as server,
    ):
        client.sendall(b"four")
        server.sendall(b"eleven and!")
        event = relay.next_event()
    assert (event["event"], event["cause"], event["lost"]) == ("closed", cause, None)
    assert (event["client_to_target"], event["target_to_client"]) == (4, 11)


@pytest.mark.parametrize(
    ("options", "sent", "cause"),
    [
        (["--handshake-timeout", "0.3"], b"", "handshake took too long"),
        (["--handshake-timeout", "0.3"], b"PROXY ", "handshake took too long"),
        ([], b"GET / HTTP/1.0\r\n\r\n", "handshake failed"),
    ],
)
def test_a_connection_that_ends_in_its_handshake_is_told(
    target: socket.socket, options: list[str], sent: bytes, cause: str
) -> None:
    name = name_of(target)
    with (
        AionetServer("relay", LOCAL, name, "--proxy-protocol", "127.0.0.0/8", *options) as relay,
        connect_raw(relay.address) as client,
    ):
        client.sendall(sent)
        event = relay.next_event()
        assert event.pop("seconds") > 0
        assert event == {
            "event": "closed",
            "client": name_of(client),
            "target": name,
            "client_to_target": 0,
            "target_to_client": 0,
            "lost": None,
            "error": None,
            "undelivered": 0,
            "truncated": [],
            "cause": cause,
        }


@pytest.mark.parametrize(("kind", "request_"), [("tcp", "short"), ("tcp", "long"), ("unix", "long")])
def test_a_target_that_takes_nothing_is_given_up(tmp_path: Path, kind: str, request_: str) -> None:
    """Also where all that was sent to it fits into the kernel's buffers, and no write waits."""
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    with socket.socket(family) as listener:
        listener.settimeout(PATIENCE)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0) if kind == "tcp" else str(tmp_path / "target"))
        listener.listen()
        name = name_of(listener) if kind == "tcp" else f"unix:{tmp_path}/target"
        with (
            AionetServer("relay", LOCAL, name, "--write-stall-timeout", "0.5") as relay,
            connect_raw(relay.address) as client,
            accept(listener),
        ):
            with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 - by either call
                client.sendall(bytes(MEBIBYTE // 2 if request_ == "short" else 64 * MEBIBYTE))
                client.recv(1)
            event = relay.next_event()
            assert (event["event"], event["lost"]) == ("closed", "target")
            assert event["error"] == f"{name} took nothing for 0.5 s"


def test_max_connections_leaves_others_waiting(target: socket.socket) -> None:
    with (
        AionetServer("relay", LOCAL, name_of(target), "--max-connections", 1) as relay,
        connect_raw(relay.address) as first,
        accept(target) as first_server,
        connect_raw(relay.address) as second,
    ):
        second.sendall(b"second")
        first.sendall(b"first")
        assert receive_exactly(first_server, 5) == b"first"
        target.settimeout(0.2)
        with pytest.raises(TimeoutError):
            target.accept()
        target.settimeout(PATIENCE)
        first.close()
        first_server.close()
        with accept(target) as second_server:
            assert receive_exactly(second_server, 6) == b"second"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_client_that_leaves_while_its_target_is_dialled(
    target: socket.socket, tmp_path: Path, kind: str
) -> None:
    """The target answers no handshake. A client that has only ended its side has not left."""
    listen = LOCAL if kind == "tcp" else f"unix:{tmp_path}/relay"
    with AionetServer("relay", listen, name_of(target), "--target-tls", "--timeout", 60) as relay:
        staying = connect_raw(relay.address)
        with staying, accept(target) as targets_end:
            leaving = connect_raw(relay.address)
            with accept(target) as other_end:
                staying.shutdown(socket.SHUT_WR)
                reset(leaving)
                event = relay.next_event()
                assert (event["event"], event["lost"]) == ("closed", "client")
                assert event["error"] == f"it left before {name_of(target)} answered"
                assert event["cause"] == ("lost" if kind == "tcp" else "ended by the peer")
                with contextlib.suppress(ConnectionResetError):
                    receive_to_end(other_end)
            reset(targets_end)
            assert relay.next_event()["lost"] == "target"


@pytest.mark.parametrize(
    ("listening", "to", "same"),
    [
        (["127.0.0.1:7"], "127.0.0.1:7", True),
        (["127.0.0.1:7"], "127.0.0.1:8", False),
        (["127.0.0.1:7"], "127.0.0.2:7", False),
        (["127.0.0.1:7"], ":7", True),
        (["127.0.0.1:7"], "0.0.0.0:7", True),
        (["127.0.0.1:7"], "[::ffff:127.0.0.1]:7", True),
        (["127.0.0.1:7"], "localhost:7", False),  # until it is resolved
        (["0.0.0.0:7", "[::]:7"], "127.0.0.9:7", True),
        (["0.0.0.0:7"], "192.0.2.1:7", False),  # of another host
        (["0.0.0.0:7"], "[::1]:7", False),
        (["127.0.0.1:7"], "unix:/x", False),
        (["unix:@a"], "unix:@a", True),
        (["unix:@a"], "unix:@b", False),
    ],
)
def test_targets_that_are_the_relay(listening: list[str], to: str, same: bool) -> None:
    found = leads_here(as_address(to), [as_address(text) for text in listening])
    assert (found is not None) is same


@pytest.mark.parametrize(("listen", "to"), [(":{}", "127.0.0.1:{}"), ("unix:relay", "unix:./relay")])
def test_a_relay_to_itself_does_not_start(tmp_path: Path, listen: str, to: str) -> None:
    port = unused_port()
    done = aionet("relay", listen.format(port), to.format(port), cwd=tmp_path)
    assert done.returncode == 1
    assert b"is this relay, which listens on" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_relay_to_a_name_of_itself_makes_one_connection() -> None:
    port = unused_port()
    with AionetServer("relay", f"127.0.0.1:{port}", f"localhost:{port}") as relay:
        for _ in range(3):
            with pytest.raises(ConnectionResetError), connect_raw(relay.address) as client:
                client.recv(1)
        relay.signal()
        code, output, _ = relay.ended()
        assert code == 0
        ends = [json.loads(line) for line in output.splitlines()]
        refusals = [end["error"] for end in ends if end["event"] == "closed" and end["lost"] == "target"]
        assert refusals
        assert all("leads back to this relay" in error for error in refusals)
        assert len(ends) < 20


def test_without_json_standard_output_stays_empty(target: socket.socket) -> None:
    with AionetServer("relay", LOCAL, name_of(target), as_json=False) as relay:
        with connect_raw(relay.address) as client, accept(target) as server:
            client.close()
            server.close()
        relay.signal()
        code, output, errors = relay.ended()
    assert (code, output) == (0, "")
    assert "drained: " in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "LISTEN, TARGET"),
        ([":1"], "TARGET"),
        (["nonsense", ":1"], "argument LISTEN: 'nonsense' lacks a port"),
        ([LOCAL, "127.0.0.1:0"], "argument TARGET: '127.0.0.1:0': expected a port in 1..65535"),
        ([LOCAL, "unix:"], "argument TARGET: 'unix:' lacks a path"),
        ([LOCAL, ":1", "--timeout", "0"], "argument --timeout: '0': expected more than 0 seconds"),
        ([LOCAL, ":1", "--send-proxy", "v3"], "argument --send-proxy: invalid choice: 'v3'"),
        ([LOCAL, ":1", "--keepalive", "soon"], "'soon': expected off, or IDLE[,INTERVAL[,COUNT]]"),
        ([LOCAL, ":1", "--keepalive", "60,0"], "'60,0': INTERVAL=0: expected"),
        ([LOCAL, ":1", "--user-timeout", "0"], "'0': expected more than 0 seconds"),
        ([LOCAL, ":1", "--bind", ":2"], "unknown option --bind"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = aionet_here("relay", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
