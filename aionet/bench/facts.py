"""What a measurement has to say of the machine and the interpreter; no host name, no path.

The interpreter's build matters as much as its version (profile guidance alone is worth 40 % of bytecode
speed), so it is told with its flags.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from pathlib import Path

__all__ = ["cpu_model", "kernel", "pin_to", "process_cpu_seconds", "python_build", "usable_cpus"]


def kernel() -> str:
    """``Linux 6.18.44``."""
    return f"{platform.system()} {platform.release()}"


def cpu_model() -> str:
    """The processor's name as the system gives it, and how many of them this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {len(usable_cpus()) or os.cpu_count()} cpus"


def python_build() -> str:
    """``CPython 3.11.7 (no PGO, no LTO, shared)``.

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
    flags.append("shared" if sysconfig.get_config_var("Py_ENABLE_SHARED") else "static")
    return f"{platform.python_implementation()} {platform.python_version()} ({', '.join(flags)})"


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
    """User plus system seconds of a process, all of its threads; None where there is no ``/proc``.

    The system counts in ticks of 10 ms, so a measurement of a second is good to 1 %.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name before it may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None
