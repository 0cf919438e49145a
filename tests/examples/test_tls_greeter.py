"""``tls_greeter.py``: greetings in TLS, and a certificate that is exchanged at SIGHUP."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import trustme
from example_process import Example, connect


def write(leaf: trustme.LeafCert, directory: Path) -> tuple[Path, Path]:
    files = directory / "cert.pem", directory / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(files[0])
    leaf.private_key_pem.write_to_path(files[1])
    return files


def greeted(port: int, context: ssl.SSLContext) -> bytes:
    """Say a name, see the greeting; return the certificate."""
    with connect(port) as sock, context.wrap_socket(sock, server_hostname="localhost") as wrapped:
        wrapped.sendall(b"Ada\n")
        assert wrapped.recv(100) == b"hello Ada, in TLSv1.3\n"
        found = wrapped.getpeercert(binary_form=True)
        wrapped.unwrap().close()
        assert found is not None
        return found


def test_greetings(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with Example("tls_greeter", *write(ca.issue_cert("localhost"), tmp_path), 0) as example:
        port = example.port()
        before = greeted(port, context)
        write(ca.issue_cert("localhost"), tmp_path)
        example.process.send_signal(signal.SIGHUP)
        while greeted(port, context) == before:
            pass
        assert example.read_line().startswith(f"certificate reloaded: {tmp_path / 'cert.pem'}, valid until ")
