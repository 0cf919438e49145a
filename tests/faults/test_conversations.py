"""Conversations in which system calls fail: nothing is lost silently or torn, and the process continues.

The calls fail in the C library (`faults.c`), in a process of its own (`conversation.py`, which also judges).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

import pytest

from .preloading import LOOPS, run_preloaded

FAULTS = {
    "recv": ["ENOMEM", "EIO", "EINTR", "ENOBUFS", "ECONNRESET"],
    "send": ["ENOBUFS", "short", "EINTR", "ENOMEM", "EIO", "EPIPE"],
    "accept4": ["EMFILE", "ECONNABORTED", "EINTR", "ENFILE", "ENOMEM", "ENOBUFS"],
    "epoll_ctl": ["ENOSPC", "ENOMEM"],
    "epoll_wait": ["EINTR"],
    "epoll_create1": ["EMFILE", "ENOMEM"],
}
"""What each call may fail with (its manual page). EAGAIN is not among it: whoever gets it without reason
waits for an event that the kernel does not owe, and would do so for ever."""


def sweep(loop: str, transport: str, *, first: int, errors: int, counts: list[int]) -> Iterator[list[object]]:
    """Each of the `first` calls of each kind, with some of the `errors` that it may have."""
    calls = json.loads(run_preloaded("conversation", loop, transport, "[]")[0])
    for kind, names in FAULTS.items():
        for name in names[:errors]:
            for count in counts:
                for number in range(1, min(first, calls[kind]) + 1):
                    yield [kind, number, count, 0 if name == "short" else getattr(errno, name)]


def check(loop: str, transport: str, *, first: int, errors: int, counts: list[int]) -> None:
    cases = list(sweep(loop, transport, first=first, errors=errors, counts=counts))
    lines = run_preloaded("conversation", loop, transport, json.dumps(cases))
    assert len(lines) == len(cases)
    assert any("ResourceExhaustedError" in line for line in lines)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.slow
def test_the_first_calls_of_each_kind_fail(transport: str) -> None:
    check("asyncio", transport, first=3, errors=1, counts=[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", ["tcp", "unix", "tls", "dialed", "dialed-tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_any_call_fails_once_or_several_times(loop: str, transport: str) -> None:
    check(loop, transport, first=40, errors=9, counts=[1, 3])
