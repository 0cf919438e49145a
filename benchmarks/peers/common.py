"""What all peers in Python share: how they are asked, how they answer, and what is the same for all.

    python PEER.py echo|bulk [CERTIFICATE KEY]

A peer binds a free port on 127.0.0.1, prints one line of JSON (``port``) and serves until its standard input
ends. ``echo`` sends back what comes; ``bulk`` sends a stream without end, of which byte n is ``n % 251``.
With the files of a certificate and its key it serves TLS.

The same for all: a backlog of 4096; reads of up to 64 KiB where the interface takes a size (protocols take
what their transport gives: up to 256 KiB); an ``await`` server waits for its write before it reads again; a
connection that is reset ends its handler quietly. Nothing is tuned for one of them.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import threading

BACKLOG = 4096
READ_BYTES = 65536
CHUNK = bytes(range(251)) * 261  # 65,511 bytes


def bulk() -> bool:
    """Whether a stream is asked for."""
    if sys.argv[1:2] not in (["echo"], ["bulk"]) or len(sys.argv) not in (2, 4):
        sys.exit(f"usage: python {sys.argv[0]} echo|bulk [CERTIFICATE KEY]")
    return sys.argv[1] == "bulk"


def tls() -> ssl.SSLContext | None:
    """What to serve TLS with, if it is asked for."""
    if len(sys.argv) != 4:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*sys.argv[2:4])
    return context


def announce(port: int, **facts: object) -> None:
    """Tell the port, and end the process when nobody holds its standard input any more."""
    print(json.dumps({"port": port, "malloc": settle_malloc(), **facts}), flush=True)

    def end_with_standard_input() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(0)

    threading.Thread(target=end_with_standard_input, daemon=True).start()


def settle_malloc() -> str:
    """Bring glibc's malloc to the state that a process reaches once it freed one large block.

    asyncio's transports read into objects of 256 KiB. Until then malloc maps, remaps and unmaps memory for
    each of them, which halves those servers; whether a process gets out of that state by itself is luck.
    Returns what a record calls the state: ``settled``, or ``cold`` where it is to be left alone.
    """
    if os.environ.get("AIONET_BENCH_COLD_MALLOC"):
        return "cold"
    bytes(1 << 20)
    return "settled"
