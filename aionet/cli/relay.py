"""``aionet relay LISTEN TARGET``: passes connections on to another address."""

from __future__ import annotations

import argparse
import asyncio
import functools
from typing import Any, Literal, TypeAlias

from ..announcing import Log
from ..errors import ConnectError, ConnectionLostError, ResolveError, TlsError
from ..proxy_protocol import ProxyHeader
from ..relaying import RelayReport, relay
from ..stream_socket import AsyncStreamSocket
from .arguments import Address, add_server_arguments, fill_in, listen_address, seconds, target_address
from .dialing import begin_tls, dial
from .failing import explain
from .observing import add_observing_arguments
from .serving import Announcer, run_server
from .tls_options import ClientTlsOptions, add_client_tls_arguments, add_server_tls_arguments, client_tls_from

__all__ = ["add_arguments", "run"]

_log = Log("aionet.relay")

_StreamSocket: TypeAlias = AsyncStreamSocket[Any]

_DEFAULT_TIMEOUT = 10.0
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
    add_server_arguments(parser, bind=False)
    add_server_tls_arguments(parser)
    add_client_tls_arguments(parser, _TARGET, "TARGET")
    add_observing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Relay until a signal."""
    tls = client_tls_from(args, _TARGET)
    if tls is not None:
        tls.name_for(args.target, _TARGET)
    announcer = Announcer(as_json=args.json)
    handler = functools.partial(
        _relay_to,
        target=args.target,
        tls=tls,
        timeout=args.timeout,
        proxy_version=_VERSIONS[args.send_proxy],
        announcer=announcer,
        accept_truncation=args.accept_truncation is not False,
    )
    return run_server(handler, [args.listen], args, announcer)


async def _relay_to(
    client: _StreamSocket,
    target: Address,
    timeout: float,
    proxy_version: Literal[1, 2] | None,
    announcer: Announcer,
    tls: ClientTlsOptions | None = None,
    accept_truncation: bool = True,
) -> None:
    """Serve one client."""
    started = asyncio.get_running_loop().time()
    name = str(client.peer_address)
    try:
        server = await dial(target, timeout)
        if proxy_version is not None:
            await _send_header(server, client, proxy_version)
        if tls is not None:  # which begins after the header
            await begin_tls(server, target, timeout, tls)
    except (ConnectError, ConnectionLostError, ResolveError, TlsError) as error:
        client.abort()
        _log.warning("%s: %s", name, explain(error))
        report = RelayReport(a_to_b=0, b_to_a=0, lost="b", error=None, undelivered=0)
        problem: str | None = explain(error)
    else:
        report = await relay(client, server, accept_truncation=accept_truncation)
        problem = explain(report.error) if report.error else None
        _log.debug("%s: %s", name, report)
    announcer.event(
        "closed",
        client=name,
        target=str(target),
        client_to_target=report.a_to_b,
        target_to_client=report.b_to_a,
        seconds=round(asyncio.get_running_loop().time() - started, 6),
        lost=_SIDES[report.lost],
        error=problem,
        undelivered=report.undelivered,
        truncated=[_SIDES[side] for side in report.truncated],
    )


async def _send_header(server: _StreamSocket, client: _StreamSocket, version: Literal[1, 2]) -> None:
    """Tell `server` who `client` is, before the first byte of its stream."""
    header = ProxyHeader.between(client.peer_address, client.local_address, version=version)
    try:
        await server.write(header.to_bytes())
    except BaseException:
        server.abort()
        raise
