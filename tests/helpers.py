"""Small things that tests share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aionet.native import compiled

__all__ = [
    "ENGINES",
    "begin",
    "give_turns",
    "has_ipv6",
    "needs_ipv6",
    "no_descriptors",
    "open_descriptors",
    "open_sockets",
    "require_program",
    "until",
    "until_listening",
    "unused_port",
]

ENGINES = [*["native"] * (compiled is not None), "portable"]
"""Those that this installation has, for programs that tests start with ``AIONET_ENGINE``."""

T = TypeVar("T")


def require_program(name: str) -> str:
    """Return the path of program `name`; where it is missing, skip, or fail where ``CI`` is set."""
    path = shutil.which(name)
    if path is None:
        reason = f"the program {name!r} is not installed"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}, and CI must have it", pytrace=False)
        pytest.skip(reason)
    return path


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Return as soon as `condition()` is true; fail after `seconds`.

    The one place where tests wait by looking: for what the kernel or a thread does and no event tells.
    """
    deadline = time.monotonic() + seconds
    looks = 0
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition}")
        looks += 1
        await asyncio.sleep(0 if looks < 20 else 0.001)


async def give_turns(turns: int = 6) -> None:
    """Let every other task run until it waits for something."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def begin(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Return a task for `coroutine` that has run until it waits."""
    task = asyncio.create_task(coroutine)
    await give_turns()
    return task


def has_ipv6() -> bool:
    """Whether this host has an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6 loopback")


def open_descriptors() -> dict[int, str]:
    """Return this process's open descriptors and what each one is."""
    found = {}
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of the listing itself
            pass
    return found


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Within this block the process can open no descriptor (EMFILE)."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def open_sockets() -> dict[int, str]:
    """Return this process's open sockets."""
    return {number: what for number, what in open_descriptors().items() if what.startswith("socket:")}


def unused_port() -> int:
    """Return a port of 127.0.0.1 that nobody has, and that the system gives to nobody who asks for any port.

    For those few who have to know a port before it is bound.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(lowest // 2, lowest), 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are taken")


def until_listening(port: int, seconds: float = 10.0) -> None:
    """Return when somebody accepts on `port` of 127.0.0.1; for processes that say nothing themselves."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.01)
        else:
            return
