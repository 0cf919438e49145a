"""``--reload``, for development: the server is run again whenever a file that it is made of changes.

Theory of operation
-------------------
*A parent and its child.* The parent runs the very same command line as a child, over and over, and looks at
files twice a second: only a new process has no trace of the old code. The child finds a pipe in its
environment, by which it knows what it is. Its listening sockets go with it, and the next one binds them anew:
while no server works, a client is refused at once.

*Which files.* The child tells: what is imported already, and whatever an import then looks for beneath the
current directory, found or not, with the time of its last change before it was read. So a file whose import
fails is watched too, no change is missed between the child's look and the parent's, and no list of
directories to search is needed. The file of the configuration is watched beside them.

*A child that ends with an error* has said why; the parent waits for the next change. One that ends well was
asked to by somebody, and then that is the end of both.

*One job.* Parent and child are one process group, so that either may read from the terminal (a debugger,
`input()`), and job control stops and continues both.

*Signals.* A terminal's Ctrl-C therefore reaches both. The child leaves SIGINT, SIGQUIT and SIGHUP to the
parent, which passes each on as SIGTERM: a second one ends the drain, as it does without ``--reload``, and a
third one kills a child whose event loop hangs. At a change the drain is given a second, then a second signal;
a handler that ignores all of it is killed. A child that is stopped is continued first.

*A parent that is killed* closes the pipe. A thread of the child then ends it by the same steps, because its
event loop may hang.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType
from typing import Any

from ..announcing import say
from .failing import CommandError
from .serving import STARTED_IN

__all__ = ["report_imports", "run_again_at_changes"]

_PIPE = "AIONET_RELOAD_PIPE"
_INTERVAL = 0.5  # seconds between two looks at the files
_KILLS = 3  # which signal kills the child
_GRACE = 1.0  # seconds for connections to finish, and for handlers to end after that
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
_STEPS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)  # with the grace after each
_WITHOUT_MEANING = (signal.SIGUSR1, signal.SIGUSR2)


# The child ----------------------------------------------------------------------------------------------


def report_imports() -> bool:
    """Tell the parent of every source file from now on; return whether there is a parent to tell.

    Raises `CommandError` if the current directory is gone.
    """
    pipe = os.environ.pop(_PIPE, None)
    if pipe is None:
        return False
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, it is not passed on to programs
    threading.Thread(target=_end_with_parent, args=[int(pipe)], name="parent", daemon=True).start()
    reporter = _Reporter(int(pipe))
    for module in list(sys.modules.values()):
        if file := getattr(module, "__file__", None):
            reporter.report(file)
    sys.meta_path.insert(sys.meta_path.index(PathFinder), reporter)
    sys.dont_write_bytecode = True  # it is taken for that of a source of the same size and second
    return True


def _end_with_parent(pipe: int) -> None:
    """End this process when the other end of `pipe` is closed."""
    poll = select.poll()
    poll.register(pipe, 0)  # which reports POLLERR all the same
    poll.poll()
    for number in _STEPS:
        os.kill(os.getpid(), number)
        time.sleep(_GRACE)


class _Reporter:
    """An importer that finds what the usual one would, and tells the parent where."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._directory = os.path.join(_current_directory(), "")
        os.set_inheritable(pipe, False)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None:  # where would it be?
            directory = next(iter(path), self._directory) if path else self._directory
            self.report(os.path.join(directory, f"{name.rpartition('.')[2]}.py"))
        elif spec.origin is not None:
            self.report(spec.origin)
        return spec

    def report(self, file: str) -> None:
        file = os.path.abspath(file)
        if not file.startswith(self._directory):
            return
        try:
            os.write(self._pipe, os.fsencode(f"{_changed_at(file) or '-'} {file}\0"))
        except OSError:  # the parent is gone
            pass


# The parent ---------------------------------------------------------------------------------------------


def run_again_at_changes(configuration_file: str | None) -> int:
    """Run this process's command line in a child, again whenever a file changes.

    Returns the exit code of the last child. Raises `CommandError` if the current directory is gone.
    """
    watched = _WatchedFiles(_current_directory())
    if configuration_file is not None:
        watched.add(os.path.abspath(configuration_file))
    supervisor = _Supervisor(watched)
    with _on_signals(supervisor.on_signal):
        return supervisor.run()


class _Supervisor:
    """Starts and stops one child after the other."""

    def __init__(self, watched: _WatchedFiles) -> None:
        self._watched = watched
        self._child: subprocess.Popen[bytes] | None = None
        self._signals = 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Pass it on."""
        self._signals += 1
        if self._child is not None:
            _signal(self._child, signal.SIGTERM if self._signals < _KILLS else signal.SIGKILL)

    @property
    def _asked_to_end(self) -> bool:
        return self._signals > 0

    def run(self) -> int:
        """Run children until one is the last; return its exit code."""
        while True:
            self._watched.changed()  # what has changed by now is seen by the next child
            with _new_child() as (child, pipe):
                self._child = child
                if self._asked_to_end:  # before there was a child to tell
                    _signal(child, signal.SIGTERM)
                if changed := self._wait_for_a_change(child, pipe):
                    say(f"changed: {', '.join(map(self._watched.shown, changed))}; restarting")
                    _stop(child)
            if not changed or self._asked_to_end:
                return _exit_code(child)

    def _wait_for_a_change(self, child: subprocess.Popen[bytes], pipe: int) -> list[str]:
        """Return what has changed; nothing if the server has ended for good."""
        told = False
        while True:
            ended = self._listen(child, pipe)
            if ended and (self._asked_to_end or child.returncode == 0):
                return []
            if not self._asked_to_end and (changed := self._watched.changed()):
                return changed
            if ended and not told:
                told = True
                say(f"the server ended with exit code {_exit_code(child)}; waiting for a change")

    def _listen(self, child: subprocess.Popen[bytes], pipe: int) -> bool:
        """Take reports for as long as an interval lasts; return whether the child has ended."""
        deadline = time.monotonic() + _INTERVAL
        while (left := deadline - time.monotonic()) > 0:
            select.select([pipe], [], [], left)
            if not self._watched.read_reports(pipe):
                if child.returncode is not None:  # known already
                    time.sleep(left)
                return _ended_within(child, left)
        return False


class _WatchedFiles:
    """What the server is made of, each file with the time of its last change; ``None`` if it is missing."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._changed_at: dict[str, int | None] = {}
        self._unread = b""

    def add(self, file: str) -> None:
        """Watch `file`, too."""
        self._changed_at[file] = _changed_at(file)

    def shown(self, file: str) -> str:
        """Return the name of `file` for people: relative to the directory in which the command began."""
        return os.path.relpath(file, self._directory)

    def read_reports(self, pipe: int) -> bool:
        """Enter what a child has reported through `pipe`; return whether there may be more."""
        is_open = False
        try:
            while data := os.read(pipe, 65536):
                self._unread += data
        except BlockingIOError:
            is_open = True
        *reports, self._unread = self._unread.split(b"\0")
        for report in reports:
            when, _, file = os.fsdecode(report).partition(" ")
            self._changed_at[file] = int(when) if when.isdigit() else None
        return is_open

    def changed(self) -> list[str]:
        """Return the files that have changed, and count from now."""
        found = {file: _changed_at(file) for file in self._changed_at}
        changed = [file for file, before in self._changed_at.items() if found[file] != before]
        self._changed_at = found
        return changed


def _current_directory() -> str:
    if STARTED_IN.real is None:
        raise CommandError("the current directory is gone")
    return STARTED_IN.real


def _changed_at(file: str) -> int | None:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return None


@contextmanager
def _new_child() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run our own command line; yield the child, and where it reports. It must have ended at the end."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(reading, False)
        try:
            child = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=os.environ | {_PIPE: str(writing)},
                pass_fds=(writing,),
            )
        finally:
            os.close(writing)
        yield child, reading
    finally:
        os.close(reading)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End `child`, if need be by force."""
    for number in _STEPS:
        _signal(child, number)
        if _ended_within(child, _GRACE):
            return
    child.wait()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal that also a child that is stopped obeys."""
    child.send_signal(number)
    child.send_signal(signal.SIGCONT)


def _exit_code(child: subprocess.Popen[bytes]) -> int:
    """Return it as a shell has it."""
    code = child.wait()
    return code if code >= 0 else 128 - code


def _ended_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _on_signals(handler: Any) -> Iterator[None]:
    """Have `handler` called at the signals that end a program; put back what was there before."""
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    before |= {number: signal.signal(number, lambda *_: None) for number in _WITHOUT_MEANING}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
