"""Peers: which addresses count as one, and what of each is there.

Theory of operation
-------------------
A peer is an IPv4 address, or the /64 network of an IPv6 address, because whatever has one address of that
network has all of them. An IPv4 address in IPv6 notation is the IPv4 address. Unix sockets have no such
address: each connection is a peer of its own.

`PeerGroups` keeps members by peer, and peers by the number of their members. So the size of a peer, and the
oldest member of the peer with the most, are look-ups, however many there are. Peers without members take no
memory.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Generic, TypeVar

from .addresses import SocketAddress, unmapped

__all__ = ["PeerGroups", "peer_of"]

T = TypeVar("T", bound=Hashable)


def peer_of(address: object) -> Hashable | None:
    """Return what `address` counts as; ``None`` where it has no IP address."""
    return _peer_of_host(address.host) if isinstance(address, SocketAddress) else None


@lru_cache(1024)
def _peer_of_host(host: str) -> Hashable | None:
    ip = SocketAddress(host, 0).ip
    own = None if ip is None else unmapped(ip)
    return int(own) >> 64 if isinstance(own, IPv6Address) else own


class PeerGroups(Generic[T]):
    """Members of peers, each since some time; they are added in the order of these times."""

    def __init__(self) -> None:
        self._peer_of: dict[T, Hashable] = {}
        self._members: dict[Hashable, dict[T, float]] = {}  # of each peer, the oldest first
        self._by_size: dict[int, dict[Hashable, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return len(self._peer_of)

    def size(self, peer: Hashable) -> int:
        """How many members `peer` has."""
        return len(self._members.get(peer, ()))

    def add(self, member: T, peer: Hashable, since: float) -> None:
        """`member`, which is new, is one of `peer`."""
        self._peer_of[member] = peer
        members = self._members.setdefault(peer, {})
        members[member] = since
        self._move(peer, len(members) - 1, len(members))

    def discard(self, member: T) -> bool:
        """`member` has gone; whether it was there."""
        if member not in self._peer_of:
            return False
        peer = self._peer_of.pop(member)
        members = self._members[peer]
        del members[member]
        self._move(peer, len(members) + 1, len(members))
        if not members:
            del self._members[peer]
        return True

    def oldest_of_largest(self) -> tuple[T, float] | None:
        """Return the oldest member of the peer with the most, and since when it is there."""
        if not self._largest:
            return None
        peer = next(iter(self._by_size[self._largest]))
        return next(iter(self._members[peer].items()))

    def _move(self, peer: Hashable, old: int, new: int) -> None:
        if old:
            del self._by_size[old][peer]
            if not self._by_size[old]:
                del self._by_size[old]
        if new:
            self._by_size.setdefault(new, {})[peer] = None
        if new > self._largest or (old == self._largest and old not in self._by_size):
            self._largest = new
