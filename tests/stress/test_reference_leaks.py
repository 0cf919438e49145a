"""No scenario of `reference_leaks.py` leaves a reference behind, on either engine.

The debug interpreter counts references, exactly; what tests run on everywhere counts blocks, roughly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require_program

import aionet

from . import debug_interpreter
from .debug_interpreter import CHECKOUT, PROGRAM

SCRIPT = Path(__file__).with_name("reference_leaks.py")
LOOPS = ["asyncio", *["aionet"] * hasattr(aionet, "new_event_loop")]


def find_leaks(python: str, *arguments: str, **environment: str) -> str:
    """Run the script; return its table, fail with it if something leaks."""
    done = subprocess.run(
        [python, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, **environment},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_nothing_grows_grossly() -> None:
    find_leaks(sys.executable, "--runs", "50", "--batches", "3", PYTHONPATH=str(CHECKOUT))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("loop", LOOPS)
def test_no_reference_leaks_on_the_portable_engine(loop: str) -> None:
    python = require_program(PROGRAM)
    table = find_leaks(python, "--loop", loop, PYTHONPATH=str(CHECKOUT), AIONET_ENGINE="portable")
    assert "references/run" in table


@pytest.fixture(scope="module")
def debug_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the extension, built for debugging."""
    require_program(PROGRAM)
    if not (CHECKOUT / "setup.py").exists():
        pytest.skip("there is no setup.py in this checkout: no extension to build")
    return debug_interpreter.install(tmp_path_factory.mktemp("debug"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("loop", LOOPS)
def test_no_reference_leaks_on_the_native_engine(loop: str, debug_python: str) -> None:
    table = find_leaks(debug_python, "--loop", loop, AIONET_ENGINE="native")
    assert "native engine" in table
    assert "references/run" in table
