"""`AIONET_ENGINE` asks for an engine by name, and fails loudly where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import aionet

PROGRAM = "import aionet; print(aionet.implementation())"


def run(engine: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(aionet.__file__).parent.parent)}
    environment.pop("AIONET_ENGINE", None)
    if engine is not None:
        environment["AIONET_ENGINE"] = engine
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)


def test_portable_is_always_there() -> None:
    done = run("portable")
    assert (done.returncode, done.stdout, done.stderr) == (0, "portable\n", "")


def test_unset_or_empty_takes_what_there_is() -> None:
    for engine in (None, ""):
        done = run(engine)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout in ("portable\n", "native\n")


def test_native_runs_or_fails_loudly_and_names_the_variable() -> None:
    done = run("native")
    if run(None).stdout == "native\n":
        assert (done.returncode, done.stdout) == (0, "native\n")
    else:
        assert done.returncode == 1
        assert done.stdout == ""
        assert "AIONET_ENGINE=native" in done.stderr


def test_nonsense_fails_loudly_and_names_the_variable_and_the_value() -> None:
    done = run("nonsense")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "AIONET_ENGINE" in done.stderr
    assert "nonsense" in done.stderr
