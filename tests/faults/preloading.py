"""Builds the library of failing system calls, `faults.c`, and runs programs with it.

Where there is no compiler the test is skipped; it fails where ``CI`` is set.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import aionet

__all__ = ["LOOPS", "run_preloaded"]

SOURCE = Path(__file__).with_name("faults.c")
PATHS = [Path(aionet.__file__).parent.parent, SOURCE.parent.parent]

LOOPS = ["asyncio", "uvloop", "aionet" if aionet.implementation() == "native" else "callback"]
"""What programs can run on here, by their names for it."""


def run_preloaded(program: str, loop: str, *arguments: str) -> list[str]:
    """Run a program of this folder with `faults.c` preloaded; return the lines that it printed.

    The library comes last: the runtime of a sanitizer has to be loaded before everything else, and then finds
    the library's functions where it looks for those of the C library.
    """
    if sys.platform != "linux":
        pytest.skip("epoll and LD_PRELOAD are Linux's")
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(_library() / "faults.so")]))
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", f"faults.{program}", loop, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_PRELOAD": preload, "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    print(done.stdout)
    return done.stdout.splitlines()


@functools.cache
def _library() -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("there is no C compiler, and CI must have one", pytrace=False)
        pytest.skip("there is no C compiler")
    directory = tempfile.TemporaryDirectory(prefix="aionet-faults-")
    path = Path(directory.name)
    plain = {
        key: value for key, value in os.environ.items() if key != "LD_PRELOAD"
    }  # the compiler is no test
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [compiler, *options, "-o", str(path / "faults.so"), str(SOURCE), "-ldl"], check=True, env=plain
    )
    _keep.append(directory)
    return path


_keep: list[tempfile.TemporaryDirectory[str]] = []
"""Removed at the end of the process."""
