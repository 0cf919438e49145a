"""What commands that serve take and do for those who want to see inside: the log, the access log, metrics.

Theory of operation
-------------------
The log goes to standard error and shows of which connection each record is. The access log is another thing:
off unless asked for, not subject to ``--log-level``, and on a handler of its own, so that it can go to a file
and its JSON stands alone on its lines. The file is opened again when somebody has moved it away, as logrotate
does.

*Neither may disturb the server.* What of the log cannot be written is lost in silence: it goes to standard
error, where the complaint would go, too. The access log's file gets one line on standard error when it cannot
be written, and one a minute while that lasts.
"""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

from ..addresses import SocketAddress
from ..held_listeners import server_on
from ..observing import AccessLog, ConnectionIdFilter, LoopLag
from ..open_files import reserved
from ..spawner import ConnectionSpawner
from ..stream_server import AsyncStreamConnectionServer
from ..succession.hot_restart import Succession
from .arguments import Address, file_path, listen_address
from .failing import CommandError, complain, explain_any

__all__ = ["access_log", "add_observing_arguments", "metrics_of", "metrics_server", "set_up_logging"]

_LOG_FORMAT = "%(asctime)s [%(connection_id)s] %(levelname)s %(name)s: %(message)s"
_ACCESS_FORMATS = {"text": "%(asctime)s %(message)s", "json": "%(message)s"}


def add_observing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--access-log``, ``--access-log-file`` and ``--metrics``."""
    parser.add_argument(
        "--access-log",
        choices=["text", "json", "off"],
        help="log a line for every connection that ends; off also where there is an --access-log-file"
        " (default: off)",
    )
    parser.add_argument(
        "--access-log-file",
        type=file_path,
        metavar="PATH",
        help="where to, in place of standard error; by itself it stands for --access-log text, too",
    )
    parser.add_argument(
        "--metrics",
        type=_metrics_address,
        metavar="ADDRESS",
        help="serve Prometheus metrics at http://ADDRESS/metrics; :PORT is one of 127.0.0.1 (default: off)",
    )


def _metrics_address(text: str) -> Address:
    address = listen_address(text)
    try:
        from ..observing import metrics  # noqa: F401
    except ImportError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return address


def set_up_logging(args: argparse.Namespace) -> None:
    """Log to standard error what ``--log-level`` asks for."""
    handlers = [_StandardErrorHandler(sys.stderr)]
    logging.basicConfig(level=args.log_level.upper(), format=_LOG_FORMAT, handlers=handlers)
    for handler in logging.getLogger().handlers:
        handler.addFilter(ConnectionIdFilter())


def access_log(args: argparse.Namespace) -> AccessLog | None:
    """Return the access log that was asked for, which writes from now on.

    Raises `CommandError` if its file cannot be opened.
    """
    format: Literal["text", "json", "off"] = args.access_log or ("text" if args.access_log_file else "off")
    if format == "off":
        return None
    handler = _access_handler(args.access_log_file)
    handler.setFormatter(logging.Formatter(_ACCESS_FORMATS[format]))
    logger = logging.getLogger("aionet.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return AccessLog(format, logger=logger)


def _access_handler(path: str | None) -> logging.Handler:
    if path is None:
        return _StandardErrorHandler(sys.stderr)
    try:
        return _AccessFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write the access log to {path}: {error.strerror}") from error


class _StandardErrorHandler(logging.StreamHandler[Any]):
    """Loses what cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as logging calls it
        """Show the traceback of a record that is wrong, as `logging` does; not that of a broken stream."""
        closed = sys.stderr is None or sys.stderr.closed  # by the user's module
        if not closed and not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _AccessFileHandler(logging.handlers.WatchedFileHandler):
    """Loses what cannot be written, and says so now and then."""

    _every = 60.0  # seconds
    _next_complaint = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record`; the base class lets out what opening a file again raises."""
        try:
            super().emit(record)
        except Exception:
            self.handleError(record)

    def _open(self) -> Any:
        """Open the file, also where clients hold all descriptors."""
        with reserved():
            return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as logging calls it
        """Complain, unless that was done a moment ago."""
        now, error = time.monotonic(), sys.exception()
        if now >= self._next_complaint and isinstance(error, Exception):
            self._next_complaint = now + self._every
            complain(f"cannot write the access log to {self.baseFilename}: {explain_any(error)}")


async def metrics_server(
    stack: AsyncExitStack, succession: Succession, args: argparse.Namespace
) -> AsyncStreamConnectionServer[Any, Any] | None:
    """Return the server for metrics, if they were asked for; it goes to a successor as the others do.

    It is closed with `stack`. Raises `OSError`.
    Cancel safety: nothing is left open that `stack` does not close.
    """
    if getattr(args, "metrics", None) is None:
        return None
    listener = await succession.hold("metrics", _on_loopback(args.metrics))
    return await stack.enter_async_context(server_on(listener.sockets[0]))


def _on_loopback(address: Address) -> Address:
    """Return where metrics are served: a port alone is one of 127.0.0.1."""
    if isinstance(address, SocketAddress) and not address.host:
        return SocketAddress("127.0.0.1", address.port)
    return address


@asynccontextmanager
async def metrics_of(
    spawner: ConnectionSpawner[Any], server: AsyncStreamConnectionServer[Any, Any]
) -> AsyncIterator[None]:
    """Serve the metrics of `spawner` from `server` while the context lasts.

    Cancel safety: nothing is left open.
    """
    from ..observing.metrics import SpawnerCollector
    from ..observing.metrics_endpoint import serve_metrics

    with LoopLag() as lag:
        async with serve_metrics(server, SpawnerCollector(spawner, loop_lag=lag)):
            yield
