"""One turn: a server on one core, the C generator on another, and the figures of that turn.

A workload with TLS is for the servers whose names end in ``-tls``; it has its own reference and
generator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import SERVERS, TLS_CERTIFICATE, TLS_KEY

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
REFERENCE, TLS_REFERENCE = "c-epoll", "c-epoll-tls"
WARM_UP = 0.7  # seconds


@dataclass(frozen=True)
class Workload:
    """What the generator does."""

    mode: str
    connections: int
    size: int
    tls: bool = False

    @property
    def generator(self) -> str:
        return "tls_load_generator" if self.tls else "load_generator"

    @property
    def reference(self) -> str:
        return TLS_REFERENCE if self.tls else REFERENCE

    def fits(self, server: str) -> bool:
        """Whether this server speaks what the generator does."""
        return self.tls == server.endswith("-tls")


WORKLOADS = {
    "echo-64x1KiB": Workload("echo", 64, 1024),
    "echo-1x64B": Workload("echo", 1, 64),
    "echo-4x64KiB": Workload("echo", 4, 65536),
    "echo-4000x64B": Workload("echo", 4000, 64),
    "accept": Workload("accept", 64, 1),
    "tls-64x1KiB": Workload("echo", 64, 1024, tls=True),
    "tls-4x16KiB": Workload("echo", 4, 16384, tls=True),
    "tls-accept": Workload("accept", 64, 1, tls=True),
}


class TurnError(Exception):
    """A server or the generator failed; the message holds what it wrote."""


PROGRAMS = {
    "epoll_reference": (),
    "load_generator": (),
    "tls_reference": ("-lssl", "-lcrypto"),
    "tls_load_generator": ("-lssl", "-lcrypto"),
}


def compile_tools(workloads: Iterable[Workload] = ()) -> None:
    """Compile the C programs that are older than their source, those for TLS if a workload needs them."""
    BUILD.mkdir(exist_ok=True)
    tls = any(workload.tls for workload in workloads)
    for name, libraries in PROGRAMS.items():
        source, program = HERE / f"{name}.c", BUILD / name
        if libraries and not tls:
            continue
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            command = ["cc", "-O2", "-Wall", "-Wextra", "-o", program, source, *libraries]
            if subprocess.run(command, check=False).returncode:
                hint = " (it needs OpenSSL's headers: install libssl-dev)" if libraries else ""
                raise SystemExit(f"{source.name} could not be compiled{hint}")
    if tls:
        make_certificate()


def make_certificate() -> None:
    """Make the certificate that all TLS servers show: P-256, signed by itself."""
    if TLS_CERTIFICATE.exists() and TLS_KEY.exists():
        return
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=localhost"
    )
    files = ["-keyout", TLS_KEY, "-out", TLS_CERTIFICATE]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)


def two_cpus() -> tuple[int, int]:
    """The server's and the generator's."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("two cpus are needed: one for the server, one for the generator")
    return cpus[0], cpus[-1]


def take_turn(name: str, workload: Workload, seconds: float, *, cold_malloc: bool = False) -> dict[str, Any]:
    """Start the server, put the load on it, end it; what the generator measured and what the server said."""
    server_cpu, load_cpu = two_cpus()
    with running_server(name, server_cpu, cold_malloc=cold_malloc) as (process, ready):
        arguments = [
            BUILD / workload.generator,
            workload.mode,
            *(ready["port"], workload.connections, workload.size, seconds, WARM_UP, process.pid),
        ]
        done = subprocess.run(
            [str(argument) for argument in arguments],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            preexec_fn=lambda: os.sched_setaffinity(0, {load_cpu}),
        )
        if done.returncode or not done.stdout:
            raise TurnError(f"the generator ended with status {done.returncode}: {done.stderr[-1000:]}")
        if process.poll() is not None:
            raise TurnError(f"the server ended with status {process.returncode}")
    figures = json.loads(done.stdout)
    if not figures["server_cpu_seconds"]:
        raise TurnError("the server used no cpu time that could be measured")
    figures["requests_per_cpu_second"] = figures["completed"] / figures["server_cpu_seconds"]
    figures["rate"] = figures["completed"] / figures["seconds"]
    return figures | {key: value for key, value in ready.items() if key != "port"}


@contextmanager
def running_server(
    name: str, cpu: int | None = None, *, cold_malloc: bool = False, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """Start server `name`, on `cpu` alone if that is given; end it in the end. With it comes what it said.

    `prefix` is a command to run it under.
    """
    programs = {
        REFERENCE: [str(BUILD / "epoll_reference")],
        TLS_REFERENCE: [str(BUILD / "tls_reference"), str(TLS_CERTIFICATE), str(TLS_KEY)],
    }
    command = programs.get(name) or [sys.executable, str(HERE / "servers.py"), name]
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if name not in programs:
        environment |= SERVERS[name].environment | {"COLD_MALLOC": "1" if cold_malloc else ""}
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            env=environment,
            preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.wait(5)
                raise TurnError(f"{name} did not start")
            yield process, json.loads(line)
        except (TurnError, subprocess.SubprocessError) as error:
            messages.seek(0)
            said = messages.read().decode(errors="replace")[-2000:]
            raise TurnError(f"{name}: {error}\n{said}") from error
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
