"""Whichever allocation of an operation fails: nothing is lost unnoticed, nothing torn, nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import require_program

import aionet

from . import debug_interpreter
from .debug_interpreter import CHECKOUT, PROGRAM

SCRIPT = Path(__file__).with_name("allocation_failures.py")
LOOPS = ["asyncio", *["aionet"] * (aionet.implementation() == "native")]
SCENARIOS = [
    "read",
    "read_into",
    "iterate",
    "wait_and_read",
    "read_and_yield",
    "read_and_wait",
    "write",
    "write_vectored",
    "lose",
    "read_more",
    "read_exactly",
    "wait_and_read_in_a_subclass",
    "write_in_part",
    "write_on",
    "accept",
    "close",
    "close_after_the_peer",
    "spawn",
    "spawn_within_limits",
]

pytestmark = pytest.mark.skipif(aionet.implementation() != "native", reason="it is about the compiled engine")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter in which allocations can be made to fail, with aionet."""
    if find_spec("_testcapi") is not None:
        return sys.executable
    require_program(PROGRAM)
    return debug_interpreter.install(tmp_path_factory.mktemp("debug"))


def sweep(python: str, loop: str, scenario: str) -> None:
    path = {"PYTHONPATH": str(CHECKOUT)} if python == sys.executable else {}
    done = subprocess.run(
        [python, str(SCRIPT), "--loop", loop, scenario],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "AIONET_ENGINE": "native", **path},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_operation(python: str, loop: str, scenario: str) -> None:
    sweep(python, loop, scenario)
