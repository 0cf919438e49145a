"""Errors of the user's making: one line on standard error, and an exit code.

A traceback is for bugs, ours or those in a module that the user asked for. Everything else that can go wrong
is said in one line that names what was tried.
"""

from __future__ import annotations

import re

from ..announcing import say
from ..errors import ConnectError, ConnectionLostError, TlsError, TlsTruncatedError

__all__ = ["CommandError", "complain", "explain", "explain_any"]


_UNPRINTABLE = re.compile(r"[^ -~]")  # or perhaps printable, but not ASCII


class CommandError(Exception):
    """Ends the command with exit code 1; the message is what the user reads."""


def explain(error: OSError) -> str:
    """Return `error` as a person would say it, without errno and class."""
    what = error.strerror or str(error)
    if isinstance(error, ConnectError):
        return f"cannot connect to {error.peer_address}: {what}"
    if isinstance(error, TlsTruncatedError):
        return f"what {error.peer_address} sent was cut short: it ended without close_notify"
    if isinstance(error, TlsError):
        return f"TLS with {error.peer_address} failed: {', '.join(map(str, error.args))}"
    if isinstance(error, ConnectionLostError):
        return f"the connection to {error.peer_address} was lost: {what}"
    return what


def explain_any(error: Exception) -> str:
    """Return any `error` as one line."""
    return explain(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def complain(message: str) -> None:
    """Write one line to standard error: something is wrong. Raises nothing.

    What a terminal would not print as one line, a path with a newline for instance, is escaped.
    """
    say(f"aionet: {_UNPRINTABLE.sub(_escaped, message)}")


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else found[0].encode("unicode_escape").decode()
