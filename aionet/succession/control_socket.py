"""The control socket: where a running program is asked how it is, and for its listening sockets.

Theory of operation
-------------------
*The control socket gives away the service*, so it is for this user alone, thrice: its file has mode 0600
from the first moment; whoever connects must have the same effective user id (SO_PEERCRED, unix(7)), which
holds also where the file's mode was changed; and a successor asks the same of the socket that it connects to,
since another user could have put one there. No descriptor is accepted from whoever connects, messages are
short, the first has to come within seconds, few may talk at a time, and only one is let go at a time.
Abstract names have no file, so no mode, and are refused.
"""

from __future__ import annotations

import os
import socket
import struct

from ..addresses import UnixAddress
from ..held_listeners import HeldListener

__all__ = ["control_address", "control_name", "open_control", "process_of", "user_of"]


def control_address(path: str | os.PathLike[str]) -> UnixAddress:
    """Return the address of the control socket at `path`. Raises `ValueError` if it can have no file."""
    address = UnixAddress(path)
    if address.is_abstract or not address.path:
        raise ValueError(f"the control socket needs a file, which {address} is not")
    return address


async def open_control(address: UnixAddress) -> HeldListener:
    """Listen at `address`, with mode 0600 from the beginning. Cancel safety: it does not wait."""
    mask = os.umask(0o177)
    try:
        control = await HeldListener.open(address)  # of a path: this does not wait
    finally:
        os.umask(mask)
    control.name = control_name(address)
    return control


def control_name(address: UnixAddress) -> str:
    """Return the name by which a successor knows its own control socket among what it takes over."""
    return f"control {os.path.abspath(address.path)}"


def _peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return process, user and group of who is connected (SO_PEERCRED)."""
    layout = struct.Struct("3i")
    process, user, group = layout.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size))
    return process, user, group


def user_of(sock: socket.socket) -> int:
    """Return the effective user id of who is connected."""
    return _peer(sock)[1]


def process_of(sock: socket.socket) -> int:
    """Return the process id of who is connected."""
    return _peer(sock)[0]
