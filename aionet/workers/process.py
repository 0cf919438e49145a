"""A worker as its supervisor sees it: started, ready, told to go, told to drain, and ended for certain.

Theory of operation
-------------------
The worker is a fresh interpreter (`settings.py` says why). It inherits copies of its listening sockets and
one end of a channel; everything else closes on exec. Two things can be waited for: that it is ready, and that
it has ended; and neither can hang: a worker that is not ready in time, or that has not ended some time after
it was told to, is killed.

It is killed by its pidfd (pidfd_open(2)): `subprocess` would first look whether it has ended, and take its
status from the child watcher of asyncio if it has (python/cpython#87744).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import WorkerFailedError
from ..message_channel import MessageChannel
from ..working_directory import WorkingDirectory
from .counters import Counts

__all__ = ["OnCounters", "WorkerProcess"]

OnCounters: TypeAlias = Callable[[int, Counts, Counts], object]
"""Called with a process id, its counts, and its gauges."""

_PROGRAM = """\
import signal, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):  # they are for the supervisor, from the start
    signal.signal(number, signal.SIG_IGN)
sys.path[:] = {path!r}
from aionet.workers.worker import main
main({channel}, {listeners}, {own})
"""
_HARD = 1.0  # seconds that a spawner gives handlers after their cancellation
_LAST_WORDS = 1.0  # seconds to show where it hangs, before it is killed
_MARGIN = 3.0  # seconds beyond the time that a drain may take, before the worker is killed
_NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")  # the service is its supervisor's


class WorkerProcess:
    """One worker. Made by `start`."""

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        channel: MessageChannel,
        on_counters: OnCounters,
    ) -> None:
        self.number = number
        """Which of the workers it is, from 0 on; the one that replaces it has the same."""
        self.started = self.heard = time.monotonic()
        """When it was started, and when it last sent a message."""
        self.report: dict[str, Any] | None = None
        """Its `DrainReport`, once it has drained."""
        self._process = process
        self._channel = channel
        self._on_counters = on_counters
        self._ready = asyncio.Event()
        self._stopped = asyncio.Event()
        self._silent = asyncio.Event()
        self._pidfd = _pidfd_of(process.pid)
        self._kill_at: asyncio.TimerHandle | None = None
        self._aborted = self._going = False
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls,
        number: int,
        settings: bytes,
        sockets: Sequence[socket.socket],
        own: Iterable[socket.socket],
        directory: WorkingDirectory,
        on_counters: OnCounters,
    ) -> WorkerProcess:
        """Start worker `number`, which accepts from copies of `own`; see `take` for the rest of `sockets`.

        It is started in `directory`, under the user's name for that.

        Raises `OSError` if there can be no more processes. Cancel safety: none is left running.
        """
        listeners = [sock.fileno() for sock in sockets]
        indexes = [listeners.index(sock.fileno()) for sock in own]
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                directory.renamed(sys.executable),
                *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]  # as multiprocessing
                "-c",
                _PROGRAM.format(
                    path=[*map(directory.renamed, sys.path)],
                    channel=theirs.fileno(),
                    listeners=listeners,
                    own=indexes,
                ),
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno(), *listeners],
                cwd=directory.name,
                env=_environment(directory),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        assert process.stdin is not None
        process.stdin.write(settings)
        process.stdin.close()
        return cls(number, process, MessageChannel(ours), on_counters)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it has said that it could serve."""
        return self._ready.is_set()

    @property
    def is_talking(self) -> bool:
        """Whether messages are to be expected of it: between ``ready`` and its end."""
        return self.is_ready and not self._silent.is_set() and not self._aborted

    async def until_ready(self, timeout: float) -> None:
        """Return when it could serve. Raises `WorkerFailedError`. Cancel safety: nothing is lost."""
        silent = asyncio.create_task(self._silent.wait())
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({silent, ready}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            silent.cancel()
            ready.cancel()
        if not self.is_ready:
            late = not self._silent.is_set()
            how = f"was not ready after {timeout:g} s" if late else "ended before it was ready"
            raise WorkerFailedError(f"worker {self.number} (process {self.pid}) {how}")

    @property
    def accepts(self) -> bool:
        """Whether it may accept (`go`), and has not stopped since."""
        return self._going and not self._stopped.is_set()

    def go(self) -> None:
        """Let it accept."""
        self._going = True
        self._tell({"go": True})

    def take(self, index: int) -> None:
        """Let it accept from the listening socket with that index, too, which is another worker's."""
        self._tell({"take": index})

    def leave(self, index: int) -> None:
        """Let it accept from that socket no longer."""
        self._tell({"leave": index})

    async def stops(self) -> None:
        """Return when it accepts nothing more, for whatever reason. Cancel safety: nothing is lost."""
        await self._stopped.wait()

    def drain(self, grace: float) -> None:
        """Let it end its connections within `grace` seconds; kill it if it takes much longer.

        One that is not ready yet is killed at once: it serves nobody.
        """
        if not self.is_ready:
            self.kill()
            return
        self._tell({"drain": grace})
        self._kill_after(grace + _HARD + _MARGIN)

    async def until_stopped(self) -> None:
        """Return when it accepts nothing more, after `drain`; or soon, if it is stuck.

        Cancel safety: nothing is lost.
        """
        try:
            async with asyncio.timeout(_HARD):
                await self._stopped.wait()
        except TimeoutError:
            pass

    def abort(self) -> None:
        """Have it show where it is and end (SIGABRT); kill it if it does not."""
        self._aborted = True
        self._stopped.set()
        self._signal(signal.SIGABRT)
        self._kill_after(_LAST_WORDS)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._process.returncode is None:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    async def ended(self) -> int:
        """Return its exit status, negative for a signal, when it has ended.

        Cancel safety: nothing is lost; only the waiting ends.
        """
        await self._silent.wait()
        self._kill_after(_MARGIN)  # threads of the user's module may keep it, but not for ever
        status = await self._process.wait()
        if self._kill_at is not None:
            self._kill_at.cancel()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        return status

    def _kill_after(self, seconds: float) -> None:
        when = asyncio.get_running_loop().time() + seconds
        if self._kill_at is not None:
            if self._kill_at.when() <= when:
                return
            self._kill_at.cancel()
        self._kill_at = asyncio.get_running_loop().call_at(when, self.kill)

    def _tell(self, message: Mapping[str, Any]) -> None:
        try:
            self._channel.send(message)
        except OSError:  # it has ended, or hangs: `ended` takes care of both
            pass

    async def _listen(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                self.heard = time.monotonic()
                if "ready" in message:
                    self._ready.set()
                if "draining" in message:
                    self._stopped.set()
                if "stats" in message:
                    self._on_counters(self.pid, message["stats"], message.get("gauges", {}))
                self.report = message.get("report", self.report)
        except ConnectionError:  # it was killed with a message of ours unread
            pass
        finally:
            self._channel.close()
            self._stopped.set()
            self._silent.set()


def _environment(directory: WorkingDirectory) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
    return environment if directory.name is None else environment | {"PWD": directory.name}


def _pidfd_of(pid: int) -> int | None:
    """Return a descriptor of process `pid`; ``None`` if it has ended, or where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
