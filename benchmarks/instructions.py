"""Instructions that a server takes per message and per connection: where they go, and a guard that they stay.

    python benchmarks/instructions.py echo aionet              # by function
    python benchmarks/instructions.py accept asyncio-streams --top 40
    python benchmarks/instructions.py --check                  # what aionet takes, against the stored counts
    python benchmarks/instructions.py --store                  # this build's counts become the stored ones

valgrind's callgrind counts the instructions of the server's process (the kernel's are not among them). Each
server runs twice, for a small and a large number of exchanges; the difference of the two counts is free of
what a process does once. Unlike seconds, counts do not care what else the machine does: two runs differ by
well under a percent. That makes them fit to fail on: ``--check`` ends with status 1 if a count is more than
5 % above the one in ``results/instructions.json``.

*Slices of time* (`wires/slices.py`) would end after a thirtieth of what they do without valgrind, and each
costs a turn of the loop. So the slices of servers that are counted are as much longer.

A count belongs to a build of the interpreter and of the C library, and to the compiler of the engine. For a
build that has no stored counts ``--check`` says so, and passes. One that has become lower by as much is told,
too: it is time to store it, or the guard would let it rise again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the aionet of this tree

from aionet.bench.children import BenchError
from aionet.bench.facts import python_build, usable_cpus
from aionet.bench.peers import PEERS, Peer
from aionet.bench.runner import make_certificate
from aionet.bench.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "benchmarks" / "results" / "instructions.json"
GUARDED = ("aionet", "aionet-asyncio", "aionet-portable")
ALLOWED = 0.05  # of the stored count
START_UP = 300.0  # seconds; valgrind is some thirty times slower, and a busy machine slower still

CONNECTIONS = 64
MESSAGE = bytes(1024)
RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds
COUNTS = {"echo": (1_000, 11_000), "accept": (500, 2_500), "tls-echo": (500, 4_500)}
UNITS = {"echo": "message", "accept": "connection", "tls-echo": "message over TLS"}

LONGER_SLICES = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("aionet.wires.budget", {str(ROOT / "aionet/wires/budget.py")!r})
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.SLICE_SECONDS *= 30
"""
"""The site's customisation of counted servers: it runs before aionet is imported."""

_LINE = re.compile(r"^ *([\d,]+) \([^)]*\) +(\S.*?)(?: \[.*)?$")


def echo(port: int, count: int, context: ssl.SSLContext | None = None) -> None:
    """Exchange `count` messages over some connections, one in flight on each; with `context` over TLS."""
    poller, sent, received = select.epoll(), 0, 0
    socks: dict[int, socket.socket] = {}
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port))
        if context is not None:
            sock = context.wrap_socket(sock)
        socks[sock.fileno()] = sock
        poller.register(sock, select.EPOLLIN)
    for sock in socks.values():
        sock.sendall(MESSAGE)
        sent += 1
    while received < count:
        for fd, _ in poller.poll():
            left = len(MESSAGE)
            while left:
                left -= len(socks[fd].recv(left))
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


def tls_echo(port: int, count: int) -> None:
    """The same as `echo`, over TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    echo(port, count, context)


EXCHANGES = {"echo": echo, "accept": accept, "tls-echo": tls_echo}


def instructions_of(peer: Peer, workload: str, count: int) -> Counter[str]:
    """Return the instructions of one run, by function."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "callgrind")
        with counted_server(peer, workload, out) as port:
            EXCHANGES[workload](port, count)
        command = ("callgrind_annotate", "--auto=no", "--threshold=100", "--show=Ir", str(out))
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: Counter[str] = Counter()
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and "=>" not in line:
            found[match[2].rpartition("/")[2]] += int(match[1].replace(",", ""))
    return found


@contextmanager
def counted_server(peer: Peer, workload: str, out: Path) -> Iterator[int]:
    """Run a server under callgrind, which writes its counts when the context is left; its port."""
    command = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={out}",
        *peer.command(WORKLOADS[workload], make_certificate(out.parent) if WORKLOADS[workload].tls else ()),
    ]
    Path(out.parent, "sitecustomize.py").write_text(LONGER_SLICES)
    paths = [str(ROOT), str(out.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = (
        os.environ | peer.environment | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}
    )
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, env=environment
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not select.select([process.stdout], [], [], START_UP)[0] or not (
                line := process.stdout.readline()
            ):
                messages.seek(0)
                raise BenchError(
                    f"{peer.name} did not start:\n{messages.read().decode(errors='replace')[-2000:]}"
                )
            yield json.loads(line)["port"]
            process.stdin.close()  # the server ends
            process.wait(START_UP)
        finally:
            process.kill()


def per_exchange(peer: Peer, workload: str) -> tuple[float, Counter[str]]:
    """The instructions per message or connection; and of all that were counted, by function."""
    few, many = COUNTS[workload]
    less = instructions_of(peer, workload, few)
    counted = instructions_of(peer, workload, many)
    counted.subtract(less)
    return counted.pop("PROGRAM TOTALS") / (many - few), counted


# -- the guard ---------------------------------------------------------------------------------------------


def build() -> str:
    """What a count belongs to: the interpreter, the C library, the compiler of the engine."""
    try:
        compiler = subprocess.run(
            ["cc", "-dumpfullversion"], capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        compiler = ""
    library = " ".join(platform.libc_ver())
    return f"{python_build()}, {library}, cc {compiler.strip() or 'unknown'}, {platform.machine()}"


def verdict(stored: float, counted: float) -> str:
    """``ok``, ``more`` (which fails) or ``less`` (which should be stored)."""
    share = counted / stored - 1
    return "more" if share > ALLOWED else "less" if share < -ALLOWED else "ok"


def count_all() -> dict[str, dict[str, int]]:
    """By workload and peer."""
    pairs = [(workload, name) for workload in COUNTS for name in GUARDED]
    with ThreadPoolExecutor(max_workers=len(usable_cpus()) or 1) as pool:
        counts = pool.map(lambda pair: round(per_exchange(PEERS[pair[1]], pair[0])[0]), pairs)
        by_pair = dict(zip(pairs, counts, strict=True))
    return {workload: {name: by_pair[workload, name] for name in GUARDED} for workload in COUNTS}


def check(stored: Mapping[str, Mapping[str, float]], counted: Mapping[str, Mapping[str, float]]) -> int:
    """Print one line for each count; the exit status."""
    status = 0
    for workload, counts in counted.items():
        for name, count in counts.items():
            line = f"{workload:8} {name:16} {count:9,.0f} instructions per {UNITS[workload]}"
            before = stored.get(workload, {}).get(name)
            if before is None:
                print(f"{line}; none stored")
                continue
            found = verdict(before, count)
            told = "" if found == "ok" else f"  {found}"
            print(f"{line}, stored {before:,.0f}: {count / before - 1:+.1%}{told}")
            if found == "more":
                status = 1
            elif found == "less":
                print("        (store it: python benchmarks/instructions.py --store)")
    return status


def guard(store: bool) -> int:
    """Compare what aionet takes with what is stored for this build, or store it; the exit status."""
    everything = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {"builds": {}}
    own = everything["builds"].get(build())
    if own is None and not store:
        known = "; ".join(everything["builds"]) or "none"
        print(f"skipped: there are no stored counts for {build()} (there are: {known})")
        return 0
    counted = count_all()
    status = check(own or {}, counted)
    if not store:
        return status
    everything["builds"][build()] = counted
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


def by_function(workload: str, peer: Peer, top: int) -> None:
    """Print where the instructions of one peer go."""
    total, counted = per_exchange(peer, workload)
    few, many = COUNTS[workload]
    print(f"{peer.name}: {total:,.0f} instructions per {UNITS[workload]}")
    for name, count in counted.most_common(top):
        each = count / (many - few)
        print(f"{each:10,.0f}  {100 * each / total:5.1f} %  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options]"
    )
    parser.add_argument("workload", nargs="?", choices=COUNTS)
    parser.add_argument("peer", nargs="?", choices=PEERS)
    parser.add_argument("--top", type=int, default=20, help="functions shown (default: %(default)s)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check", action="store_true", help="compare with the stored counts; 1 if one rose by 5 %%"
    )
    mode.add_argument("--store", action="store_true", help="store the counts of this build")
    options = parser.parse_args()
    guarding = options.check or options.store
    if guarding == (options.peer is not None):
        parser.error("name a workload and a peer, or give --check or --store")
    if shutil.which("valgrind") is None:
        if options.check:
            print("skipped: valgrind is not installed")
            return 0
        parser.error("valgrind is not installed")
    try:
        if guarding:
            return guard(options.store)
        by_function(options.workload, PEERS[options.peer], options.top)
    except BenchError as error:
        print(f"instructions: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
