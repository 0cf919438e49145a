"""What a measurement has to say of the machine and the interpreter; no host name, no path.

The interpreter's build matters as much as its version (profile guidance alone is worth 40 % of bytecode
speed), so it is told with its flags.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import time
from pathlib import Path

__all__ = [
    "build_flags",
    "cpu_model",
    "cpu_name",
    "kernel",
    "listen_losses",
    "memory_bytes",
    "pin_to",
    "private_bytes",
    "process_cpu_seconds",
    "python_build",
    "usable_cpus",
]

_CPUCLOCK_SCHED = 2  # linux/posix-timers.h


def kernel() -> str:
    """``Linux 6.18.44``."""
    return f"{platform.system()} {platform.release()}"


def cpu_model() -> str:
    """The processor's name as the system gives it, and how many of them this process may use."""
    return f"{cpu_name()}, {len(usable_cpus()) or os.cpu_count()} cpus"


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """The memory of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def python_build() -> str:
    """``CPython 3.11.7 (no PGO, no LTO, shared)``."""
    return f"{platform.python_implementation()} {platform.python_version()} ({', '.join(build_flags())})"


def build_flags() -> list[str]:
    """``["no PGO", "no LTO", "shared"]``.

    Distributions add their profile guidance outside of ``configure``, where it leaves no trace: those are
    called ``distribution's build``. Debian's are profile-guided.
    """
    configured = sysconfig.get_config_var("CONFIG_ARGS") or ""
    if "'--prefix=/usr'" in configured and "--enable-optimizations" not in configured:
        flags = ["distribution's build"]
    else:
        flags = [
            "PGO" if "--enable-optimizations" in configured else "no PGO",
            "LTO" if "--with-lto" in configured else "no LTO",
        ]
    return [*flags, "shared" if sysconfig.get_config_var("Py_ENABLE_SHARED") else "static"]


def usable_cpus() -> list[int]:
    """The processors that this process may run on; empty where the system does not say."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    else:  # noqa: RET505 - mypy knows this shape
        return []


def pin_to(cpu: int | None) -> bool:
    """Stay on one cpu; False where the system cannot or was not asked to."""
    if cpu is None or sys.platform != "linux":
        return False
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:
        return False
    return True


def process_cpu_seconds(pid: int) -> float | None:
    """User plus system seconds of a process, ended threads included; None if it cannot be told.

    On Linux that is the process's own clock, in nanoseconds (``/proc/PID/stat`` has hundredths of a second,
    which is too coarse for a short run, and ``schedstat`` forgets threads that ended).
    """
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)  # clock_getcpuclockid(3), which Python lacks
    except OSError:
        return None


def private_bytes(pid: int) -> int | None:
    """The memory that a process shares with no other; None where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def listen_losses() -> tuple[int, int] | None:
    """``ListenOverflows`` and ``ListenDrops``: connections that the kernel could not queue for any listener.

    They are counted for the whole network namespace; None where the system does not say.
    """
    try:
        lines = Path("/proc/net/netstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            counts = dict(zip(names.split()[1:], map(int, values.split()[1:]), strict=False))
            return counts.get("ListenOverflows", 0), counts.get("ListenDrops", 0)
    return None
