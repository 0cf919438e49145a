"""Who has a /64 network of IPv6 is one peer, whatever addresses of it its connections have."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

PROGRAM = Path(__file__).with_name("rotating.py")

_ALONE = ("unshare", "--user", "--map-root-user", "--net")
_ROUTE = "ip link set lo up && ip -6 route add local 2001:db8::/32 dev lo"


@functools.cache
def _has_namespaces() -> bool:
    try:
        done = subprocess.run([*_ALONE, "sh", "-c", _ROUTE], capture_output=True, timeout=20)
    except OSError:
        return False
    return done.returncode == 0


def rotate(bits: int, count: int, directory: Path) -> dict[str, dict[str, Any]]:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    files = [directory / f"{name}.pem" for name in ("certificate", "key", "authority")]
    for path, pem in zip(
        files, (leaf.cert_chain_pems[0], leaf.private_key_pem, authority.cert_pem), strict=True
    ):
        path.write_bytes(pem.bytes())
    words = [sys.executable, str(PROGRAM), str(bits), str(count), *map(str, files)]
    command = [*_ALONE, "sh", "-c", f'{_ROUTE} && exec "$@"', "sh", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not _has_namespaces(), reason="no network namespace can be made here")
def test_a_network_of_64_bits_is_one_peer(tmp_path: Path) -> None:
    found = rotate(64, 100, tmp_path)
    assert (found["number"]["active"], found["number"]["rejected"]) == (5, 95)
    assert 5 <= found["rate"]["active"] < 100  # how long that took is not known
    assert found["rate"]["active"] + found["rate"]["rejected"] == 100
    assert found["handshakes"]["active"] == 20  # a third of 60
    assert found["handshakes"]["rejected"] == 80
