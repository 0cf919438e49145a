"""TLS with programs that others wrote, both ways: TLS 1.2 and 1.3, with an RSA and an elliptic key.

The long RSA key takes its time, and is left to the slow tests.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, AionetServer, aionet
from helpers import require_program, until_listening, unused_port

from .authority import Authority

VERSIONS = ["1.2", "1.3"]
KINDS = {"rsa": "rsa:4096", "p256": "ec"}
by_kind = pytest.mark.parametrize("kind", ["p256", pytest.param("rsa", marks=pytest.mark.slow)])

HANDLER = """
async def shout(socket):
    line = await socket.read_line()
    await socket.write((b"HTTP/1.0 200 OK\\r\\n\\r\\n" if line.startswith(b"GET") else b"") + line.upper())
"""


class Certificates:
    """A certificate of each kind that is its own authority, and a server of ours for each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "loud.py").write_text(HANDLER)

    def certificate(self, kind: str) -> Path:
        path = self.directory / f"{kind}.pem"
        if not path.exists():
            self._make(path, self.key(kind), KINDS[kind])
        return path

    def key(self, kind: str) -> Path:
        return self.directory / f"{kind}.key"

    def _make(self, certificate: Path, key: Path, algorithm: str) -> None:
        options = ["-pkeyopt", "ec_paramgen_curve:P-256"] if algorithm == "ec" else []
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        files = ["-keyout", key, "-out", certificate]
        command = [require_program("openssl"), "req", "-x509", "-nodes", "-days", "2", "-newkey", algorithm]
        subprocess.run([*command, *options, *names, *files], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


# Their clients ----------------------------------------------------------------------------------------


def openssl_client(port: int, trusted: Path, version: str) -> bytes:
    command = [require_program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-quiet"]
    verifying = ["-CAfile", trusted, "-verify_return_error", "-verify_hostname", "localhost"]
    return talk([*command, *verifying, f"-tls{version.replace('.', '_')}"])


def gnutls_client(port: int, trusted: Path, version: str) -> bytes:
    name = ["--sni-hostname=localhost", "--verify-hostname=localhost"]
    priority = f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
    command = [require_program("gnutls-cli"), "127.0.0.1", f"--port={port}", f"--x509cafile={trusted}"]
    return talk([*command, *name, priority])


def curl(port: int, trusted: Path, version: str) -> bytes:
    command = [require_program("curl"), "-sS", "--cacert", trusted, f"https://127.0.0.1:{port}/hello"]
    return talk([*command, f"--tlsv{version}", "--tls-max", version])


def talk(command: list[Any]) -> bytes:
    done = subprocess.run(command, input=b"hello\n", capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@by_kind
def test_their_clients(certificates: Certificates, kind: str) -> None:
    files = ["--cert", certificates.certificate(kind), "--key", certificates.key(kind)]
    bind = ["--bind", "127.0.0.1:0", "--log-level", "debug"]
    with AionetServer("serve", "loud:shout", *bind, *files, cwd=certificates.directory) as server:
        for client in (openssl_client, gnutls_client, curl):
            for version in VERSIONS:
                said = client(server.port, certificates.certificate(kind), version)
                assert b"HELLO" in said, (client, version)
        server.signal()
        code, _, errors = server.ended()
    assert code == 0
    assert "Traceback" not in errors
    assert "failed" not in errors


# Their servers ----------------------------------------------------------------------------------------


@contextmanager
def openssl_server(certificate: Path, key: Path, *options: str) -> Iterator[int]:
    command = [require_program("openssl"), "s_server", "-accept", "127.0.0.1:0", "-rev"]
    with subprocess.Popen(
        [*command, "-cert", certificate, "-key", key, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"ACCEPT"):
                    yield int(line.rpartition(b":")[2])
                    break
        finally:
            process.kill()


@contextmanager
def gnutls_server(certificate: Path, key: Path, *options: str) -> Iterator[int]:
    port = unused_port()
    command = [require_program("gnutls-serv"), "--echo", f"--port={port}", "--quiet"]
    with subprocess.Popen(
        [*command, f"--x509certfile={certificate}", f"--x509keyfile={key}", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until_listening(port)
            yield port
        finally:
            process.kill()


@pytest.mark.parametrize("version", VERSIONS)
@by_kind
def test_their_servers(certificates: Certificates, kind: str, version: str) -> None:
    files = certificates.certificate(kind), certificates.key(kind)
    trust = ["--tls", "--ca", certificates.certificate(kind), "--server-hostname", "localhost"]
    with openssl_server(*files, f"-tls{version.replace('.', '_')}") as port:
        done = aionet("connect", f"127.0.0.1:{port}", *trust, input=b"hello\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"olleh\n", b"")
    with gnutls_server(*files, f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}") as port:
        done = aionet("connect", f"127.0.0.1:{port}", *trust, input=b"hello\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_servers_that_require_a_certificate(authority: Authority, version: str) -> None:
    pair = authority.pair("server")
    trust = ["--tls", "--ca", authority.file, "--server-hostname", "localhost"]
    priority = f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
    for serving in (
        openssl_server(*pair.files, "-Verify", "1", f"-tls{version.replace('.', '_')}"),
        gnutls_server(*pair.files, "--require-client-cert", f"--x509cafile={authority.file}", priority),
    ):
        with serving as port:
            done = aionet("connect", f"127.0.0.1:{port}", *trust, input=b"hello\n")
            assert (done.returncode, done.stdout) == (1, b"")
            assert b"the peer refused: no certificate was presented" in done.stderr


@pytest.mark.parametrize(
    ("names", "valid", "trusted", "why"),
    [
        (["localhost"], (-9, -2), True, "the certificate has expired"),
        (["elsewhere.example"], (-1, 9), True, "the certificate is for another name"),
        (["localhost"], (-1, 9), False, "nobody who is trusted has signed the certificate"),
    ],
    ids=["expired", "wrong name", "untrusted"],
)
def test_servers_that_are_not_to_be_trusted(
    authority: Authority, tmp_path: Path, names: list[str], valid: tuple[int, int], trusted: bool, why: str
) -> None:
    pair = authority.pair("server", *names, valid=valid)
    ca = ["--ca", authority.file] if trusted else []
    with openssl_server(*pair.files) as port:
        arguments = ["--tls", *ca, "--server-hostname", "localhost"]
        done = aionet("connect", f"127.0.0.1:{port}", *arguments, input=b"secret\n")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"aionet: TLS with 127.0.0.1:{port} failed: {why}")
