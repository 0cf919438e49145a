"""Whether a relay's target is the relay itself, in which case each client would make a new one without end.

Theory of operation
-------------------
An address leads here if a listening socket of this program has its port, and its host or, where the socket is
one of every interface, any host of this machine. Which those are is asked of the routing: the kernel sends
from the very address that it sends to where that is its own.

A numeric target and a Unix path are known at the start. A name is resolved for each connection, so the
address that a connection has arrived at is looked at then. What cannot be seen from here is a loop through
another program, or through a rule of a firewall that sends packets back."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable

from ..addresses import IpAddress, SocketAddress, UnixAddress, unmapped
from .arguments import Address

__all__ = ["arrived_here", "leads_here"]


def leads_here(target: Address, listening: Iterable[Address]) -> Address | None:
    """Return which of `listening` the address `target` leads to, if any. A host's name is not looked up."""
    if isinstance(target, UnixAddress):
        return next((one for one in listening if _same_socket(target, one)), None)
    if target.host and target.ip is None:
        return None
    for ip in [unmapped(target.ip)] if target.ip else _LOOPBACK:
        if (found := arrived_here(SocketAddress(ip, target.port), _source_to(ip), listening)) is not None:
            return found
    return None


def arrived_here(
    peer: Address | None, local: SocketAddress | None, listening: Iterable[Address]
) -> Address | None:
    """Return which of `listening` a connection from `local` to `peer` has arrived at, if any."""
    if not isinstance(peer, SocketAddress) or peer.ip is None:
        return None
    ip = unmapped(peer.ip)
    is_here = ip.is_loopback or ip.is_unspecified
    if local is not None and local.ip is not None:
        is_here = is_here or unmapped(local.ip) == ip
    for one in listening:
        if not isinstance(one, SocketAddress) or one.port != peer.port or one.ip is None:
            continue
        own = unmapped(one.ip)
        if own == ip or (own.is_unspecified and own.version == ip.version and is_here):
            return one
        if ip.is_unspecified and ip.version == own.version and own.is_loopback:
            return one
    return None


_LOOPBACK: list[IpAddress] = [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")]


def _source_to(ip: IpAddress) -> SocketAddress | None:
    """Return the address that this machine sends from to `ip`; nothing is sent for that."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(ip), 9))
            return SocketAddress.from_sockaddr(sock.getsockname())
    except OSError:  # there is no way to it
        return None


def _same_socket(target: UnixAddress, one: Address) -> bool:
    if not isinstance(one, UnixAddress):
        return False
    if target.is_abstract or one.is_abstract:
        return target == one
    try:
        return os.path.samefile(target.path, one.path)
    except OSError:
        return False
