"""Hot restart: a program gives its listening sockets to its successor, and ends when that one serves.

Theory of operation
-------------------
Connections queue in the kernel all the while, in the same sockets, so none is refused; what is said meanwhile
stands in `handing_over.py`. Whatever goes wrong before the successor's last word, the predecessor goes on.

*Several at a time* may ask for the listening sockets and prepare: the copies are harmless. The first that is
ready is let go; others that are ready wait for the result, a few seconds at most. So a process that
asks and then stalls delays neither a restart by SIGUSR2 nor another process.

*Which directory.* The successor is started in the working directory as the user calls it: where that is a
symbolic link that was switched, in the new one (`working_directory.py`).

*How they meet.* SIGUSR2: the predecessor runs its own command again, and the child inherits one end of a
socket pair (``AIONET_SUCCESSION`` names the descriptor). ``--replace``: a process started by anybody else
connects to the control socket (`control_socket.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ..addresses import SocketAddress, UnixAddress
from ..announcing import Log
from ..cleaning_up import see_through
from ..errors import SuccessionError
from ..first_process import claim
from ..held_listeners import HeldListener, HeldListeners
from ..message_channel import MessageChannel, until_readable
from ..open_files import reserved
from ..working_directory import WorkingDirectory
from .control_socket import control_address, control_name, open_control, process_of, user_of
from .handing_over import abort, confirm, expect, send_listeners, take_listeners

__all__ = ["Succession"]

_log = Log("aionet.workers")

_VARIABLE = "AIONET_SUCCESSION"
_FIRST_WORD = 5.0  # seconds in which whoever connects has to say what it wants
_LAST_WORD = 5.0  # seconds in which a successor that may go has to serve
_MOST_TALKS = 8
_PATIENCE = 2.0  # seconds that a failed successor has to end by itself


class Succession:
    """Where this program stands between the one before it and the one after.

    Args:
        control: the path of the control socket; ``None``: there is none.
        replace: take over from whoever answers there, if anybody does.
        timeout: seconds in which a successor must be ready.
        directory: where this program was started; by default the present working directory.
    """

    def __init__(
        self,
        *,
        control: str | os.PathLike[str] | None = None,
        replace: bool = False,
        timeout: float = 30.0,
        on_handed_over: Callable[[int], object] = lambda pid: None,
        directory: WorkingDirectory | None = None,
    ) -> None:
        self._address = None if control is None else control_address(control)
        if replace and control is None:
            raise ValueError("replace needs the path of the control socket")
        self._replace = replace
        self._timeout = timeout
        self._on_handed_over = on_handed_over
        self.directory = directory or WorkingDirectory.now()  # the user's module may leave it
        """Where this program was started."""
        self._command = [self.directory.renamed(sys.executable), *sys.orig_argv[1:]]
        self._predecessor: MessageChannel | None = None
        self._taken: list[HeldListener] = []
        self._control: HeldListener | None = None
        self._beside: list[HeldListener] = []
        self._listeners = HeldListeners()
        self._status: Callable[[], dict[str, Any]] = dict
        self._end: Callable[[], object] = lambda: None
        self._restarting = False
        self._handing_over = asyncio.Lock()
        self._closed = False
        self.handed_over = False
        """Whether a successor serves, and this program is to end."""
        self._tasks: set[asyncio.Task[Any]] = set()

    # As a successor -----------------------------------------------------------------------------------

    async def take_over(self) -> list[HeldListener]:
        """Return what the predecessor listens on; nothing if there is none.

        Raises `SuccessionError`, `OSError`. Cancel safety: nothing is left open.
        """
        sock = self._inherited() or self._connected()
        if sock is None:
            return []
        channel = MessageChannel(sock)
        try:
            async with asyncio.timeout(self._timeout):
                taken = await take_listeners(channel)
        except BaseException as error:
            channel.close()
            if isinstance(error, TimeoutError | ConnectionError):
                raise SuccessionError(
                    f"the predecessor hands nothing over: {error or 'no answer'}"
                ) from error
            raise
        self._predecessor = channel
        self._taken = taken
        if self._address is not None:
            self._control = self._among_taken(control_name(self._address))
        return taken

    async def hold(self, purpose: str, address: SocketAddress | UnixAddress) -> HeldListener:
        """Listen at `address` for a `purpose` beside what is served; a successor takes that over, too.

        To be called between `take_over` and the opening of what was not taken. Raises `OSError`.
        Cancel safety: nothing is left open.
        """
        name = f"{purpose} {address}"
        listener = self._among_taken(name)
        if listener is None:
            listener = await HeldListener.open(address)
            listener.name = name
        self._beside.append(listener)
        return listener

    async def begin(
        self, listeners: HeldListeners, status: Callable[[], dict[str, Any]], end: Callable[[], object]
    ) -> None:
        """All is ready to serve `listeners`: take the predecessor's place, and open the control socket.

        `status` answers who asks there; `end` is called when a successor has taken this program's place.

        Raises `SuccessionError` if the predecessor goes on, `OSError` if the control socket cannot be opened.
        Cancel safety: as if the predecessor had said no.
        """
        self._listeners, self._status, self._end = listeners, status, end
        if self._predecessor is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await confirm(self._predecessor, claim)
            except TimeoutError as error:
                raise SuccessionError("the predecessor does not answer") from error
            self._predecessor.close()
            self._predecessor = None
        self._own_files(True)
        if self._address is not None:
            if self._control is None:
                self._control = await open_control(self._address)
            self._spawn(self._answer(self._control.sockets[0]))

    def _inherited(self) -> socket.socket | None:
        """Return the socket that a predecessor has started this process with."""
        number = os.environ.pop(_VARIABLE, "")
        if not (number.isascii() and number.isdigit()):
            return None
        fd = int(number)
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise SuccessionError(f"{_VARIABLE}={number}: {error.strerror}") from error
        if sock.family != socket.AF_UNIX or user_of(sock) != os.geteuid():
            sock.close()
            raise SuccessionError(f"{_VARIABLE}={number} is no socket of a predecessor's")
        return sock

    def _connected(self) -> socket.socket | None:
        """Return a connection to the control socket of the program to replace."""
        if not self._replace or self._address is None:
            return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_FIRST_WORD)
        try:
            sock.connect(self._address.sockaddr())
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            _log.warning("nobody to replace at %s: starting anew", self._address)
            return None
        except BaseException:
            sock.close()
            raise
        if user_of(sock) != os.geteuid():
            sock.close()
            raise SuccessionError(f"{self._address} belongs to another user")
        return sock

    def _among_taken(self, name: str) -> HeldListener | None:
        """Take a listener that is the program's own out of what was taken over."""
        for listener in self._taken:
            if listener.name == name:
                self._taken.remove(listener)
                return listener
        return None

    # As a predecessor ---------------------------------------------------------------------------------

    def restart(self, on_end: Callable[[], object] = lambda: None) -> None:
        """Run this program's command again, and hand over to it; log it if that comes to nothing.

        `on_end` is called when it is over.
        """
        if self._restarting:
            _log.warning("no restart: another one is under way")
            on_end()
        elif not self._closed:
            self._spawn(self._start_successor()).add_done_callback(lambda _: on_end())

    async def _start_successor(self) -> None:
        self._restarting = True
        try:
            await self._give_to_own_command()
        finally:
            self._restarting = False

    async def _give_to_own_command(self) -> None:
        try:
            with reserved():
                sock, process = self._run_command()
        except OSError as error:
            _log.error("no successor, going on: %s", error)
            return
        _log.info("process %d is to be the successor, in %s", process.pid, self.directory.name)
        channel = MessageChannel(sock)
        given = False
        try:
            given = await self._give(channel, process.pid)
        finally:
            channel.close()
            if given:
                process.returncode = 0  # it outlives us: `subprocess` is not to complain of it
            else:
                await see_through(_end(process))

    def _run_command(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        """Start a successor; return a connection to it, and its process. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        directory = self.directory.name
        environment = os.environ | {_VARIABLE: str(theirs.fileno())}
        if directory is not None:
            environment["PWD"] = directory
        environment.pop("WATCHDOG_PID", None)  # it names this process; the watchdog is the successor's, too
        try:
            with theirs:
                return ours, subprocess.Popen(
                    self._command, pass_fds=[theirs.fileno()], env=environment, cwd=directory
                )
        except BaseException:
            ours.close()
            raise

    def close(self) -> None:
        """This program ends: close the control socket, and end a successor that does not serve yet."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._predecessor is not None:
            self._predecessor.close()
        for listener in self._own():
            listener.close()

    async def aclose(self) -> None:
        """Close, and return when nothing is left. Cancel safety: it is closed then, too."""
        self.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _answer(self, listener: socket.socket) -> None:
        """Talk to whoever connects to the control socket."""
        listener.setblocking(False)
        while True:
            await until_readable(listener)
            try:
                with reserved():
                    sock, _ = listener.accept()
            except OSError:  # it has left again, or there is no descriptor for it
                await asyncio.sleep(0.1)
                continue
            user = user_of(sock)
            if user != os.geteuid() or len(self._tasks) > _MOST_TALKS:
                _log.warning("control socket: refused a process of user %d", user)
                sock.close()
            else:
                self._spawn(self._talk(MessageChannel(sock)))

    async def _talk(self, channel: MessageChannel) -> None:
        try:
            async with asyncio.timeout(_FIRST_WORD):
                message = await channel.receive()
            wanted = None if message is None else message.get("want")
            if wanted == "status":
                channel.send({"pid": os.getpid(), **self._status()})
            elif wanted == "listeners":
                await self._give(channel, process_of(channel.sock), asked=True)
            elif message is not None:
                channel.send({"abort": "expected a want of 'status' or 'listeners'"})
        except (OSError, TimeoutError) as error:
            _log.warning("control socket: %s", error or "no word came")
        finally:
            channel.close()

    async def _give(self, channel: MessageChannel, pid: int, *, asked: bool = False) -> bool:
        """Go through the exchange; if it ends well, this program has handed over, and begins to end.

        Returns whether it has ended well.
        """
        try:
            async with asyncio.timeout(self._timeout):
                if not asked:
                    await expect(channel, "want")
                send_listeners(channel, [*self._listeners, *self._own()])
                await expect(channel, "ready")
                async with self._handing_over:
                    await self._let_serve(channel)
        except BaseException as error:
            reason = "it was not ready in time" if isinstance(error, TimeoutError) else str(error) or "ending"
            abort(channel, reason)
            if not isinstance(error, OSError):
                raise
            _log.error("successor %d does not serve, going on: %s", pid, reason)
            return False
        self._end()
        _log.info("process %d has taken over", pid)
        self._on_handed_over(pid)
        return True

    async def _let_serve(self, channel: MessageChannel) -> None:
        """Let a successor that is ready serve. Raises `OSError` if it does not, or another one does."""
        if self.handed_over or self._closed:
            raise ConnectionError("another process has taken over")
        self._own_files(False)
        try:
            channel.send({"go": True})
            async with asyncio.timeout(_LAST_WORD):
                await expect(channel, "serving")
        except BaseException:
            self._own_files(True)
            raise
        self.handed_over = True

    def _own(self) -> list[HeldListener]:
        """What the program listens on for itself."""
        return [*self._beside, *([] if self._control is None else [self._control])]

    def _own_files(self, yes: bool) -> None:
        self._listeners.own_files(yes)
        for listener in self._own():
            listener.removes_file = yes

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End a successor that is not wanted, and wait for it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, _PATIENCE)
        except subprocess.TimeoutExpired:
            continue
        return
