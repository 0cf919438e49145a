"""What generates load: the compiled engine's `Load` where it was compiled, the same in plain Python
elsewhere.

Theory of operation
-------------------
A *load* is N connections to one server that do one workload (`workloads`). `load_process` drives it in slices
of time and reads what it counted; it does not know which of the two it has, but says so in its result,
because one in Python is slower than most servers and then limits the rate.

`AIONET_ENGINE` says what *serves*; it has no say here: the load is compiled wherever it can be.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol

from .exchanges import PythonLoad

__all__ = ["GENERATORS", "SOURCES", "GeneratorName", "Load", "Target", "make_load", "named_errors"]

GeneratorName = Literal["native", "python"]
GENERATORS: tuple[GeneratorName, ...] = ("native", "python")

SOURCES = 16
"""Addresses of 127.0.0.0/8 that connections start from: one has some 28,000 ports."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is: a numeric address and a port, or the path of a socket and port 0."""

    host: str
    port: int


class Load(Protocol):
    """N connections and what they counted. All times are nanoseconds, but for `drive`.

    Its clock stands still while it is not driven, so that several loads can take turns.
    """

    @property
    def requests(self) -> int: ...
    @property
    def bytes_compared(self) -> int: ...
    @property
    def overdue(self) -> int:
        """Requests of an open loop that were due and had no reply when the load was finished."""

    @property
    def idle(self) -> int:
        """How long there was nothing to do."""

    @property
    def served(self) -> int:
        """Connections that have had a reply."""

    def drive(self, seconds: float, until_served: bool = False, /) -> None: ...
    def begin(self) -> None: ...
    def finish(self, patience: float, /) -> None:
        """Close all connections; what had no answer for so many seconds is an error."""

    def close(self) -> None: ...
    def errors(self) -> Mapping[int | str, int]: ...
    def histogram(self) -> dict[str, object]: ...
    def service(self) -> tuple[int, int, int]: ...


def make_load(
    workload: str,
    target: Target,
    connections: int,
    size: int,
    *,
    rate: float = 0.0,
    wait: bool = False,
    generator: GeneratorName | None = None,
) -> tuple[Load, GeneratorName]:
    """The load that was asked for, or the faster one that can be had, and which that is.

    Raises `ImportError` if the compiled one was asked for and is not there.
    """
    arguments = (workload, target.host, target.port, connections, size, rate, SOURCES, wait)
    if generator != "python":
        try:
            compiled = import_module("aionet.native._compiled")
        except ImportError:
            if generator == "native":
                raise
        else:
            load: Load = compiled.Load(*arguments)
            return load, "native"
    return PythonLoad(*arguments), "python"


def named_errors(errors: Mapping[int | str, int]) -> dict[str, int]:
    """Errors by name, in order: an errno's name, ``mismatch``, ``early end`` or ``no answer``."""
    named = {
        errno.errorcode.get(kind, f"errno {kind}") if isinstance(kind, int) else kind: count
        for kind, count in errors.items()
    }
    return dict(sorted(named.items()))
