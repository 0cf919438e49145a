"""Which connection a log record is about, without anybody having to pass it on.

Theory of operation
-------------------
`connection_id` is a context variable. A spawner that is given `connection_context` begins each connection's
task in a context in which it is set; the tasks and threads (`asyncio.to_thread`) that the handler starts
inherit it, and so does every library that it calls. A spawner that is not pays nothing, and the variable has
no value.

*One name.* The variable, the attribute of log records and the key of the access log are all `connection_id`.

A logging filter sees the variable of whoever logs. What the spawner says of a connection outside of its task
(that it was cut, for example) carries the id with the record, and the filter leaves that alone.
"""

from __future__ import annotations

import contextvars
import logging
from typing import Any

from ..connection import Connection

__all__ = ["ConnectionIdFilter", "connection_context", "connection_id"]

connection_id: contextvars.ContextVar[str] = contextvars.ContextVar("connection_id")
"""The id (`Connection.id`) of the connection that is being served here; it has no value where none is."""


def connection_context(connection: Connection[Any]) -> contextvars.Context:
    """Return a copy of the current context in which `connection_id` is set, for a spawner's `context`."""
    context = contextvars.copy_context()
    context.run(connection_id.set, connection.id)
    return context


class ConnectionIdFilter(logging.Filter):
    """Gives every record the attribute `connection_id`: ``"-"`` where no connection is being served.

    Add it to handlers, not to loggers: a logger's filters do not see what its children log. Then
    ``%(connection_id)s`` may stand in the handler's format.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attribute, unless the record brings it. Lets everything pass."""
        if not hasattr(record, "connection_id"):
            record.connection_id = connection_id.get("-")
        return True
