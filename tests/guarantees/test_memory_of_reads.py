"""Memory is taken for what came, not for what was named: neither per read nor for an idle connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import aionet

PROGRAM = Path(__file__).with_name("memory_of_reads.py")
LOOPS = ["asyncio"] if aionet.implementation() == "portable" else ["asyncio", "aionet"]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("max_bytes", [256 * 1024, 1 << 30])
def test_a_byte_read_with_a_large_max_bytes_takes_no_page(loop: str, max_bytes: int) -> None:
    """glibc is told to map every block of 128 KiB, as it does in a process that has not yet freed one."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), loop, str(max_bytes), "200", "5"],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    assert taken["faults_per_read"] < 0.5
    assert taken["bytes_per_connection"] < 2048
