"""What a connection costs that does nothing: ``python benchmarks/idle.py --help``.

Each server is given so many connections; every one of them echoes a byte, so that its task has begun and
waits. Private bytes of the process (``/proc/PID/smaps_rollup``) are read before and after; the kernel's own
memory for a socket is not in them. A first, smaller batch of connections goes before, so that what a server
sets up once does not count.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import socket
import ssl
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the aionet of this tree

from measuring import REFERENCE, TLS_REFERENCE, WORKLOADS, TurnError, compile_tools, running_server
from servers import SERVERS, TLS_CERTIFICATE

from aionet.bench.arguments import whole_number
from aionet.bench.facts import cpu_model, kernel, python_build

WARM_UP = 200  # connections
DESCRIPTORS_BESIDE = 100


def private_bytes(pid: int) -> int:
    """Return the memory that this process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def connect(port: int, count: int, tls: ssl.SSLContext | None) -> list[socket.socket]:
    """Return `count` connections, each of which has had a byte echoed."""
    found = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname="localhost")
        sock.sendall(b"x")
        found.append(sock)
    for sock in found:
        if sock.recv(1) != b"x":
            raise TurnError("a byte came back changed")
    return found


def bytes_per_connection(name: str, count: int) -> tuple[float, dict[str, Any]]:
    """Return the private bytes of one idle connection, and what the server said of itself."""
    tls = ssl.create_default_context(cafile=TLS_CERTIFICATE) if name.endswith("-tls") else None
    with running_server(name) as (process, ready):
        held = connect(ready["port"], WARM_UP, tls)
        before = private_bytes(process.pid)
        held += connect(ready["port"], count, tls)
        after = private_bytes(process.pid)
        for sock in held:
            sock.close()
    return (after - before) / count, ready


def main() -> int:
    parser = argparse.ArgumentParser(description="Private bytes of the server process per idle connection.")
    known = [REFERENCE, TLS_REFERENCE, *SERVERS]
    parser.add_argument("--servers", type=lambda text: text.split(","), default=known, metavar="A,B")
    parser.add_argument("--connections", type=whole_number(1, 100_000), default=4000)
    parser.add_argument("--rounds", type=whole_number(1, 100), default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to store the results")
    options = parser.parse_args()
    if unknown := set(options.servers) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = options.connections + WARM_UP + DESCRIPTORS_BESIDE
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(needed, hard)), hard))
    compile_tools(WORKLOADS.values())
    rows = []
    for name in options.servers:
        reason = SERVERS[name].why_not() if name in SERVERS else None
        if reason:
            print(f"skipped: {name}: {reason}", file=sys.stderr)
            continue
        turns = [bytes_per_connection(name, options.connections) for _ in range(options.rounds)]
        sizes = [size for size, _ in turns]
        rows.append(
            {
                "server": name,
                "engine": turns[0][1].get("engine"),
                "private_bytes_per_connection": statistics.median(sizes),
                "spread": [min(sizes), max(sizes)],
            }
        )
        print(f"{name}: {rows[-1]['private_bytes_per_connection']:,.0f}", file=sys.stderr)
    if options.json:
        stored = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": {"kernel": kernel(), "cpu": cpu_model(), "python": python_build()},
            "connections": options.connections,
            "rounds": options.rounds,
            "summary": rows,
        }
        options.json.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print("| server | private bytes per idle connection (spread) |\n|---|---:|")
    for row in sorted(rows, key=lambda row: row["private_bytes_per_connection"]):
        engine = f" ({row['engine']})" if row["engine"] else ""
        low, high = row["spread"]
        size = row["private_bytes_per_connection"]
        print(f"| {row['server']}{engine} | {size:,.0f} ({low:,.0f}-{high:,.0f}) |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
