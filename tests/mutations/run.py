"""Whether the suite catches faults: mutations of a copy of the tree, and the test that fails for each.

    python tests/mutations/run.py                # all of them
    python tests/mutations/run.py no-grace       # some
    python tests/mutations/run.py --list

The exit status is 1 if a mutation was not caught, or if its text is not in exactly one file.

Theory of operation
-------------------
The copy is what git knows of this checkout, with uncommitted changes. Where C is mutated, the engine is built
in the copy by this interpreter's setuptools. The tests in which the mutation is expected to be caught run
first, then the whole quick suite, so a mutation that is caught costs seconds, and one that is not costs the
suite's time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_SECONDS = 600
"""For one run of tests. A mutation that hangs them is caught, too."""

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class MutationError(Exception):
    """A mutation that cannot be applied."""


def copy_tree(to: Path) -> None:
    """Copy what git knows of the checkout, and the built engine."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    built = [path.relative_to(ROOT) for path in (ROOT / "aionet" / "native").glob("_compiled*.so")]
    for name in [*map(Path, filter(None, names.decode().split("\0"))), *built]:
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def apply(mutation: Mutation, tree: Path) -> set[Path]:
    """Change the files of `tree`; return those that were changed."""
    files = [path for kind in ("*.py", "*.c", "*.h") for path in (tree / "aionet").rglob(kind)]
    changed = set()
    for old, new in mutation.changes:
        found = [path for path in files if path.read_text().count(old)]
        if len(found) != 1 or found[0].read_text().count(old) != 1:
            raise MutationError(f"this is to be in one place, not in {len(found)} files:\n{old}")
        found[0].write_text(found[0].read_text().replace(old, new))
        changed.add(found[0])
    return changed


def build(tree: Path) -> None:
    """Build the engine of `tree`."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace", "-q"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise MutationError(f"it cannot be built:\n{done.stderr}")


def failing_test(tree: Path, engine: str, tests: Sequence[str]) -> str | None:
    """Run `tests` until one fails; return its name, or ``None``."""
    environment = os.environ | {"AIONET_ENGINE": engine, "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--timeout=20", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"(the tests did not end in {MOST_SECONDS} seconds)"
    if done.returncode == 0:
        return None
    found = _FAILED.search(done.stdout)
    return (
        found[1]
        if found
        else f"(pytest ended with {done.returncode})\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    )


def try_out(mutation: Mutation) -> str | None:
    """Return the test that catches `mutation`, or ``None``."""
    with tempfile.TemporaryDirectory(prefix="aionet-mutation-") as directory:
        tree = Path(directory)
        copy_tree(tree)
        if any(path.suffix in (".c", ".h") for path in apply(mutation, tree)):
            build(tree)
        likely = [f"tests/{name}" for name in mutation.first]
        # In one process first: where tests hang, the workers of a parallel run may never end.
        return failing_test(tree, mutation.engine, ["-n", "0", *likely]) or failing_test(
            tree, mutation.engine, []
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options]"
    )
    names = [mutation.name for mutation in MUTATIONS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="what there is")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no mutation {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    chosen = [mutation for mutation in MUTATIONS if not options.names or mutation.name in options.names]
    missed = 0
    for mutation in chosen:
        if options.list:
            print(f"{mutation.name:30} {mutation.engine:9} {mutation.breaks}")
            continue
        began = time.monotonic()
        print(f"{mutation.name:30} {mutation.engine:9} ", end="", flush=True)
        try:
            caught = try_out(mutation)
        except MutationError as error:
            caught = None
            print(error)
        missed += caught is None
        print(f"{time.monotonic() - began:5.0f} s  {caught or 'NOT CAUGHT'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
