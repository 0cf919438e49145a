"""TLS on the command line: options, their mistakes, reloads, relays. Peers are the standard library's."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, AionetServer, aionet, connect_raw, receive_to_end

from aionet.cli.main import main

from .authority import Authority, Pair, leaf_serial, put

HANDLER = """
async def shout(socket):
    async for data in socket:
        await socket.write(data.upper())
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(HANDLER)
    return tmp_path


def options(pair: Pair, *more: object) -> list[object]:
    """What makes a server serve TLS."""
    return ["--cert", pair.certificate, "--key", pair.key, *more]


@contextmanager
def client(address: str, context: ssl.SSLContext, name: str = "localhost") -> Iterator[ssl.SSLSocket]:
    with connect_raw(address) as sock, context.wrap_socket(sock, server_hostname=name) as wrapped:
        yield wrapped


def shown(server: AionetServer, authority: Authority) -> bytes:
    """The certificate that a new connection sees; and it is served."""
    with client(server.address, authority.client()) as sock:
        sock.sendall(b"x")
        assert sock.recv(10) == b"X"
        found = sock.getpeercert(binary_form=True)
        assert found is not None
        return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Serving ----------------------------------------------------------------------------------------------


def test_serving(authority: Authority, app: Path) -> None:
    pair, other = authority.pair("server"), authority.pair("other", "other.example")
    mine = authority.pair("client", "me@example.org")
    more = ["--cert", other.certificate, "--key", other.key, "--client-ca", authority.file, "--alpn", "x"]
    log = ["--access-log", "json"]
    bind = ["--bind", "127.0.0.1:0"]
    with AionetServer("serve", "app:shout", *bind, *options(pair, *more), *log, cwd=app) as server:
        for name, expected in (("localhost", pair), ("other.example", other)):
            with client(server.address, authority.client(mine, alpn=("x",)), name) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"HELLO"
                assert sock.selected_alpn_protocol() == "x"
                assert sock.getpeercert(binary_form=True) == expected.serial
                sock.unwrap().close()
        with connect_raw(server.address) as plain:
            plain.sendall(b"hello")
            assert plain.recv(100) == b""
        server.signal()
        code, _, errors = server.ended()
    assert code == 0
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [line["tls"] for line in lines] == ["TLSv1.3", "TLSv1.3", None]
    assert [line["tls_failure"] for line in lines] == [None, None, "plaintext"]
    assert "Traceback" not in errors


def test_metrics(authority: Authority) -> None:
    pair = authority.pair("server")
    arguments = ["--bind", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with AionetServer("echo", *arguments, *options(pair)) as server:
        with client(server.address, authority.client()) as sock:
            sock.unwrap().close()
        with connect_raw(server.address) as plain:
            plain.sendall(b"hello")
            assert plain.recv(100) == b""

        def scraped() -> bool:
            with connect_raw(server.metrics) as sock:
                sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                text = b"".join(iter(lambda: sock.recv(65536), b""))
            assert b'aionet_tls_handshake_failures_total{reason="timeout"} 0.0\n' in text
            return (
                b"aionet_tls_handshakes_total 1.0\n" in text
                and b'aionet_tls_handshake_failures_total{reason="plaintext"} 1.0\n' in text
            )

        until(scraped)


def test_clients_that_need_no_certificate_or_have_a_revoked_one(authority: Authority) -> None:
    pair, mine, theirs = (authority.pair(name) for name in ("server", "mine", "theirs"))
    checks = ("--client-ca", authority.file, "--client-optional", "--client-crl", authority.revoke(theirs))
    with AionetServer("echo", "--bind", "127.0.0.1:0", *options(pair), *checks) as server:
        for context in (authority.client(), authority.client(mine)):
            with client(server.address, context) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
                sock.unwrap().close()
        # In TLS 1.3 the alert comes after this side's end of the handshake.
        with client(server.address, authority.client(theirs)) as sock, pytest.raises(ssl.SSLError) as caught:
            sock.recv(100)
        assert "revoked" in str(caught.value)


def test_from_the_environment_and_a_file(authority: Authority, app: Path) -> None:
    pair = authority.pair("server")
    (app / "app.toml").write_text(
        f'[serve]\nhandler = "app:shout"\ncert = "{pair.certificate}"\nalpn = ["a", "b"]\n'
    )
    env = {"AIONET_KEY": str(pair.key), "AIONET_CONFIG": "app.toml"}
    done = aionet("serve", "--check", "--client-ca", authority.file, cwd=app, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    for line in (
        f'cert = ["{pair.certificate}"]  # app.toml',
        f'key = ["{pair.key}"]  # AIONET_KEY',
        f'client_ca = "{authority.file}"  # --client-ca',
        'alpn = ["a", "b"]  # app.toml',
        "# max_handshakes is not set",
    ):
        assert line in done.stdout.decode().splitlines()


@pytest.mark.parametrize("command", [["serve", "app:shout", "--check"], ["echo"], ["relay", ":0", ":1"]])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "server.key"], "--key needs --cert: without a certificate there is no TLS"),
        (
            ["--client-optional"],
            "--client-optional needs --client-ca, which names the authorities",
        ),
        (
            ["--client-crl", "crl.pem"],
            "--client-crl needs --client-ca, which names the authorities",
        ),
        (["--alpn", "h2"], "--alpn needs --cert: without a certificate there is no TLS"),
        (
            ["--cert", "server.pem", "--cert", "server.pem", "--key", "server.key"],
            "--key was given 1 times and --cert 2 times: expected one for each, or none",
        ),
        (["--cert", "none.pem"], "cannot read none.pem: No such file or directory"),
        (
            ["--cert", "server.pem", "--key", "other.key"],
            "the private key in other.key does not belong to the certificate server.pem",
        ),
    ],
)
def test_mistakes(mistaken: Any, command: list[str], arguments: list[str], message: str) -> None:
    assert mistaken(*command, *arguments) == (2 if "--check" in command else 1, f"aionet: {message}\n")


@pytest.fixture
def mistaken(
    authority: Authority, app: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command that comes to nothing, among some files; the exit code, and what it complains of."""
    monkeypatch.chdir(app)
    monkeypatch.setattr("sys.path", sys.path[:])
    authority.pair("server")
    authority.pair("other")

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        return code, capsys.readouterr().err

    yield run
    sys.modules.pop("app", None)


# Encrypted keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_a_password_in_a_file(authority: Authority, app: Path, workers: list[str]) -> None:
    pair = authority.pair("server")
    pair.encrypt("secret")
    (app / "password").write_text("secret\n")
    arguments = ["--bind", "127.0.0.1:0", *options(pair), "--key-password-file", "password", *workers]
    with AionetServer("serve", "app:shout", *arguments, cwd=app) as server:
        assert shown(server, authority) == pair.serial


def test_a_client_with_an_encrypted_key(authority: Authority, app: Path) -> None:
    pair, mine = authority.pair("server"), authority.pair("client", "me@example.org")
    mine.encrypt("secret")
    (app / "password").write_text("secret")
    serving = ["--bind", "127.0.0.1:0", *options(pair, "--client-ca", authority.file)]
    with AionetServer("serve", "app:shout", *serving, cwd=app) as server:
        trust = ["--ca", authority.file, "--cert", mine.certificate, "--key", mine.key]
        how = ["--server-hostname", "localhost", "--key-password-file", app / "password"]
        done = aionet("connect", server.address, "--tls", *trust, *how, input=b"hello")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the private key in server.key is encrypted: give its password with --key-password-file"),
        (
            ["--key-password-file", "ca.pem"],
            "the password given is not that of the private key in server.key",
        ),
        (["--key-password-file", "none"], "cannot read none: No such file or directory"),
    ],
)
def test_mistakes_with_passwords(
    mistaken: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("aionet.cli.tls_options._in_foreground", lambda: False)
    Pair.encrypt(authority.pair("server"), "secret")
    files = ["--cert", "server.pem", "--key", "server.key"]
    assert mistaken("echo", *files, *arguments) == (1, f"aionet: {message}\n")
    if not arguments:
        message = message.replace("--key", "--target-key")
        files = ["--target-tls", "--target-cert", "server.pem", "--target-key", "server.key"]
        assert mistaken("relay", ":0", ":1", *files) == (1, f"aionet: {message}\n")


_IN_FOREGROUND = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_a_password_is_asked_for_at_the_terminal(authority: Authority, app: Path, workers: list[str]) -> None:
    pair = authority.pair("server")
    pair.encrypt("secret")
    person, terminal = pty.openpty()
    said = b""

    def answer() -> None:
        nonlocal said
        while b"password of the private key: " not in said:
            said += os.read(person, 1000)
        os.write(person, b"secret\n")

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    arguments = ["--bind", "127.0.0.1:0", *options(pair), *workers]
    prefix = [sys.executable, "-c", _IN_FOREGROUND, str(terminal)]
    try:
        with AionetServer(
            "serve", "app:shout", *arguments, cwd=app, prefix=prefix, pass_fds=[terminal]
        ) as server:
            answering.join(PATIENCE)
            assert shown(server, authority) == pair.serial
            server.signal(signal.SIGHUP)  # nothing is asked a second time
            server.signal()
            assert server.ended()[0] == 0
    finally:
        os.close(person)
        os.close(terminal)
    assert said.count(b"password") == 1


def test_keys_that_cannot_be_logged(authority: Authority, app: Path) -> None:
    pair = authority.pair("server")
    env = {"SSLKEYLOGFILE": str(app / "none" / "keys")}
    warning = f"TLS keys are not logged: cannot write {env['SSLKEYLOGFILE']} (SSLKEYLOGFILE): No such file"
    done = aionet("serve", "app:shout", "--check", *options(pair), cwd=app, env=env)
    assert (done.returncode, done.stderr.decode().count(warning)) == (0, 1)
    with AionetServer("serve", "app:shout", "--bind", "127.0.0.1:0", *options(pair), cwd=app) as server:
        how = ["--tls", "--ca", authority.file, "--server-hostname", "localhost"]
        done = aionet("connect", server.address, *how, input=b"hello", env=env)
        assert (done.returncode, done.stdout, done.stderr.decode().count(warning)) == (0, b"HELLO", 1)
        done = aionet("connect", server.address, "--tls", input=b"hello", env=env)
        assert (done.returncode, done.stdout) == (1, b"")
        assert "nobody who is trusted has signed the certificate" in done.stderr.decode()
        assert b"Traceback" not in done.stderr


# Reloading --------------------------------------------------------------------------------------------


def test_changed_files_are_read_again(authority: Authority) -> None:
    pair = authority.pair("server")
    with (
        AionetServer("echo", "--bind", "127.0.0.1:0", *options(pair)) as server,
        client(server.address, authority.client()) as before,
    ):
        assert before.getpeercert(binary_form=True) == pair.serial
        pair.replace(authority.leaf("localhost"))
        server.expect(f"certificate reloaded: {pair.certificate}, valid until")
        with client(server.address, authority.client()) as after:
            assert after.getpeercert(binary_form=True) == pair.serial
        good = pair.serial
        put(pair.certificate, b"nothing")
        server.expect(f"certificates were not reloaded, those in use stay: {pair.certificate}: expected a")
        with client(server.address, authority.client()) as after:
            assert after.getpeercert(binary_form=True) == good
        before.sendall(b"still here")
        assert before.recv(100) == b"still here"


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_sighup(authority: Authority, app: Path, workers: list[str]) -> None:
    pair = authority.pair("server")
    arguments = ["--bind", "127.0.0.1:0", *options(pair), *workers, "--drain-grace", "5"]
    with AionetServer("serve", "app:shout", *arguments, cwd=app) as server:
        assert shown(server, authority) == pair.serial
        other = authority.leaf("localhost")
        good = pair.serial
        put(pair.key, other.private_key_pem.bytes())  # and not the certificate yet
        server.signal(signal.SIGHUP)
        server.expect(f"the private key in {pair.key} does not belong to the certificate {pair.certificate}")
        assert shown(server, authority) == good
        put(pair.certificate, other.cert_chain_pems[0].bytes())
        server.signal(signal.SIGHUP)
        until(lambda: shown(server, authority) == leaf_serial(other))


# Connecting and relaying ------------------------------------------------------------------------------


def test_connect(authority: Authority, app: Path) -> None:
    pair, mine = authority.pair("server"), authority.pair("client", "me@example.org")
    more = ["--client-ca", authority.file, "--alpn", "x"]
    with AionetServer(
        "serve", "app:shout", "--bind", f"unix:{app}/s", *options(pair, *more), cwd=app
    ) as server:
        own = ["--cert", mine.certificate, "--key", mine.key, "--alpn", "x"]
        name = ["--server-hostname", "localhost"]
        done = aionet("connect", server.address, "--tls", "--ca", authority.file, *own, *name, input=b"hello")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")
        done = aionet("connect", server.address, "--tls", "--ca", authority.file, *own, input=b"hello")
        message = (
            f"{server.address} has no host name: --server-hostname has to say what is in its certificate"
        )
        assert (done.returncode, done.stderr.decode()) == (1, f"aionet: {message}\n")
        for options_given, why in (
            ([], "nobody who is trusted has signed the certificate"),
            (["--ca", authority.file], "no certificate was presented"),
            (["--ca", authority.file, *own[:4], "--alpn", "y"], "no common application protocol"),
        ):
            done = aionet("connect", server.address, "--tls", *name, *options_given, input=b"hello")
            assert (done.returncode, done.stdout) == (1, b"")
            assert why in done.stderr.decode()
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ca", "ca.pem"], "--ca needs --tls"),
        (["--server-hostname", "x"], "--server-hostname needs --tls"),
        (["--accept-truncation"], "--accept-truncation needs --tls"),
        (["--tls", "--key", "server.key"], "--key needs --cert"),
        (["--tls", "--ca", "none.pem"], "cannot read none.pem: No such file or directory"),
        (["--tls", "--ca", "server.key"], "server.key: expected certificates of authorities, as PEM"),
        (
            ["--tls", "--cert", "server.key"],
            "server.key: expected a certificate and its private key, each as PEM",
        ),
    ],
)
def test_mistakes_of_clients(mistaken: Any, arguments: list[str], message: str) -> None:
    assert mistaken("connect", "127.0.0.1:1", *arguments) == (1, f"aionet: {message}\n")


@pytest.mark.parametrize("name", ["", ".", "x" * 300, "a\nb", "a b"])
@pytest.mark.parametrize(
    ("prefix", "command"), [("--", ["connect", "127.0.0.1:1"]), ("--target-", ["relay", ":0", "127.0.0.1:1"])]
)
def test_a_name_that_no_host_can_have(mistaken: Any, prefix: str, command: list[str], name: str) -> None:
    code, errors = mistaken(*command, f"{prefix}tls", f"{prefix}server-hostname", name)
    assert code == 2
    message = f"argument {prefix}server-hostname: {name!r} is not the name of a host: "
    assert message in errors.splitlines()[0]


def test_a_relay_that_ends_tls_and_one_that_begins_it(authority: Authority, app: Path) -> None:
    """A client in TLS, a relay that ends it, one that begins it again, and a server in TLS."""
    pair, inner = authority.pair("server"), authority.pair("inner", "inner.example")
    serving = ["serve", "app:shout", "--bind", "127.0.0.1:0", "--proxy-protocol", "127.0.0.1"]
    trust = ["--target-tls", "--target-ca", authority.file, "--target-server-hostname", "inner.example"]
    with AionetServer(*serving, *options(inner), cwd=app) as server:
        begins = AionetServer("relay", "127.0.0.1:0", server.address, *trust, "--send-proxy", "v2")
        with begins as middle, AionetServer("relay", "127.0.0.1:0", middle.address, *options(pair)) as outer:
            with client(outer.address, authority.client()) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"HELLO"
                sock.unwrap().close()
            assert outer.next_event()["lost"] is None
            event = middle.next_event()
            assert (event["client_to_target"], event["target_to_client"], event["error"]) == (5, 5, None)


def test_a_relay_to_a_target_that_is_not_to_be_trusted(authority: Authority, app: Path) -> None:
    pair = authority.pair("server", "elsewhere.example")
    with AionetServer("serve", "app:shout", "--bind", "127.0.0.1:0", *options(pair), cwd=app) as server:
        trust = ["--target-tls", "--target-ca", authority.file, "--target-server-hostname", "localhost"]
        with AionetServer("relay", "127.0.0.1:0", server.address, *trust) as relay:
            with connect_raw(relay.address) as sock, pytest.raises(ConnectionResetError):
                sock.recv(1)
            event: dict[str, Any] = relay.next_event()
            assert event["lost"] == "target"
            assert "the certificate is for another name" in event["error"]


@pytest.mark.parametrize("accepting", [[], ["--accept-truncation"], ["--no-accept-truncation"]])
def test_an_end_without_close_notify_at_a_relay(authority: Authority, accepting: list[str]) -> None:
    pair = authority.pair("server")
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        AionetServer(
            "relay", "127.0.0.1:0", f"127.0.0.1:{target.getsockname()[1]}", *options(pair, *accepting)
        ) as relay,
    ):
        with client(relay.address, authority.client()) as sock:
            backend, _ = target.accept()
            with backend:
                backend.settimeout(PATIENCE)
                backend.sendall(b"hello")
                assert sock.recv(100) == b"HELLO".lower()
                sock.sendall(b"bye")
                assert backend.recv(100) == b"bye"
                socket.socket(fileno=sock.detach()).close()
                if accepting == ["--no-accept-truncation"]:
                    with pytest.raises(ConnectionResetError):
                        backend.recv(100)
                else:
                    assert backend.recv(100) == b""
        event = relay.next_event()
        if accepting == ["--no-accept-truncation"]:
            assert (event["lost"], event["truncated"]) == ("client", [])
            assert "cut short" in event["error"]
        else:
            assert (event["lost"], event["truncated"], event["error"]) == (None, ["client"], None)
        relay.signal()
        assert "Traceback" not in relay.ended()[2]


@pytest.mark.parametrize("accepting", [[], ["--accept-truncation"]])
def test_an_end_without_close_notify_at_connect(authority: Authority, accepting: list[str]) -> None:
    context = authority.server(authority.pair("server"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with context.wrap_socket(accepted, server_side=True) as sock:
                sock.sendall(b"half of it")
                with socket.socket(fileno=sock.detach()) as raw, suppress(ConnectionResetError):
                    raw.shutdown(socket.SHUT_WR)
                    receive_to_end(raw)  # closing before would be a reset, which discards what was sent

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            trust = ["--tls", "--ca", authority.file, "--server-hostname", "localhost"]
            done = aionet("connect", address, *trust, *accepting)
        finally:
            thread.join()
    assert done.stdout == b"half of it"
    assert (done.returncode, b"close_notify" in done.stderr) == ((0, False) if accepting else (1, True))
