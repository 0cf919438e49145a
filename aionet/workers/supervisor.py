"""The supervisor: starts workers, replaces those that end, reloads and drains them.

Theory of operation
-------------------
*It accepts nothing itself.* It holds the listening sockets (`held_listeners.py`), so they stay open whatever
becomes of a worker, and runs no code of the user's.

*Ready, then go.* Workers that are started together accept only when all are ready: at the start, so that the
first one to be up does not get everybody; at a reload, so that the old ones go on if the new ones fail.

*A worker that ends is replaced* after a pause: 0.1 s, doubling to 10 s, and 0.1 s again once one has lived
for a minute. So is one that drains by itself, as soon as it does. A worker that was ready is always replaced,
however often: its end may be the work of a single client, and no client must be able to end the service.
Workers that never become ready are our own fault; where none accepts any more, the supervisor gives up after
eight such starts in a row, and says so. While one accepts, it never gives up.

*A listening socket that became unusable* ends its workers, after a drain. It is made to listen again before
another worker accepts from it.

*No queue is left alone.* A listening socket whose worker has stopped is accepted from by a living one, the
one with the fewest of such sockets, until a worker of its own is there again (`_share_out`).

*A worker that hangs* is ended, if there is a timeout for that (`hanging.py`), and replaced like the others.

*Ending.* Each worker drains by itself, in the same time of grace; one that takes much longer is killed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

from ..announcing import Log
from ..cleaning_up import see_through
from ..draining import DrainReport
from ..errors import WorkerFailedError
from ..held_listeners import HeldListeners
from ..working_directory import WorkingDirectory
from .counters import Counters
from .hanging import beat_for, end_those_that_hang
from .process import WorkerProcess
from .settings import WorkerSettings, packed

__all__ = ["Supervisor"]

_log = Log("aionet.workers", complete=True)

_FIRST_PAUSE = 0.1  # seconds before the first replacement
_LONGEST_PAUSE = 10.0
_GOOD_LIFE = 60.0  # seconds after which a worker's end is no sign of more to come
_MOST_FAILURES = 8  # starts in a row that come to nothing


class Supervisor:
    """Looks after so many `workers`, which serve what `listeners` holds.

    Args:
        settings: called at the start and at each reload.
        directory: the working directory of the workers; a reload enters it, too.
        drain_grace: seconds for the workers that a reload replaces.
        start_timeout: seconds in which a worker must become ready.
        worker_timeout: seconds without a sign of life after which a worker is ended; ``None``: it is not.
    """

    def __init__(
        self,
        settings: Callable[[], WorkerSettings],
        listeners: HeldListeners,
        *,
        directory: WorkingDirectory,
        workers: int,
        drain_grace: float,
        start_timeout: float,
        worker_timeout: float | None = None,
    ) -> None:
        self.counters = Counters()
        """What the workers have counted, together."""
        self.restarts = 0
        """How often a worker that had ended was replaced."""
        self._settings = settings
        self._listeners = listeners
        self._directory = directory
        self.workers = workers
        """How many workers there are to be."""
        self._drain_grace = drain_grace
        self._start_timeout = start_timeout
        self._worker_timeout = worker_timeout
        self._looking: asyncio.Task[None] | None = None
        self._packed = b""
        self._current: dict[int, WorkerProcess] = {}
        self._substitutes: dict[int, WorkerProcess] = {}  # index of a socket -> what accepts from it
        self._living: set[WorkerProcess] = set()
        self._reports: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pauses: dict[int, float] = {}
        self._failures = 0
        self._failed: WorkerFailedError | None = None
        self._started = time.monotonic()
        self._draining = asyncio.Event()
        self._reloading = False

    async def start(self) -> None:
        """Start the workers and return when all are ready; they accept from `go` on.

        Raises:
            WorkerFailedError: one did not become ready, or `drain` was called meanwhile; all have ended.
            TypeError: the handler cannot be found by name.

        Cancel safety: none is left running.
        """
        self._packed = self._content()
        self._current = dict(enumerate(await self._start_all(self._packed)))
        if self._worker_timeout is not None:
            looking = end_those_that_hang(lambda: self.living, self._worker_timeout)
            self._looking = asyncio.create_task(looking)

    def go(self) -> None:
        """Let the workers accept, and replace them from now on when they end."""
        for worker in self._current.values():
            worker.go()
            self._spawn(self._watch(worker))
        self._share_out()

    async def run(self) -> DrainReport:
        """Return how the drains went, when all workers have drained.

        Raises `WorkerFailedError` if workers cannot be started again and again.
        Cancel safety: cancelled, it kills the workers.
        """
        try:
            await self._draining.wait()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self.aclose()
        if self._failed is not None:
            raise self._failed
        return _together(self._reports)

    async def aclose(self) -> None:
        """Kill what is left. Cancel safety: it is killed then, too."""
        for task in self._tasks:
            task.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._living:
            await see_through(self._discard(list(self._living)))

    def drain(self, grace: float, on_stopped: Callable[[], object] = lambda: None) -> None:
        """Let all workers drain; again, to shorten the grace.

        `on_stopped` is called when none of them accepts any more.
        """
        self._draining.set()
        for worker in self._living:
            worker.drain(grace)
        self._spawn(self._when_stopped(list(self._living), on_stopped))

    async def _when_stopped(self, workers: list[WorkerProcess], call: Callable[[], object]) -> None:
        await asyncio.gather(*(worker.until_stopped() for worker in workers))
        call()

    @property
    def draining(self) -> bool:
        """Whether the end has begun."""
        return self._draining.is_set()

    async def reload(self) -> bool:
        """Replace all workers by new ones, which import everything anew; return whether that was done.

        The old ones go on until the new ones are ready, and if these do not become so.
        Cancel safety: as if the new ones had not become ready.
        """
        if self._reloading or self.draining:
            _log.warning("no reload: %s", "draining" if self.draining else "another one is under way")
            return False
        self._reloading = True
        try:
            if self._directory.name is not None:
                os.chdir(self._directory.name)  # from where the configuration is read again, too
            content = self._content()
            fresh = await self._start_all(content)
        except (WorkerFailedError, OSError, TypeError) as error:
            _log.error("not reloaded, going on as before: %s", error)
            return False
        finally:
            self._reloading = False
        self._packed = content
        old, self._current = self._current, dict(enumerate(fresh))
        self._pauses.clear()
        self.go()
        for worker in old.values():
            worker.drain(self._drain_grace)
        await asyncio.gather(*(worker.until_stopped() for worker in old.values()))
        _log.info("reloaded: %d new workers", len(fresh))
        return True

    @property
    def living(self) -> list[WorkerProcess]:
        """All workers that have not ended: those that serve, those that start, and those that drain."""
        return list(self._living)

    @property
    def serving(self) -> list[WorkerProcess]:
        """Those of the living whose place no other one has taken."""
        return [worker for worker in self._current.values() if worker in self._living]

    def status(self) -> dict[str, Any]:
        """Return what can be told about it, for people and for `json`."""
        counts = self.counters.of_each()
        return {
            "seconds": round(time.monotonic() - self._started, 3),
            "restarts": self.restarts,
            "counters": self.counters.total(),
            "workers": [
                {"number": worker.number, "pid": worker.pid, "counters": counts.get(worker.pid, {})}
                for worker in self._current.values()
            ],
        }

    # Starting -----------------------------------------------------------------------------------------

    def _content(self) -> bytes:
        """Return what new workers are told. Raises what `settings` raises, and `TypeError`."""
        beat = None if self._worker_timeout is None else beat_for(self._worker_timeout)
        return packed(dataclasses.replace(self._settings(), beat=beat), self._directory)

    async def _start_all(self, content: bytes) -> list[WorkerProcess]:
        """Start one worker for each number; all are ready, or none is left."""
        workers: list[WorkerProcess] = []
        try:
            for number in range(self.workers):  # each is to be discarded if the next one fails
                workers.append(await self._start_one(number, content))  # noqa: PERF401
            await asyncio.gather(*(worker.until_ready(self._start_timeout) for worker in workers))
            self._raise_if_draining()
        except BaseException:
            await see_through(self._discard(workers))
            raise
        return workers

    async def _start_one(self, number: int, content: bytes) -> WorkerProcess:
        self._raise_if_draining()
        self._listeners.listen_again()
        own = self._listeners.for_worker(number, self.workers)
        worker = await WorkerProcess.start(
            number, content, self._listeners.sockets, own, self._directory, self.counters.tell
        )
        self._living.add(worker)
        return worker

    def _raise_if_draining(self) -> None:
        if self.draining:
            raise WorkerFailedError("told to end while workers were starting")

    async def _discard(self, workers: list[WorkerProcess]) -> None:
        for worker in workers:
            worker.kill()
        for worker in workers:
            await self._bury(worker)

    async def _bury(self, worker: WorkerProcess) -> int:
        """Wait for its end, and keep what it has counted."""
        status = await worker.ended()
        self._living.discard(worker)
        self.counters.end(worker.pid)
        if worker.report is not None:
            self._reports.append(worker.report)
        return status

    # Replacing ----------------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, worker: WorkerProcess) -> None:
        """Wait for the end of `worker`, and replace it if that was not asked for."""
        await worker.stops()
        self._share_out()
        wanted = not self.draining and self._current.get(worker.number) is worker
        if wanted and time.monotonic() - worker.started > _GOOD_LIFE:
            self._pauses.pop(worker.number, None)
        if wanted and worker.is_talking:  # it drains by itself, which may take long
            _log.warning("worker %d (process %d) drains by itself", worker.number, worker.pid)
            self._spawn(self._replace(worker))
            wanted = False
        status = await self._bury(worker)
        if wanted or worker.report is None:
            _log.error("worker %d (process %d) %s", worker.number, worker.pid, _how(status))
        if wanted:
            await self._replace(worker)

    def _share_out(self) -> None:
        """Have each listening socket accepted from: by a worker of its own, or by another one meanwhile."""
        if self.draining:
            return
        try:
            self._listeners.listen_again()
        except OSError as error:
            _log.error("%s", error.strerror)
        sockets = self._listeners.sockets
        accepting = {number: worker for number, worker in self._current.items() if worker.accepts}
        own = {sock for number in accepting for sock in self._listeners.for_worker(number, self.workers)}
        for index, substitute in list(self._substitutes.items()):
            if sockets[index] in own or substitute not in accepting.values():
                substitute.leave(index)
                del self._substitutes[index]
        for index, sock in enumerate(sockets):
            if accepting and sock not in own and index not in self._substitutes:
                burdens = list(self._substitutes.values())
                substitute = min(accepting.values(), key=burdens.count)
                self._substitutes[index] = substitute
                substitute.take(index)

    async def _replace(self, ended: WorkerProcess) -> None:
        number = ended.number
        while self._current.get(number) is ended and not self.draining:
            pause = self._pauses.get(number, _FIRST_PAUSE)
            self._pauses[number] = min(2 * pause, _LONGEST_PAUSE)
            if await self._drains_within(pause):
                return
            try:
                worker = await self._start_one(number, self._packed)
            except (OSError, WorkerFailedError) as error:
                self._note_failure(error)
                continue
            try:
                await worker.until_ready(self._start_timeout)
            except WorkerFailedError as error:
                await self._discard([worker])
                self._note_failure(error)
                continue
            if self._current.get(number) is not ended or self.draining:  # a reload was faster, or the end
                await self._discard([worker])
                return
            self._failures = 0
            self.restarts += 1
            self._current[number] = worker
            worker.go()
            self._share_out()
            _log.info("worker %d: process %d takes the place of %d", number, worker.pid, ended.pid)
            self._spawn(self._watch(worker))

    async def _drains_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return False
        return True

    def _note_failure(self, error: Exception) -> None:
        if self.draining:
            return
        _log.error("%s", error)
        self._failures = 0 if any(worker.accepts for worker in self._current.values()) else self._failures + 1
        if self._failures >= _MOST_FAILURES:
            self._failed = WorkerFailedError(f"gave up after {self._failures} failed starts: {error}")
            _log.critical("%s", self._failed)
            self.drain(self._drain_grace)


def _how(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def _together(reports: list[dict[str, Any]]) -> DrainReport:
    """Return one report on several drains that ran at once."""
    names = ("finished", "cancelled", "aborted", "closing")
    counts = {name: sum(report[name] for report in reports) for name in names}
    return DrainReport(**counts, seconds=max((report["seconds"] for report in reports), default=0.0))
