"""``aionet relay LISTEN TARGET``: passes connections on to another address.

Theory of operation
-------------------
A client's own connection to the target is made first. If the client resets its connection meanwhile, that is
given up (`departures.py`): it would hold two descriptors until the target answers, or ``--timeout``.

*A relay to itself* (`own_addresses.py`) is refused at the start where the target says so, and otherwise for
the connection that has arrived here. Clients of the next second are refused as well, without a connection:
among them may be those that the relay has made itself."""

from __future__ import annotations

import argparse
import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..addresses import SocketAddress
from ..announcing import Log
from ..close_reason import CloseReason
from ..connection import Connection
from ..errors import ConnectError, ConnectionLostError, ResolveError, SocketClosedError, TlsError
from ..proxy_protocol import ProxyHeader
from ..relaying import RelayReport, relay
from ..stream_socket import AsyncStreamSocket
from .arguments import Address, add_server_arguments, fill_in, listen_address, seconds, target_address
from .combinations import check_combinations
from .departures import ClientLeft, Departures
from .dialing import begin_tls, dial
from .failing import CommandError, explain
from .observing import add_observing_arguments
from .own_addresses import arrived_here, leads_here
from .safe_limits import OF_RELAYS
from .serving import Announcer, run_server
from .tcp_options import RELAY_KEEPALIVE, add_tcp_arguments, tcp_options_from
from .tls_options import ClientTlsOptions, add_client_tls_arguments, add_server_tls_arguments, client_tls_from
from .write_stalls import WriteWatch

__all__ = ["add_arguments", "run"]

_log = Log("aionet.relay")

_StreamSocket: TypeAlias = AsyncStreamSocket[Any]

_DEFAULT_TIMEOUT = 10.0
_LOOP_PAUSE = 1.0  # seconds without a relayed connection after one that came back
_TARGET = "--target-"
_SIDES: dict[str | None, str | None] = {None: None, "a": "client", "b": "target"}
_VERSIONS: dict[str | None, Literal[1, 2] | None] = {None: None, "v1": 1, "v2": 2}

_EXAMPLES = """\
  aionet relay :8080 127.0.0.1:80             port 8080 of every interface leads to port 80
  aionet relay unix:/tmp/db.sock db.example:5432
  aionet relay :8080 10.0.0.5:80 --send-proxy tells 10.0.0.5 who the client is (PROXY protocol)
  aionet relay :443 127.0.0.1:80 --cert server.pem --key server.key
                                              ends TLS here
  aionet relay 127.0.0.1:8080 example.org:443 --target-tls
                                              begins TLS here
  aionet relay 127.0.0.1:0 unix:/run/app.sock --json
                                              prints the port that it got, and a line per connection
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the parser of ``relay``."""
    fill_in(parser, "Accept connections and pass each on to TARGET, both ways.", _EXAMPLES)
    parser.add_argument(
        "listen", type=listen_address, metavar="LISTEN", help="HOST:PORT, :PORT or unix:PATH to listen on"
    )
    parser.add_argument(
        "target", type=target_address, metavar="TARGET", help="HOST:PORT or unix:PATH to connect to"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=_DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help=f"how long connecting to TARGET may take (default: {_DEFAULT_TIMEOUT:g})",
    )
    parser.add_argument(
        "--send-proxy",
        nargs="?",
        choices=["v1", "v2"],
        const="v2",
        metavar="v1|v2",
        help="begin each connection to TARGET with a PROXY protocol header, which names the client;"
        " write it after LISTEN and TARGET (default: no header; v2 without a value)",
    )
    parser.add_argument(
        "--accept-truncation",
        action=argparse.BooleanOptionalAction,
        help="pass an end of a TLS stream without close_notify on as an end, though the other side cannot"
        " tell then whether the stream was cut off; with --no-accept-truncation that side is reset"
        " (default: --accept-truncation)",
    )
    add_server_arguments(parser, OF_RELAYS, bind=False)
    add_tcp_arguments(parser, keepalive=RELAY_KEEPALIVE)
    add_server_tls_arguments(parser)
    add_client_tls_arguments(parser, _TARGET, "TARGET")
    add_observing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Relay until a signal."""
    check_combinations(args, [args.listen, args.target])
    tls = client_tls_from(args, _TARGET)
    if tls is not None:
        tls.name_for(args.target, _TARGET)
    relaying = _Relaying(args, tls)
    on_close = relaying.on_close if args.json else None
    return run_server(relaying.serve, [args.listen], args, relaying.announcer, on_close, relaying.on_bound)


@dataclass
class _Passage:
    """One client's connection, as far as it has come."""

    client: str
    started: float
    server: _StreamSocket | None = None
    sent_before: int = 0
    """Bytes that were written to the target before the first one of the client's."""
    report: RelayReport | None = None
    """How it ended, if it was not cut."""
    lost: str | None = None
    problem: str | None = None


class _Relaying:
    """Serves clients, and announces the end of each.

    The spawner reports the ends, also those of connections that were cut.
    """

    def __init__(self, args: argparse.Namespace, tls: ClientTlsOptions | None) -> None:
        self._target: Address = args.target
        self._timeout: float = args.timeout
        self._proxy_version = _VERSIONS[args.send_proxy]
        self._write_stall_timeout: float | None = args.write_stall_timeout
        self._options = tcp_options_from(args)
        self._tls = tls
        self._accept_truncation: bool = args.accept_truncation is not False
        self.announcer = Announcer(as_json=args.json)
        self._follows: bool = args.json
        self._passages: dict[_StreamSocket, _Passage] = {}
        self._departures = Departures()
        self._listening: Sequence[Address] = ()
        self._loops_until = 0.0  # by the loop's clock

    async def serve(self, client: _StreamSocket) -> None:
        """Serve one client."""
        passage = _Passage(str(client.peer_address), asyncio.get_running_loop().time())
        if self._follows:
            self._passages[client] = passage
        try:
            passage.server = server = await self._departures.while_here(
                client, lambda: self._connected(client)
            )
        except ClientLeft:
            passage.lost, passage.problem = "client", f"it left before {self._target} answered"
            _log.debug("%s: %s", passage.client, passage.problem)
            await _find_lost(client)
            return
        except (ConnectError, ConnectionLostError, ResolveError, TlsError) as error:
            passage.lost, passage.problem = "target", explain(error)
            client.abort()
            _log.warning("%s: %s", passage.client, passage.problem, kind=type(error))
            return
        passage.sent_before = server.bytes_written
        try:
            async with WriteWatch(server, self._write_stall_timeout) as watch:
                report = passage.report = await relay(
                    client, server, accept_truncation=self._accept_truncation
                )
        except SocketClosedError:
            if not watch.stalled:
                raise
            passage.lost = "target"
            passage.problem = f"{self._target} took nothing for {self._write_stall_timeout:g} s"
            _log.warning("%s: %s", passage.client, passage.problem, kind="stalled")
            return
        passage.lost = _SIDES[report.lost]
        passage.problem = explain(report.error) if report.error else None
        _log.debug("%s: %s", passage.client, report)

    async def _connected(self, client: _StreamSocket) -> _StreamSocket:
        """Return a socket connected to the target, which expects the client's bytes."""
        self._refuse_if_leading_here(0.0)
        server = await dial(self._target, self._timeout, options=self._options)
        if arrived_here(server.peer_address, _internet(server.local_address), self._listening) is not None:
            server.abort()
            self._refuse_if_leading_here(_LOOP_PAUSE)
        if self._proxy_version is not None:
            await _send_header(server, client, self._proxy_version)
        if self._tls is not None:  # which begins after the header
            await begin_tls(server, self._target, self._timeout, self._tls)
        return server

    def on_bound(self, addresses: Sequence[Address]) -> None:
        """Refuse a target that is this relay. Raises `CommandError`."""
        self._listening = addresses
        if (own := leads_here(self._target, addresses)) is not None:
            raise CommandError(f"the target {self._target} is this relay, which listens on {own}")

    def _refuse_if_leading_here(self, seconds: float) -> None:
        """Raise `ConnectError` for `seconds` from now on, or for the rest of an earlier call's."""
        now = asyncio.get_running_loop().time()
        self._loops_until = max(self._loops_until, now + seconds)
        if now < self._loops_until:
            raise ConnectError(
                errno.ELOOP, "it leads back to this relay", operation="connect", peer_address=self._target
            )

    def on_close(self, connection: Connection[Any], reason: CloseReason) -> None:
        """Announce the end of a connection, unless it was turned away."""
        passage = self._passages.pop(connection.socket, None)
        if passage is None:
            if reason.cause.outcome == "rejected":
                return
            passage = _ended_before_its_handler(connection, reason)
        server, report = passage.server, passage.report
        sent = 0 if server is None else server.bytes_written - passage.sent_before
        self.announcer.event(
            "closed",
            client=passage.client,
            target=str(self._target),
            client_to_target=sent if report is None else report.a_to_b,
            target_to_client=reason.bytes_written if report is None else report.b_to_a,
            seconds=round(asyncio.get_running_loop().time() - passage.started, 6),
            lost=passage.lost,
            error=passage.problem,
            undelivered=0 if report is None else report.undelivered,
            truncated=[] if report is None else [_SIDES[side] for side in report.truncated],
            cause=str(reason.cause),
        )


def _internet(address: Address | None) -> SocketAddress | None:
    return address if isinstance(address, SocketAddress) else None


async def _find_lost(client: _StreamSocket) -> None:
    """Read from `client`, which has left, up to the error that says so, or the end."""
    try:
        while await client.read():
            pass
    except (ConnectionLostError, TlsError):
        pass


def _ended_before_its_handler(connection: Connection[Any], reason: CloseReason) -> _Passage:
    """Return the passage of a connection that was cut, or failed, in its handshake: TLS or PROXY protocol."""
    started = asyncio.get_running_loop().time() - reason.age
    problem = None if reason.tls_failure is None else str(reason.tls_failure)
    return _Passage(str(connection.socket.peer_address), started, problem=problem)


async def _send_header(server: _StreamSocket, client: _StreamSocket, version: Literal[1, 2]) -> None:
    """Tell `server` who `client` is, before the first byte of its stream."""
    header = ProxyHeader.between(client.peer_address, client.local_address, version=version)
    try:
        await server.write(header.to_bytes())
    except BaseException:
        server.abort()
        raise
