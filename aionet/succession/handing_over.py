"""What a predecessor and its successor say to each other while the listening sockets change hands.

Theory of operation
-------------------
Both ends talk over a Unix socket (`message_channel.py`), and never over anything else:

    successor                       predecessor
    {"want": "listeners"}     ->
                              <-    {"listener": …} with descriptors, {"all": true} after the last
    {"ready": true}           ->                                 it could serve
                              <-    {"go": true}                 from here on both may accept
    {"serving": true}         ->                                 the predecessor drains

Connections queue in the kernel all the while, in the same sockets, so none is refused. The predecessor goes
on, and kills a successor that it has started itself, if the other end closes or is late before its last word:
``{"abort": why}``. A successor that hears of an abort ends. One whose predecessor ends without a word (it was
killed) goes on: somebody has to.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..announcing import Log
from ..errors import SuccessionError
from ..held_listeners import HeldListener
from ..listening import adopt_listener
from ..message_channel import MessageChannel
from ..socket_file import SocketFile

__all__ = ["abort", "confirm", "expect", "send_listeners", "take_listeners"]

_log = Log("aionet.workers")

_MOST_DESCRIPTORS = 250  # of one message; the kernel allows 253
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def send_listeners(channel: MessageChannel, listeners: Iterable[HeldListener]) -> None:
    """Send copies of all `listeners`. Raises `ConnectionError`."""
    for number, listener in enumerate(listeners):
        for shares in _portions(listener.shares):
            message = {
                "listener": number,
                "name": listener.name,
                "identity": listener.file and (listener.file.device, listener.file.inode),
                "path": listener.file and listener.file.path,
                "shares": [len(share) for share in shares],
            }
            channel.send(message, [sock.fileno() for share in shares for sock in share])
    channel.send({"all": True})


def _portions(shares: Sequence[Sequence[socket.socket]]) -> Iterator[Sequence[Sequence[socket.socket]]]:
    """Yield `shares` in portions that a message can carry: few messages, so that they fit into the buffer."""
    per_message = max(_MOST_DESCRIPTORS // max(map(len, shares), default=1), 1)
    for first in range(0, len(shares), per_message):
        yield shares[first : first + per_message]


async def take_listeners(channel: MessageChannel) -> list[HeldListener]:
    """Ask for all listeners. Raises `ConnectionError`. Cancel safety: as then, nothing is left open."""
    channel.send({"want": "listeners"})
    found: dict[int, HeldListener] = {}
    try:
        while True:
            message = await channel.receive(most_descriptors=_MOST_DESCRIPTORS)
            if message is None or "abort" in message:
                raise ConnectionError((message or {}).get("abort", "it has ended"))
            if "all" in message:
                return list(found.values())
            try:
                _take_listener(message, channel, found)
            except (KeyError, TypeError, ValueError) as error:
                raise ConnectionError(f"it said {message} in place of a listener") from error
    except BaseException:
        for listener in found.values():
            listener.close()
        raise


def _take_listener(
    message: Mapping[str, Any], channel: MessageChannel, found: dict[int, HeldListener]
) -> None:
    """Put what came with `message` into `found`. For nonsense it raises what its parts raise."""
    path, identity = message.get("path"), message["identity"]
    file = SocketFile(path, *identity) if path and identity else None
    listener = HeldListener(message["name"], [], file)
    listener = found.setdefault(message["listener"], listener)
    listener.removes_file = False
    received = (adopt_listener(fd, _FAMILIES) for fd in channel.take_descriptors())
    listener.shares.extend([*itertools.islice(received, length)] for length in message["shares"])


async def confirm(channel: MessageChannel, on_go: Callable[[], object] = lambda: None) -> None:
    """Say that this program is ready, and return when it is to serve. Raises `SuccessionError` if not.

    `on_go` is called before the predecessor drains.

    Cancel safety: the predecessor finds the channel closed, and goes on.
    """
    try:
        channel.send({"ready": True})
        message = await channel.receive()
        if message is not None and "go" in message:
            on_go()
            channel.send({"serving": True})
    except ConnectionError:  # it has gone; perhaps it left a last word
        message = await channel.receive()
    if message is not None and "abort" in message:
        raise SuccessionError(f"the predecessor goes on: {message['abort']}")
    if message is None:
        _log.warning("the predecessor ended without a word: serving in its place")


async def expect(channel: MessageChannel, word: str) -> None:
    """Receive a message that has `word` in it. Raises `ConnectionError`. Cancel safety: nothing is lost."""
    message = await channel.receive()
    if message is None:
        raise ConnectionError(f"it ended before it was {word}")
    if word not in message:
        raise ConnectionError(f"it said {message} in place of {word!r}")


def abort(channel: MessageChannel, reason: str) -> None:
    """Say that nothing comes of it, if anybody still listens."""
    try:
        channel.send({"abort": reason})
    except OSError:
        pass
