"""Many connections that end at the same moment, or that are there when everything ends.

They connect, each sends a byte at nearly the same time and reads its echo; from then on nothing comes. So
their idle time-outs are due together. An event is a connection. When this process ends, the kernel closes
all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from .attacker import Target


def attack(target: Target, crowd: int, late: bool = False) -> Iterator[tuple[int, int]]:
    """Have `crowd` connections that were last active together; `late` makes them when the attack begins."""
    if late:
        yield 0, 0
    target.held = [target.connect() for _ in range(crowd)]
    if not late:
        yield 0, 0
    for sock in target.held:
        sock.sendall(b"x")
    for sock in target.held:
        assert sock.recv(1) == b"x"
    yield crowd, crowd
