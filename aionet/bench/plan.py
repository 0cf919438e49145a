"""What is to be measured: workloads by peers by rounds, in turns.

Theory of operation
-------------------
What disturbs a shared machine lasts for seconds: it hits the one who is measured meanwhile and spares the
next. So the peers of a round are measured in a *heat*, side by side: all are there, and each has its seconds
in slices of a quarter of one, between which all others have theirs. Whatever happens then happens to all.

A heat is of one turn only where there are too many connections to have those of all peers at a time, and
where no time is measured.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..addresses import SocketAddress, UnixAddress
from .facts import usable_cpus
from .generating import Target
from .peers import PEERS, Peer
from .workloads import Workload

__all__ = ["BenchPlan", "Pinning", "Turn", "resolved"]

_ANY_FILES_BESIDE = 64  # what an interpreter has open besides its connections
_FIRST_BATCH = 200  # of idle connections
_ANSWERS_WITHIN = 5.0  # seconds
_SLICE = 0.25  # seconds; after a shorter one caches would have been cold for most of it
_MOST_SIDE_BY_SIDE = 20_000  # connections, of all peers together


@dataclass(frozen=True, slots=True)
class Pinning:
    """The cpus that server and load stay on; None: wherever the system puts them."""

    server: int | None = None
    load: int | None = None

    @classmethod
    def apart(cls) -> Pinning:
        """A cpu each, where there are two."""
        cpus = usable_cpus()
        return cls(cpus[0], cpus[-1]) if len(cpus) > 1 else cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One measurement of one server."""

    workload: Workload
    peer: Peer | None
    """None: the target, which is running already."""
    connections: int
    size: int
    seconds: float
    rate: float
    """Requests per second of an open loop; 0: the loop is closed."""
    round: int

    @property
    def name(self) -> str:
        """What the record calls who is measured."""
        return "target" if self.peer is None else self.peer.name

    @property
    def warm_up(self) -> float:
        """Seconds of load that are not counted."""
        return min(1.0, max(0.05, self.seconds / 4))

    @property
    def expected_seconds(self) -> float:
        """How long the load is on."""
        return 2.0 if self.workload.load == "idle" else self.warm_up + self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to measure. Raises `ValueError` for numbers that cannot be."""

    workloads: Sequence[Workload]
    peers: Sequence[Peer] = (PEERS["aionet"],)
    target: Target | None = None
    """A server that is running already, to be measured in place of peers."""
    target_pid: int | None = None
    """Its process, if its cpu time is to be counted."""
    connections: Sequence[int] = ()
    """At a time; several are measured one after the other. By default what suits the workload."""
    sizes: Sequence[int] = ()
    """Bytes of a message, for the workloads that have a choice."""
    rate: float = 0.0
    """Requests per second of an open loop, for the workloads that can have one; 0: the loop is closed."""
    seconds: float = 3.0
    rounds: int = 1
    pinning: Pinning = Pinning()
    cold_malloc: bool = False
    """Leave glibc's malloc as a fresh process has it."""

    def __post_init__(self) -> None:
        if not self.workloads or not (self.peers or self.target):
            raise ValueError("a plan has a workload, and peers or a target")
        if self.target is not None and any(workload.tls for workload in self.workloads):
            raise ValueError("TLS is measured with peers; a target is not")
        if min(self.seconds, self.rounds, *self.connections, *self.sizes) <= 0 or self.rate < 0:
            raise ValueError(
                "seconds, rounds, connections and sizes are above 0, and a rate is not below, not"
                f" {self.seconds}, {self.rounds}, {self.connections}, {self.sizes} and {self.rate}"
            )

    @property
    def most_connections(self) -> int:
        """How many a server must be able to hold."""
        return max(self.connections or [workload.connections for workload in self.workloads])

    @property
    def open_files(self) -> int:
        """How many the server and the load need."""
        idle = any(workload.load == "idle" for workload in self.workloads)
        return self.most_connections + _ANY_FILES_BESIDE + (_FIRST_BATCH if idle else 0)

    @property
    def spinning(self) -> bool:
        """Whether the load has a cpu to spin on."""
        shared = self.pinning.load is not None and self.pinning.load == self.pinning.server
        return not shared and (len(usable_cpus()) or os.cpu_count() or 1) > 1

    def heats(self) -> Iterator[Sequence[Turn]]:
        """One case after the other, round by round: who is measured side by side."""
        for workload, connections, size in self._cases():
            for number in range(1, self.rounds + 1):
                heat = [self._turn(workload, connections, size, number, peer) for peer in self._measured]
                if workload.load == "idle" or connections * len(heat) > _MOST_SIDE_BY_SIDE:
                    yield from ([turn] for turn in heat)
                else:
                    yield heat

    def slices(self, heat: Sequence[Turn]) -> Sequence[float]:
        """The seconds of a heat's turns, cut so that nobody is at rest for long."""
        count = max(1, round(self.seconds / _SLICE)) if len(heat) > 1 else 1
        return [self.seconds / count] * count

    def turns(self) -> Iterator[Turn]:
        """All turns, heat by heat."""
        return itertools.chain.from_iterable(self.heats())

    @property
    def _measured(self) -> Sequence[Peer | None]:
        return (None,) if self.target else self.peers

    def _turn(self, workload: Workload, connections: int, size: int, number: int, peer: Peer | None) -> Turn:
        return Turn(
            workload=workload,
            peer=peer,
            connections=connections,
            size=size,
            seconds=self.seconds,
            rate=self.rate if workload.paced else 0.0,
            round=number,
        )

    def _cases(self) -> Iterator[tuple[Workload, int, int]]:
        for workload in self.workloads:
            for connections in self.connections or (workload.connections,):
                for size in (self.sizes or (workload.size,)) if workload.sized else (workload.size,):
                    yield workload, connections, size

    def reasons(self) -> Mapping[tuple[str, str], str]:
        """Why what cannot run here cannot: by workload and peer."""
        found = {}
        for workload in self.workloads:
            for peer in () if self.target else self.peers:
                reason = peer.why_not(workload)
                if reason:
                    found[workload.name, peer.name] = reason
        return found


def resolved(address: SocketAddress | UnixAddress) -> Target:
    """The first numeric address of a name that takes a connection. Raises `OSError` if none does."""
    if isinstance(address, UnixAddress):
        return Target(str(address).removeprefix("unix:"), 0)
    try:
        with socket.create_connection((address.host or "127.0.0.1", address.port), _ANSWERS_WITHIN) as tried:
            return Target(str(tried.getpeername()[0]), address.port)
    except OSError as error:
        raise OSError(f"--target {address}: {error.strerror or error}") from error
