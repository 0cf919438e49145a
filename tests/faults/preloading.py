"""Builds the library of failing system calls, `faults.c`, and puts it into the environment of a program."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

__all__ = ["preloaded"]

SOURCE = Path(__file__).with_name("faults.c")


def preloaded() -> dict[str, str]:
    """Return the variables that a program needs; where there is no compiler, skip, or fail where ``CI`` is
    set.

    The library comes last: the runtime of a sanitizer has to be loaded before everything else, and then finds
    the library's functions where it looks for those of the C library.
    """
    if sys.platform != "linux":
        pytest.skip("epoll and LD_PRELOAD are Linux's")
    return {
        "LD_PRELOAD": " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(_library() / "faults.so")]))
    }


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
