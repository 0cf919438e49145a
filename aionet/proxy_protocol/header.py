"""`ProxyHeader`: what a proxy says of the connection that it passes on.

Theory of operation
-------------------
A header is a plain value, whichever version it was or will be written in. It cannot be made with parts that
contradict each other or that no version can express, so that whoever holds one may write it, and its
properties never raise.

Two things of the binary format are not kept: padding (NOOP), and the checksum, which belongs to the bytes of
one header and not to what it says. `to_bytes` adds one where it is asked to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from ..addresses import SocketAddress, UnixAddress
from .building import build_binary, build_line
from .layout import LONGEST_BLOCK, LONGEST_UNIQUE_ID, TlvType
from .tls_details import ProxyTls, text_of

__all__ = ["ProxyHeader"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """A PROXY protocol header (proxy-protocol.txt of HAProxy, versions 1 and 2). Frozen and hashable.

    Raises `ValueError` where the parts do not go together: addresses of two families, a name in place of an
    IP address, TLVs or Unix addresses in version 1, TLVs or addresses with ``"local"``, or a TLV that is not
    what its type promises. `TypeError` for wrong types.
    """

    version: Literal[1, 2] = 2
    command: Literal["proxy", "local"] = "proxy"
    """``"local"``: the proxy speaks for itself, as for a health check, and the real ends are the ends."""
    source: SocketAddress | UnixAddress | None = None
    """Where the client connected from; ``None`` where the proxy does not tell."""
    destination: SocketAddress | UnixAddress | None = None
    """Where the client connected to; ``None`` where the proxy does not tell."""
    transport: Literal["stream", "datagram"] = "stream"
    """What the addresses are of."""
    tlvs: tuple[tuple[int, bytes], ...] = ()
    """Type and value of each TLV, in order, less checksum and padding. Version 1 has none."""

    def __post_init__(self) -> None:
        _check_kind(self)
        _check_addresses(self.source, self.destination)
        _check_tlvs(self.tlvs)
        self._read_known_tlvs()

    @classmethod
    def between(
        cls,
        source: SocketAddress | UnixAddress | None,
        destination: SocketAddress | UnixAddress | None,
        *,
        version: Literal[1, 2] = 2,
    ) -> Self:
        """Return the header for a connection with these ends, as far as `version` can tell of them.

        What it cannot express becomes a header without addresses: ends that are unknown or of two families,
        and Unix addresses in version 1.
        """
        try:
            return cls(version=version, source=source, destination=destination)
        except ValueError:
            return cls(version=version)

    def to_bytes(self, *, checksum: bool = False) -> bytes:
        """Return the header as it is sent, before the first byte of the connection.

        The scope of an IPv6 address does not travel: it means something on one host only.

        Args:
            checksum: add a CRC32c, which the receiver has to verify.

        Raises `ValueError` where the TLVs are too long for a header, or a checksum is asked of version 1.
        """
        if self.version == 2:
            return build_binary(self, checksum=checksum)
        if checksum:
            raise ValueError("version 1 of the PROXY protocol has no checksum")
        return build_line(self)

    # TLVs ---------------------------------------------------------------------------------------------

    def tlv(self, kind: int) -> bytes | None:
        """Return the value of the first TLV of type `kind`; ``None`` if there is none."""
        return next((value for found, value in self.tlvs if found == kind), None)

    @property
    def alpn(self) -> bytes | None:
        """The application protocol that the client negotiated, as in ``b"h2"``."""
        return self.tlv(TlvType.ALPN)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for: with TLS its SNI. The client chose it."""
        return text_of(self.tlv(TlvType.AUTHORITY), "utf-8", "authority")

    @property
    def unique_id(self) -> bytes | None:
        """What identifies the connection across proxies; 128 bytes at the most."""
        return self.tlv(TlvType.UNIQUE_ID)

    @property
    def tls(self) -> ProxyTls | None:
        """How the client's connection to the proxy was secured; ``None`` where the proxy does not tell."""
        value = self.tlv(TlvType.SSL)
        return None if value is None else ProxyTls.parse(value)

    @property
    def netns(self) -> str | None:
        """The name of the network namespace that the proxy accepted the client in."""
        return text_of(self.tlv(TlvType.NETNS), "ascii", "network namespace")

    def _read_known_tlvs(self) -> None:
        """Let what a property could not read be refused now, and not in a handler."""
        if self.tlvs:
            _ = self.authority, self.tls, self.netns
            unique_id = self.unique_id
            if unique_id is not None and len(unique_id) > LONGEST_UNIQUE_ID:
                raise ValueError(f"unique id of {len(unique_id)} bytes: expected {LONGEST_UNIQUE_ID} at most")


def _check_kind(header: ProxyHeader) -> None:
    if header.version not in (1, 2):
        raise ValueError(f"version {header.version!r}: expected 1 or 2")
    if header.command not in ("proxy", "local"):
        raise ValueError(f"command {header.command!r}: expected 'proxy' or 'local'")
    if header.transport not in ("stream", "datagram"):
        raise ValueError(f"transport {header.transport!r}: expected 'stream' or 'datagram'")
    if header.transport == "datagram" and header.source is None:
        raise ValueError("transport 'datagram' says nothing without addresses")
    if header.command == "local" and (header.source or header.destination or header.tlvs):
        raise ValueError("the command 'local' goes with neither addresses nor TLVs")
    if header.version == 1:
        _check_version_1(header)


def _check_version_1(header: ProxyHeader) -> None:
    if header.command == "local":
        raise ValueError("version 1 of the PROXY protocol has no command 'local'")
    if header.tlvs:
        raise ValueError("version 1 of the PROXY protocol has no TLVs")
    if header.transport == "datagram" or isinstance(header.source, UnixAddress):
        raise ValueError("version 1 of the PROXY protocol knows TCP over IPv4 and IPv6 only")


def _check_addresses(
    source: SocketAddress | UnixAddress | None, destination: SocketAddress | UnixAddress | None
) -> None:
    for end in (source, destination):
        if not isinstance(end, SocketAddress | UnixAddress | None):
            raise TypeError(f"expected a SocketAddress, a UnixAddress or None, not {end!r}")
        if isinstance(end, SocketAddress) and end.ip is None:
            raise ValueError(f"{end} is no IP address and port")
    if _family_of(source) != _family_of(destination):
        raise ValueError(f"source {source} and destination {destination} are not of one family")


def _family_of(end: SocketAddress | UnixAddress | None) -> object:
    return end.family if isinstance(end, SocketAddress) else type(end)


def _check_tlvs(tlvs: tuple[tuple[int, bytes], ...]) -> None:
    for kind, value in tlvs:
        if not isinstance(kind, int) or not isinstance(value, bytes):
            raise TypeError(f"a TLV is a type and bytes, not {kind!r} and {value!r}")
        if not 0 <= kind <= 0xFF or len(value) > LONGEST_BLOCK:
            raise ValueError(f"TLV {kind!r} of {len(value)} bytes: expected types 0 to 255, 0 to 65535 bytes")
        if kind in (TlvType.CRC32C, TlvType.NOOP):
            raise ValueError(f"TLV type {kind:#04x} is of the format, and not of what a header says")
