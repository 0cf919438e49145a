"""The ground that every test stands on: the loop matrix and the leak ledger.

Theory of operation
-------------------
*The matrix.* Each ``@pytest.mark.asyncio`` test runs once per loop: the stock one, the stock one with eager
tasks (Python 3.12 and up) and uvloop; what is about sockets themselves runs on aionet's own loop, too, and
with ``--all-loops`` everything does. A test that is about one of them says
``@pytest.mark.asyncio(loop_factories=["uvloop"])``.

All of it runs on the engine that aionet runs on: ``AIONET_ENGINE=portable pytest`` is another column, and
with ``--callback-reactor`` the reactor of systems without epoll a third.

*The ledger.* After every test no descriptor and no task may be left, and the loop may not have complained of
anything. Descriptors are counted outside of the loop, which has come and gone in between, so the loop's own
do not count. Forgotten sockets and coroutines never awaited become errors through ``filterwarnings``: the
collector runs here, inside of the test's own report. A test that expects the loop to complain takes them off
the `loop_complaints` fixture.
"""

from __future__ import annotations

import asyncio
import ctypes  # noqa: F401  # libffi may keep a descriptor open, which no test is to be blamed for
import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping

import hypothesis
import hypothesis.core
import pytest
from helpers import open_descriptors, require_program

import aionet
from aionet.wires import event_loop
from aionet.wires.reactor import CallbackReactor

hypothesis.settings.register_profile("aionet", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("aionet")  # how long an example takes decides nothing

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cpus: tests wait for the kernel and for other programs, too."""
    return (os.cpu_count() or 1) + 1


def _new_asyncio_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop()


def _new_eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def _loop_factories() -> dict[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"asyncio": _new_asyncio_loop}
    if sys.version_info >= (3, 12):
        factories["eager"] = _new_eager_loop
    try:
        import uvloop
    except ImportError:
        if "CI" in os.environ:
            raise
    else:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


LOOP_FACTORIES = _loop_factories()
OWN_LOOP = {} if aionet.implementation() == "portable" else {"aionet": aionet.new_event_loop}
ON_OWN_LOOP = ("conformance", "observing", "spawner")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    if config.getoption("--all-loops") or item.path.parent.name in ON_OWN_LOOP:
        return LOOP_FACTORIES | OWN_LOOP
    return LOOP_FACTORIES


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip where a program is missing before anything begins: a skip later on leaves servers half begun."""
    for marker in item.iter_markers("requires_program"):
        for name in marker.args:
            require_program(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--callback-reactor",
        action="store_true",
        help="run on the reactor that systems without epoll get",
    )
    parser.addoption("--all-loops", action="store_true", help="run everything on aionet's own loop, too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--callback-reactor"):
        if aionet.implementation() != "portable":
            raise pytest.UsageError("--callback-reactor needs AIONET_ENGINE=portable")
        event_loop.make_reactor = CallbackReactor
    if sys.dont_write_bytecode and getattr(config, "cache", None) is not None:
        _keep_bytecode_in(str(config.cache.mkdir("bytecode")))


def _keep_bytecode_in(directory: str) -> None:
    """Have the programs that tests start compile aionet once, where ``PYTHONDONTWRITEBYTECODE`` is set.

    Container images often set it, and to compile takes twice the time of an import. The tree stays clean.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = directory
    sys.dont_write_bytecode = False


def pytest_sessionstart(session: pytest.Session) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # programs under test are interrupted, too
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # programs under test reload at it


def pytest_collection_finish(session: pytest.Session) -> None:
    for make_loop in LOOP_FACTORIES.values():  # what a loop opens once per process is nobody's leak
        make_loop().close()
    _keep_generator()
    gc.collect()
    gc.freeze()  # what is imported by now stays: collecting after each test then costs little


_kept: list[random.Random] = []


def _keep_generator() -> None:
    """Register Hypothesis's own random generator now: frozen, nothing that refers to it would be found."""
    _kept.append(random.Random())
    hypothesis.core.threadlocal._hypothesis_global_random = _kept[0]
    hypothesis.register_random(_kept[0])


@pytest.fixture
def loop_complaints() -> list[str]:
    """What the loop's exception handler was told; what is left in it at the end fails the test."""
    return []


@pytest.fixture(autouse=True)
def ledger(loop_complaints: list[str]) -> Iterator[None]:
    """Fail a test that leaves a descriptor open, or something that its loop complains of."""
    before = open_descriptors()
    yield
    gc.collect()
    gc.freeze()  # what survives is pytest's
    after = open_descriptors()
    left = {number: what for number, what in after.items() if before.get(number) != what}
    if left:
        pytest.fail(f"descriptors left open: {left}", pytrace=False)
    if loop_complaints:
        pytest.fail(f"the loop complained: {loop_complaints}", pytrace=False)


@pytest.fixture(autouse=True)
def task_ledger(request: pytest.FixtureRequest, ledger: None, loop_complaints: list[str]) -> Iterator[None]:
    """Fail an asyncio test that leaves a task behind."""
    marker = request.node.get_closest_marker("asyncio")
    if marker is None or marker.kwargs.get("loop_scope", "function") != "function":
        yield
        return
    loop = request.getfixturevalue("_function_scoped_runner").get_loop()
    loop.set_exception_handler(
        lambda _, context: loop_complaints.append(f"{context['message']}: {context.get('exception')!r}")
    )
    yield
    left = [repr(task) for task in asyncio.all_tasks(loop)]
    if left:
        pytest.fail(f"tasks left running: {left}", pytrace=False)
