"""Process 1, as the command of a container is: what the kernel asks of it, left to a process of its own.

Theory of operation
-------------------
The kernel drops a signal to process 1 that has no handler yet, so a SIGTERM that comes while modules are
imported would be lost. It makes process 1 the parent of every orphan, which stays a zombie until it is waited
for; and waiting for all children would take their exit statuses from `subprocess`. And when process 1 ends
everything in the container is killed, the successor of a restart included.

So process 1 forks at once. The child is the server. The parent passes signals on, waits for whatever ends,
and exits as the server does. All signals are blocked in it, which keeps them from being dropped, and are
taken by sigwaitinfo(2). It says where a signal is from: those of a terminal (``SI_KERNEL``) have reached the
whole group already.

*A successor* says that it is a server, too, by a signal (`claim`): a real-time one, which carries the number
of its process. Signals go to the last one that lives, and the end of the last one is the end of process 1.

A claim is sent before the predecessor ends, but has a higher number than other signals, which sigwaitinfo(2)
takes first. So claims are looked for before anything is done about another signal. And a successor that
claims after a signal that ends servers gets that signal, too: its predecessor had handed over by then.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

__all__ = ["claim", "leave_to_a_child"]

_VARIABLE = "AIONET_FIRST_PROCESS"  # set in the server and its successors
_CLAIM = getattr(signal, "SIGRTMIN", None)
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT}
_SI_KERNEL = 0x80  # sigaction(2)


def leave_to_a_child() -> int | None:
    """Fork if this is process 1: ``None`` in the child, and elsewhere; in process 1 the child's exit code.

    It is the server's exit code, where another process has claimed to be that; returns when that has ended.
    """
    if os.getpid() != 1 or _CLAIM is None:
        return None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ[_VARIABLE] = "1"
        return None
    return _wait(child)


def claim() -> None:
    """Have this process be the server to process 1 from now on, if that is one of this module's."""
    if _CLAIM is not None and _VARIABLE in os.environ:
        try:
            os.kill(1, _CLAIM)
        except OSError:  # it is another user's
            pass


def _wait(server: int) -> int:
    """Return the exit code of `server`, or of the last of those that take its place."""
    servers = [server]
    ending = 0
    while True:
        info = signal.sigwaitinfo(signal.valid_signals())
        for claimer in _claimers(info):
            servers.append(claimer)
            if ending:
                _pass_on(ending, servers)
        if info.si_signo == signal.SIGCHLD:
            code = _bury(servers)
            if code is not None:
                return code
        elif info.si_signo != _CLAIM and info.si_code != _SI_KERNEL:
            _pass_on(info.si_signo, servers)
            if info.si_signo in _ENDING:
                ending = info.si_signo


def _claimers(info: signal.struct_siginfo) -> Iterator[int]:
    """The processes that have claimed by now, in `info` and after it."""
    assert _CLAIM is not None
    claim = info if info.si_signo == _CLAIM else signal.sigtimedwait({_CLAIM}, 0)
    while claim is not None:
        yield claim.si_pid
        claim = signal.sigtimedwait({_CLAIM}, 0)


def _pass_on(number: int, servers: list[int]) -> None:
    """Send a signal to the last of `servers`, and forget those that have ended elsewhere."""
    while servers:
        try:
            return os.kill(servers[-1], number)
        except ProcessLookupError:
            servers.pop()


def _bury(servers: list[int]) -> int | None:
    """Wait for all children that have ended; return the exit code of the last of `servers` to end."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1  # the last server was another process's child
        if pid == 0:
            return None
        if pid in servers:
            servers.remove(pid)
            _pass_on(0, servers)
            if not servers:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
