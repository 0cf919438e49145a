"""Gives a debug build of the interpreter what it needs to run aionet: Debian's `python3.11-dbg` comes bare.

    python debug_interpreter.py DIRECTORY    # prepares it there, and prints the command to begin with

Theory of operation
-------------------
Pure Python needs no more than the checkout as its path. An extension that was compiled for the release build
is of no use to the debug build, whose modules have another tag (``cpython-311d``). So the checkout's sources,
without what was built of them, are copied to `DIRECTORY` and installed from there into a virtual environment
of the debug interpreter's; the checkout itself is not touched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["CHECKOUT", "PROGRAM", "install"]

PROGRAM = "python3.11-dbg"
CHECKOUT = Path(__file__).parents[2]

_SOURCES = ("aionet", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def install(directory: Path) -> str:
    """Build and install the checkout, extension included, below `directory`; return the interpreter to use.

    Raises `RuntimeError`, with what was printed, where that fails or compiles nothing.
    """
    sources, environment = directory / "sources", directory / "environment"
    sources.mkdir()
    for name in _SOURCES:
        _copy(CHECKOUT / name, sources / name)
    python = str(environment / "bin" / "python")
    _run(PROGRAM, "-m", "venv", str(environment))
    _run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(sources))
    _run(python, "-c", "import sys, aionet.native._compiled; sys.gettotalrefcount()")
    return python


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    else:
        shutil.copy(source, target)


def _run(*command: str) -> None:
    # Not in the checkout, whose aionet would come before the installed one.
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Prepare the debug interpreter in the directory that the command line names."""
    directory = Path(sys.argv[1]).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    if (CHECKOUT / "setup.py").exists():
        print(f"AIONET_ENGINE=native {install(directory)}")
    else:
        print(f"AIONET_ENGINE=portable PYTHONPATH={CHECKOUT} {PROGRAM}")


if __name__ == "__main__":
    main()
