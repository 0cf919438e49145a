"""Who is measured: aionet as it comes, and the servers in `benchmarks/peers/` of a checkout.

Theory of operation
-------------------
A peer is a program that binds a free port of 127.0.0.1, prints one line of JSON (``port`` and facts), and
serves until its standard input ends. It is told what to serve (``echo`` or ``bulk``), and for TLS the files
of a certificate and its key. aionet's own are `server_process` with another loop or engine; the others lie
outside of the package, one small file each, because they are written for whatever their libraries document
and need those libraries. What cannot run here says why: it is skipped and named, never silently missing.

The bare C loop and Go are compiled when they are first needed, into ``benchmarks/peers/build``.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..tcp_connection_server import AsyncTcpConnectionServer
from .children import BenchError
from .workloads import Workload

__all__ = ["CHECKOUT", "COLD_MALLOC", "PEERS", "REFERENCE", "Kind", "Peer", "compiled_program", "peers_named"]

REFERENCE = "c"
"""What ratios are taken to: an epoll loop in C with nothing else in it."""

CHECKOUT = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
"""Where the peers' files lie, if this is a checkout."""

COLD_MALLOC = "AIONET_BENCH_COLD_MALLOC"
"""The variable of the environment that leaves glibc's malloc as a fresh process has it."""

_COLD = {COLD_MALLOC: "1"}
_PORTABLE = {"AIONET_ENGINE": "portable"}

Kind = Literal["reference", "await", "callback", "threads"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One server that can be measured."""

    name: str
    kind: Kind
    """What the author of a server writes: coroutines, callbacks, or blocking code in threads."""
    file: str = ""
    """In `benchmarks/peers/`; aionet's own have none."""
    tls_file: str = ""
    """What serves TLS, if that is another program."""
    arguments: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """What it imports that may not be installed."""
    tls: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    in_all: bool = True

    def why_not(self, workload: Workload) -> str | None:
        """Why it cannot run this workload here; None if it can."""
        if workload.tls and not self.tls:
            return "it has no TLS server"
        if workload.tls and not self.file and not _aionet_has_tls():
            return "this aionet has no TLS servers"
        if self.file and not (CHECKOUT / self.file).exists():
            return "a checkout of the project is needed: it is a file of benchmarks/peers/"
        if self.file.endswith(".go") and shutil.which("go") is None:
            return "there is no Go compiler; on Debian and Ubuntu: apt-get install golang-go"
        if self.file.endswith(".c") and shutil.which("cc") is None:
            return "there is no C compiler"
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed; try: pip install 'aionet-toolkit[bench]'"
            if failure := _import_failure(module):
                return f"{module} cannot be imported: {failure}"
        return None

    def command(self, workload: Workload, certificate: Sequence[Path] = ()) -> list[str]:
        """What starts it. Raises `BenchError` if it must be compiled and cannot be."""
        files = [str(path) for path in certificate]
        if not self.file:
            arguments = ["--serve", workload.serves, *self.arguments]
            if files:
                arguments += ["--certificate", files[0], "--key", files[1]]
            return [sys.executable, "-m", "aionet.bench.server_process", *arguments]
        path = CHECKOUT / (self.tls_file if workload.tls and self.tls_file else self.file)
        if path.suffix == ".py":
            return [sys.executable, str(path), workload.serves, *self.arguments, *files]
        return [str(compiled_program(path)), workload.serves, *files]

    def versions(self) -> dict[str, str]:
        """The versions of what it runs on."""
        from importlib.metadata import PackageNotFoundError, version  # takes long, and most do not ask

        found = {}
        for module in self.modules:
            try:
                found[module] = version(module)
            except PackageNotFoundError:
                continue
        if self.file.endswith(".go"):
            found["go"] = _first_line("go", "version")
        if self.file.endswith(".c"):
            found["cc"] = _first_line("cc", "--version")
        return found


def _aionet(name: str, *arguments: str, modules: tuple[str, ...] = (), **environment: str) -> Peer:
    return Peer(name, "await", arguments=arguments, modules=modules, environment=environment)


def _reading_much(name: str, **environment: str) -> Peer:
    """Reads of up to 256 KiB, which is what asyncio's transports ask for."""
    arguments = ("--loop", "asyncio", "--read-bytes", "262144")
    return Peer(name, "await", arguments=arguments, environment=environment, in_all=False)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(REFERENCE, "reference", "c_epoll.c", tls_file="tls_reference.c"),
        _aionet("aionet"),
        _aionet("aionet-asyncio", "--loop", "asyncio"),
        _aionet("aionet-uvloop", "--loop", "uvloop", modules=("uvloop",)),
        _aionet("aionet-portable", "--loop", "asyncio", AIONET_ENGINE="portable"),
        Peer("asyncio-streams", "await", "asyncio_streams.py"),
        Peer("asyncio-protocol", "callback", "asyncio_protocol.py"),
        Peer("asyncio-sock", "await", "asyncio_sock.py", tls=False),
        Peer("uvloop-streams", "await", "uvloop_streams.py", modules=("uvloop",)),
        Peer("uvloop-protocol", "callback", "uvloop_protocol.py", modules=("uvloop",)),
        Peer("aiofastnet", "callback", "aiofastnet_protocol.py", modules=("aiofastnet",)),
        Peer("anyio", "await", "anyio_listener.py", modules=("anyio",)),
        Peer("trio", "await", "trio_listener.py", modules=("trio",)),
        Peer("curio", "await", "curio_server.py", modules=("curio",)),
        Peer("gevent", "threads", "gevent_server.py", modules=("gevent",)),
        Peer("twisted", "callback", "twisted_protocol.py", modules=("twisted",), tls=False),
        Peer("threads", "threads", "threads_blocking.py"),
        Peer("go", "threads", "go_echo.go"),
        Peer("aionet-accept-loop", "await", "aionet_accept_loop.py", tls=False, in_all=False),
        Peer("aionet-limits", "await", "aionet_limits.py", tls=False, in_all=False),
        _reading_much("aionet-256k"),
        _reading_much("aionet-256k-cold", **_COLD),
        _reading_much("aionet-portable-256k", **_PORTABLE),
        _reading_much("aionet-portable-256k-cold", **_PORTABLE, **_COLD),
    )
}
"""By name, in the order in which they take turns."""


def peers_named(names: Sequence[str]) -> list[Peer]:
    """Peers by name, in the order of `PEERS`, each once; ``all`` stands for all that people would compare.

    Raises `ValueError` for a name that no peer has.
    """
    wanted: set[str] = set()
    for name in names:
        if name == "all":
            wanted |= {peer.name for peer in PEERS.values() if peer.in_all}
        elif name in PEERS:
            wanted.add(name)
        else:
            raise ValueError(f"{name!r} is not one of all, {', '.join(PEERS)}")
    return [peer for peer in PEERS.values() if peer.name in wanted]


def compiled_program(source: Path) -> Path:
    """The program of a C or Go file, compiled if it is older than that; `BenchError` if it cannot be."""
    program = source.parent / "build" / source.stem
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    program.parent.mkdir(exist_ok=True)
    building = program.with_suffix(f".{os.getpid()}")  # another run may compile at the same time
    if source.suffix == ".go":
        command = ["go", "build", "-o", str(building), str(source)]
    else:
        libraries = ["-lssl", "-lcrypto"] if source.stem.startswith("tls_") else []
        command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(building), str(source), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{source.name} could not be compiled:\n{done.stderr.strip()[-2000:]}")
    building.replace(program)
    return program


@functools.cache
def _import_failure(module: str) -> str | None:
    """Why a module that is installed does not run on this interpreter; tried in a process of its own."""
    command = [sys.executable, "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def _aionet_has_tls() -> bool:
    return "tls" in inspect.signature(AsyncTcpConnectionServer).parameters


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.partition("\n")[0]
