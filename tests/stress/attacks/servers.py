"""The servers that are attacked, each in a process of its own, and what they spend and hold.

Theory of operation
-------------------
CPU time is read from the process's CPU clock (clock_getcpuclockid(3)), which counts nanoseconds of all
threads and does not depend on what else the machine does. The most memory that a process held is the
kernel's high-water mark of resident memory (VmHWM in proc(5)), which can be set back: no peak is missed
between two samples.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aionet.bench import facts
from aionet.bench.children import Child
from aionet.bench.peers import PEERS
from aionet.bench.workloads import WORKLOADS

__all__ = ["ENVIRONMENT", "RECOMMENDED", "Certificate", "Server", "raise_soft_limit", "serving", "spare_cpu"]

_ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {"PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'tests'}"}
PATIENCE = 60.0
"""Seconds after which a process that does not answer is given up."""

RECOMMENDED = (
    *("--max-connections", "10000", "--on-full", "evict_idle", "--max-per-peer", "50"),
    *("--handshake-timeout", "5", "--max-handshakes", "1000"),
    *("--idle-timeout", "60", "--write-stall-timeout", "30", "--max-pending-bytes", "64MiB"),
)
"""The limits that the guide recommends; an option that is given again replaces the one here."""

_IDLE_STEP = 0.03
_IDLE_SHARE = 0.04


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate, its key, and the authority that signed it."""

    chain: Path
    key: Path
    authority: Path

    @classmethod
    def issue(cls, directory: Path, name: str = "server.example") -> Certificate:
        """Write new ones into `directory`."""
        import trustme  # slow to import, and attackers do not need it

        authority = trustme.CA()
        issued = authority.issue_cert(name)
        made = cls(directory / "chain.pem", directory / "key.pem", directory / "authority.pem")
        made.chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        made.key.write_bytes(issued.private_key_pem.bytes())
        authority.cert_pem.write_to_path(str(made.authority))
        return made


class Server:
    """A running server, seen from outside."""

    def __init__(self, child: Child, port: int, metrics: str) -> None:
        self.pid = child.pid
        self.port = port
        self.metrics = metrics
        """The address of its metrics, if it has one."""
        self._child = child

    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        used = facts.process_cpu_seconds(self.pid)
        assert used is not None
        return used

    def private_bytes(self) -> int:
        """The memory that it shares with no other process."""
        held = facts.private_bytes(self.pid)
        assert held is not None
        return held

    def forget_peak(self) -> int:
        """Set the high-water mark of its resident memory back to what is resident now, and return that."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.peak_bytes()

    def peak_bytes(self) -> int:
        """The most resident memory that it had since `forget_peak`."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def log_bytes(self) -> int:
        """How much it has written to standard error."""
        return os.stat(f"/proc/{self.pid}/fd/2").st_size

    def log(self) -> str:
        """The end of what it has written to standard error."""
        return self._child.messages()

    def settle(self) -> None:
        """Return once it does nothing: it sleeps and used little of a core, three times in a row."""
        quiet, deadline = 0, time.monotonic() + PATIENCE
        while quiet < 3:
            used, began = self.cpu_seconds(), time.monotonic()
            time.sleep(_IDLE_STEP)
            share = (self.cpu_seconds() - used) / (time.monotonic() - began)
            quiet = quiet + 1 if share < _IDLE_SHARE and self._sleeps() else 0
            assert time.monotonic() < deadline, "the server does not come to rest"

    def _sleeps(self) -> bool:
        """Whether it waits, for something other than a processor."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def next_event(self) -> dict[str, Any]:
        """The next line of JSON that it prints."""
        event = self._child.next_record(PATIENCE)
        assert event is not None, f"it said nothing: {self.log()}"
        return dict(event)

    def terminate(self) -> None:
        """Send SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)


@contextmanager
def serving(
    kind: str = "aionet",
    *,
    certificate: Certificate | None = None,
    handler: str = "echo",
    options: Sequence[str] = (),
    recommended: bool = True,
    engine: str = "",
    descriptors: tuple[int, int] | None = None,
) -> Iterator[Server]:
    """Run a server of `kind`: ``aionet``, ``relay`` (ours), ``uvloop`` (asyncio's streams) or ``bare`` (C).

    `handler`, `options`, `recommended` (whether to set `RECOMMENDED`) and `engine` are for ours alone; the
    options of a relay begin with its target. `descriptors` are the soft and the hard limit of them.
    """
    limits = RECOMMENDED if recommended else ()
    command = _command(kind, certificate, handler, [*limits, *options] if kind == "aionet" else options)
    more = ENVIRONMENT | ({"AIONET_ENGINE": engine} if engine else {})
    if descriptors is not None:
        limits_of_shell = f"ulimit -Sn {descriptors[0]} && ulimit -Hn {descriptors[1]}"
        command = ["sh", "-c", f'{limits_of_shell} && exec "$@"', "sh", *command]
    with _all_descriptors():
        child = Child(f"{kind} server", command, environment=more, cpu=server_cpu())
    with child:
        try:
            ready = child.next_record(PATIENCE)
            assert ready is not None, child.messages()
            yield Server(child, _port_of(ready), str(ready.get("metrics", "")))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)


def _command(kind: str, certificate: Certificate | None, handler: str, options: Sequence[str]) -> list[str]:
    files = [] if certificate is None else [certificate.chain, certificate.key]
    if kind == "aionet":
        tls = ["--cert", str(files[0]), "--key", str(files[1])] if files else []
        served = ["serve", f"stress.attacks.handlers:{handler}", "--bind", "127.0.0.1:0", "--json"]
        return [sys.executable, "-m", "aionet", *served, *tls, *options]
    if kind == "relay":
        return [sys.executable, "-m", "aionet", "relay", "127.0.0.1:0", *options, "--json"]
    peer = PEERS[{"uvloop": "uvloop-streams", "bare": "c"}[kind]]
    workload = WORKLOADS["tls-echo" if files else "echo"]
    return peer.command(workload, files)


def _port_of(ready: Any) -> int:
    if "port" in ready:
        return int(ready["port"])
    return int(ready["addresses"][0].rpartition(":")[2])


@contextmanager
def _all_descriptors() -> Iterator[None]:
    """Have as many descriptors as this process may while a child is born, which inherits that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_soft_limit()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def raise_soft_limit() -> None:
    """Have as many descriptors as this process may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def server_cpu() -> int | None:
    """The processor for servers; None where there is one only."""
    cpus = facts.usable_cpus()
    return cpus[0] if len(cpus) > 1 else None


def spare_cpu() -> int | None:
    """The processor for attackers and the probe."""
    cpus = facts.usable_cpus()
    return cpus[-1] if len(cpus) > 1 else None
