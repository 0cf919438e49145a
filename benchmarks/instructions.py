"""Where a server's time goes: instructions per message or connection, by function.

    python benchmarks/instructions.py echo aionet-asyncio
    python benchmarks/instructions.py accept asyncio-streams --top 40

valgrind's callgrind counts the instructions of the server's process (the kernel's are not among them). Each
server runs twice, for a small and a large number of exchanges; the difference of the two counts is free of
what a process does once. Unlike seconds, counts do not care what else the machine does: two runs differ by
well under a percent.
"""

from __future__ import annotations

import argparse
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the aionet of this tree

from measuring import running_server
from servers import SERVERS

CONNECTIONS = 64
MESSAGE = bytes(1024)
RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds
COUNTS = {"echo": (1_000, 11_000), "accept": (500, 2_500)}

_LINE = re.compile(r"^ *([\d,]+) \([^)]*\) +(\S.*?)(?: \[.*)?$")


def echo(port: int, count: int) -> None:
    """Exchange `count` messages over some connections, one in flight on each."""
    poller, socks, sent, received = select.epoll(), {}, 0, 0
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port))
        socks[sock.fileno()] = sock
        poller.register(sock, select.EPOLLIN)
    for sock in socks.values():
        sock.sendall(MESSAGE)
        sent += 1
    while received < count:
        for fd, _ in poller.poll():
            assert len(socks[fd].recv(len(MESSAGE), socket.MSG_WAITALL)) == len(MESSAGE)
            received += 1
            if sent < count:
                socks[fd].sendall(MESSAGE)
                sent += 1
    for sock in socks.values():
        sock.close()


def accept(port: int, count: int) -> None:
    """Connect `count` times, some at a time: a byte out, a byte back, reset."""
    poller, socks, begun, ended = select.epoll(), {}, 0, 0
    while ended < count:
        while len(socks) < CONNECTIONS and begun < count:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"x")
            socks[sock.fileno()] = sock
            poller.register(sock, select.EPOLLIN)
            begun += 1
        for fd, _ in poller.poll():
            sock = socks.pop(fd)
            assert sock.recv(1) == b"x"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            ended += 1


def instructions_of(server: str, workload: str, count: int) -> Counter[str]:
    """Return the instructions of one run, by function."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "callgrind")
        prefix = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}")
        with running_server(server, prefix=prefix) as (process, ready):
            {"echo": echo, "accept": accept}[workload](ready["port"], count)
            assert process.stdin is not None
            process.stdin.close()  # the server ends, and callgrind writes what it counted
            process.wait(60)
        command = ("callgrind_annotate", "--auto=no", "--threshold=100", "--show=Ir", str(out))
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: Counter[str] = Counter()
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and "=>" not in line:
            found[match[2].rpartition("/")[2]] += int(match[1].replace(",", ""))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions per message or connection, by function.")
    parser.add_argument("workload", choices=COUNTS)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--top", type=int, default=20, help="functions shown (default: %(default)s)")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    few, many = COUNTS[options.workload]
    less = instructions_of(options.server, options.workload, few)
    counted = instructions_of(options.server, options.workload, many)
    counted.subtract(less)
    total = counted.pop("PROGRAM TOTALS")
    unit = "message" if options.workload == "echo" else "connection"
    print(f"{options.server}: {total / (many - few):,.0f} instructions per {unit}")
    for name, count in counted.most_common(options.top):
        print(f"{count / (many - few):10,.0f}  {100 * count / total:5.1f} %  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
