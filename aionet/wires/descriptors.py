"""Word between those who close descriptors and those who ran out of them.

An acceptor that met EMFILE backs off for up to a second. If it is this process that holds the descriptors, it
need not wait that long: every wire that closes calls `released`, which costs one look at an empty set unless
somebody is `waiting`.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["released", "waiting"]

waiting: set[Callable[[], None]] = set()
"""Called, once each, from whichever thread closes a descriptor next."""


def released() -> None:
    """A descriptor was closed: tell whoever waits for one."""
    while waiting:
        try:
            call = waiting.pop()
        except KeyError:  # another thread took the last one
            return
        call()
