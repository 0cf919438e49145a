"""``aionet connect``: standard input to a socket, the socket to standard output, like ``nc -N``.

Theory of operation
-------------------
Two tasks, each of which reads a chunk, writes it, and only then reads the next. The end of standard input
becomes a half-close, and what the peer still sends is printed.

*The end of the peer's stream* does not say that it has stopped reading. So standard input is sent to its end,
or until the connection is lost. A terminal has no end of its own: there the conversation is over when the
peer has ended, and only what has been typed by then is sent.

*Delivered* is what the peer's TCP has acknowledged: a peer that has closed answers what comes then with a
reset, which may arrive after the last write. Once the peer has ended there is no other sign of it, so every
write is followed by a wait for its acknowledgement, and so is the end. A Unix socket delivers at once, to the
peer's receive queue. A peer that closes with bytes left in it makes the next write fail, and leaves an error
in the socket (ECONNRESET), which is looked for after each write and after the end. A peer that closes later
than that, or continues to exist without reading, cannot be told from one that reads.

*Ctrl-C* cancels the one task that owns all the others. It goes through the loop's own signal handling: that
of `asyncio.Runner` does not wake a loop that is just about to wait, and the signal is then seen at the next
event only.

*A lost connection* is told after the last bytes before it were written: the sending task, which may notice
first, leaves it to the receiving one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import Any

from ..errors import ConnectError, ConnectionLostError, ResolveError, TlsError
from ..options import TcpOptions
from ..running import loop_factory
from ..stream_socket import AsyncStreamSocket
from ..tcp_socket import AsyncTcpSocket
from .arguments import Address, add_loop_argument, fill_in, seconds, target_address
from .combinations import check_combinations
from .dialing import dial
from .failing import CommandError, explain
from .standard_streams import StandardInput, StandardOutput
from .tcp_options import add_tcp_arguments, tcp_options_from
from .tls_options import ClientTlsOptions, add_client_tls_arguments, client_tls_from

__all__ = ["add_arguments", "run"]

_CHUNK = 256 * 1024

_EXAMPLES = """\
  aionet connect 127.0.0.1:3000               talk to it; Ctrl-D ends your side
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | aionet connect example.org:80
  aionet connect '[::1]:3000' < file > reply
  aionet connect unix:/run/app.sock --timeout 2
  aionet connect example.org:443 --tls
  aionet connect 127.0.0.1:3000 --tls --ca ca.pem --server-hostname localhost
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill in the parser of ``connect``."""
    description = (
        "Send standard input to a socket, write what comes to standard output. The exit code is 1 if the"
        " connection was lost before everything had been delivered."
    )
    fill_in(parser, description, _EXAMPLES)
    parser.add_argument("address", type=target_address, metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="how long connecting may take (default: as long as the system tries)",
    )
    add_loop_argument(parser)
    add_tcp_arguments(parser)
    add_client_tls_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Connect, and copy until the peer has ended."""
    check_combinations(args, [args.address])
    tls = client_tls_from(args)
    if tls is not None:
        tls.name_for(args.address)
    try:
        with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
            runner.run(_connect(args.address, args.timeout, tls, tcp_options_from(args)))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (ConnectError, ResolveError, ConnectionLostError, TlsError) as error:
        raise CommandError(explain(error)) from error
    return 0


async def _connect(
    address: Address, timeout: float | None, tls: ClientTlsOptions | None, options: TcpOptions | None
) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    async with await dial(address, timeout, tls, options) as connection:
        with StandardInput() as standard_input, StandardOutput() as standard_output:
            conversation = _Conversation(connection, standard_input, standard_output)
            try:
                async with asyncio.TaskGroup() as tasks:
                    sending = tasks.create_task(conversation.send())
                    tasks.create_task(conversation.receive())
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
        lost = sending.result()
        if lost is not None:
            raise lost


class _Conversation:
    """Both directions of one connection."""

    def __init__(
        self,
        connection: AsyncStreamSocket[Any],
        standard_input: StandardInput,
        standard_output: StandardOutput,
    ) -> None:
        self._socket = connection
        self._input = standard_input
        self._output = standard_output
        self._peer_ended = False

    async def send(self) -> ConnectionLostError | TlsError | None:
        """Send standard input to its end; return how the connection was lost, if it was."""
        try:
            while data := await self._input.read():
                await self._socket.write(data)
                if self._peer_ended:
                    await self._until_delivered()
            if data is not None:
                await self._socket.send_eof()
            await self._until_delivered()
        except (ConnectionLostError, TlsError) as error:
            return error
        return None

    async def receive(self) -> None:
        """Write what comes until the peer has ended."""
        while data := await self._socket.read(_CHUNK):
            await self._output.write(data)
        self._peer_ended = True
        if self._input.is_terminal:
            self._input.stop_waiting()
        await self._until_delivered()  # of what was written before the end was seen

    async def _until_delivered(self) -> None:
        if isinstance(self._socket, AsyncTcpSocket):
            with suppress(NotImplementedError):  # not Linux: the kernel does not say
                await self._socket.wait_acknowledged()
        elif number := self._socket.raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            where = self._socket.peer_address
            raise ConnectionLostError(number, os.strerror(number), operation="connect", peer_address=where)
