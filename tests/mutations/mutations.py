"""Faults that the suite must catch: each takes one guarantee away.

A mutation names the text that it replaces, not its place. The text has to be in exactly one file of
`aionet/`, so a mutation survives a move, and is reported where what it mutates was written again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """One fault: every `old` of `changes` becomes its `new`."""

    name: str
    breaks: str
    """The guarantee that is gone."""
    changes: tuple[tuple[str, str], ...]
    engine: Literal["portable", "native"] = "portable"
    """The engine that runs it."""
    first: tuple[str, ...] = ()
    """Directories or files of tests that are run before all others: where it is expected to be caught."""


MUTATIONS = (
    Mutation(
        "lost-bytes",
        "A read that is cancelled loses no byte: what came stays in the socket's buffer.",
        (
            (
                "            self._keep(buffered, whole.getbuffer())\n            raise\n",
                "            raise\n",
            ),
        ),
        first=("conformance/test_buffered_reads.py",),
    ),
    Mutation(
        "stale-reader",
        "A read that was cancelled is not registered: the next one does not find the socket busy.",
        (
            (
                "                self._reading = False\n                self._read_waiter = None\n",
                "                self._read_waiter = None\n",
            ),
        ),
        first=("conformance/test_reading.py",),
    ),
    Mutation(
        "stale-reader-native",
        "The same on the compiled engine.",
        (
            (
                "        stream_clear_reader(operation->stream, operation);\n    Py_DECREF(operation);\n",
                "        (void)0;\n    Py_DECREF(operation);\n",
            ),
        ),
        engine="native",
        first=("conformance/test_reading.py",),
    ),
    Mutation(
        "overtaking-writes",
        "Writes that wait go in the order of their calls.",
        (
            (
                "        self._entries[entry] = left = entry.remaining\n",
                "        self._entries[entry] = left = entry.remaining\n"
                "        if len(self._entries) > 2:\n"
                "            second = list(self._entries)[1]\n"
                "            self._entries.move_to_end(second)\n",
            ),
        ),
        first=("conformance/test_writing.py", "conformance/test_send_file.py"),
    ),
    Mutation(
        "clean-end-after-a-torn-write",
        "A stream that lost a part of a write ends in a reset, not in a FIN.",
        (
            (
                "            self.broken = True\n            self._hold(bool(self._entries), True)\n",
                "            pass\n",
            ),
        ),
        first=("conformance/test_losing.py",),
    ),
    Mutation(
        "sleeping-reader",
        "Closing a socket ends the read that waits for it.",
        (
            (
                "        self._wake_reader()\n        self._wake_acknowledgement_waits()\n",
                "        self._wake_acknowledgement_waits()\n",
            ),
        ),
        first=("conformance/test_closing.py",),
    ),
    Mutation(
        "one-connection-too-many",
        "max_connections is exact.",
        (
            (
                "        if len(self._connections) == self._limits.max_connections:\n",
                "        if len(self._connections) - 1 == self._limits.max_connections:\n",
            ),
        ),
        first=("spawner/test_overload.py", "spawner/test_draining.py"),
    ),
    Mutation(
        "lost-wake-up",
        "An accept that is cancelled hands its wake-up on to the next one.",
        (
            (
                "                if self._any_ready():\n                    self._wake_next()\n",
                "",
            ),
        ),
        first=("server/test_accepting.py",),
    ),
    Mutation(
        "truncated-tls",
        "Over TLS, an end without close_notify is an error.",
        (("        elif self._accept_truncation:\n", "        elif True:\n"),),
        first=("tls/test_closing_tls.py",),
    ),
    Mutation(
        "no-grace",
        "A drain lets handlers finish within the grace.",
        (
            (
                "            await self._wait(partial(self._grace_limit, 0.0))\n",
                "",
            ),
        ),
        first=("spawner/test_draining.py",),
    ),
    Mutation(
        "no-turns",
        "A socket that is always ready lets other tasks run.",
        (("BUDGET = 64\n", "BUDGET = 1 << 24\n"), ("TURN_BYTES = 2 << 20\n", "TURN_BYTES = 1 << 30\n")),
        first=("tasks/test_fairness.py",),
    ),
    Mutation(
        "no-deadline",
        "A connection that is idle for longer than idle_timeout is cut.",
        (
            (
                "            yield moved_at + limits.idle_timeout, CloseCause.IDLE\n",
                "            yield now + limits.idle_timeout, CloseCause.IDLE\n",
            ),
        ),
        first=("spawner/test_deadlines.py", "spawner/test_mass_events.py"),
    ),
)
