"""The house stands: imports run downward, without circles, and each module can be imported by itself."""

from __future__ import annotations

import graphlib
import subprocess
import sys

import pytest

from .floors import FLOORS, floor_of
from .modules import IMPORTABLE, MODULES, ROOT, imports_of


def test_every_module_is_on_a_floor():
    assert [module for module in MODULES if not _has_floor(module)] == []


def _has_floor(module):
    try:
        floor_of(module)
    except KeyError:
        return False
    return True


def test_no_room_is_on_two_floors():
    rooms = [room for floor in FLOORS.values() for room in floor]
    assert len(rooms) == len(set(rooms))


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module):
    upward = {other for other in imports_of(module) if floor_of(other) > floor_of(module)}
    if module == "aionet.errors":  # it names addresses in annotations only, which is no import
        assert imports_of(module) == set()
    assert upward == set(), f"{module} on floor {floor_of(module)} imports from above"


def test_there_are_no_circles():
    graph = {module: imports_of(module) for module in MODULES}
    for package in [module for module in MODULES if MODULES[module].name == "__init__.py"]:
        for module in graph:  # what is imported from within a package does not count as importing the package
            if module.startswith(package + "."):
                graph[module].discard(package)
    list(graphlib.TopologicalSorter(graph).static_order())


IMPORT_EACH = """
import importlib, sys, types
path = sys.argv[1]
for argument in sys.argv[2:]:
    name, _, alone = argument.partition("=")
    for loaded in [module for module in sys.modules if module.partition(".")[0] == "aionet"]:
        del sys.modules[loaded]
    if alone:  # without what aionet/__init__.py imports
        sys.modules["aionet"] = package = types.ModuleType("aionet")
        package.__path__ = [path]
    try:
        importlib.import_module(name)
    except BaseException as error:
        sys.exit(f"{name}: {error!r}")
"""


def _needs_the_package(module, seen):
    seen.add(module)
    return any(
        other == "aionet" or (other not in seen and _needs_the_package(other, seen))
        for other in imports_of(module)
    )


@pytest.mark.slow
def test_every_module_can_be_imported_first_and_without_a_warning():
    names = [
        name if name == "aionet" or _needs_the_package(name, set()) else f"{name}=alone"
        for name in IMPORTABLE
        if not name.endswith("__main__")
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EACH, str(ROOT), *names],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_importing_aionet_loads_nothing_that_only_some_need():
    """The extras, and what takes long to import, are for those who use them."""
    program = "import aionet, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    unwanted = {"uvloop", "anyio", "rich", "matplotlib", "prometheus_client", "argparse"}
    assert not loaded & unwanted
    assert not {name for name in loaded if name.startswith(("aionet.cli", "aionet.bench"))}
