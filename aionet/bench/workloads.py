"""What is measured: which load, on which kind of server, with which numbers unless others are asked for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT", "WORKLOADS", "Workload", "workloads_named"]


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of what `aionet bench` can measure."""

    name: str
    load: str
    """What the load process does."""
    serves: str
    """What the server does: ``echo``, or ``bulk``, which sends without end."""
    connections: int
    size: int
    """Bytes of a message unless another size is asked for."""
    help: str
    sized: bool = False
    """Whether another size can be asked for."""
    paced: bool = True
    """Whether an open loop makes sense."""
    tls: bool = False


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "accept", "accept", "echo", 64, 1, "a connection for each byte: connect, a byte each way, reset"
        ),
        Workload("echo", "echo", "echo", 64, 1024, "messages on connections that stay", sized=True),
        Workload("bulk", "bulk", "bulk", 4, 65_511, "a stream that the server sends", paced=False),
        Workload("idle", "idle", "echo", 4000, 1, "memory of connections that do nothing", paced=False),
        Workload("connect", "connect", "echo", 64, 1, "connect and end, without a byte"),
        Workload("fairness", "echo", "echo", 4000, 64, "how evenly many connections are served", sized=True),
        Workload(
            "tls-echo", "echo", "echo", 64, 1024, "echo over TLS 1.3", sized=True, paced=False, tls=True
        ),
        Workload(
            "tls-accept", "accept", "echo", 64, 1, "a TLS 1.3 handshake for each byte", paced=False, tls=True
        ),
    )
}

DEFAULT = ("echo", "accept")
_GROUPS = {"tls": ("tls-echo", "tls-accept")}


def workloads_named(name: str | None) -> list[Workload]:
    """What a name on the command line stands for; without one, the two that people come for."""
    names = DEFAULT if name is None else _GROUPS.get(name, (name,))
    return [WORKLOADS[each] for each in names]
