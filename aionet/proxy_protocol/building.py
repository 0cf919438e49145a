"""Headers become bytes: the sending half of the format, without any I/O."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..addresses import SocketAddress, UnixAddress
from .crc32c import crc32c
from .layout import (
    ADDRESSES,
    DATAGRAM,
    FIXED,
    IPV4,
    IPV6,
    LOCAL,
    LONGEST_BLOCK,
    PROXY,
    SIGNATURE,
    STREAM,
    UNIX,
    UNSPECIFIED,
    TlvType,
    join_tlvs,
)

if TYPE_CHECKING:
    from .header import ProxyHeader

__all__ = ["build_binary", "build_line"]

_CHECKSUM_BYTES = 4


def build_line(header: ProxyHeader) -> bytes:
    """Return `header` as version 1 writes it."""
    source, destination = header.source, header.destination
    if not isinstance(source, SocketAddress) or not isinstance(destination, SocketAddress):
        return b"PROXY UNKNOWN\r\n"
    protocol = "TCP6" if ":" in source.host else "TCP4"
    hosts = f"{_without_scope(source)} {_without_scope(destination)}"
    return f"PROXY {protocol} {hosts} {source.port} {destination.port}\r\n".encode("ascii")


def build_binary(header: ProxyHeader, *, checksum: bool) -> bytes:
    """Return `header` as version 2 writes it; `ValueError` if it is too long."""
    family, addresses = _addresses_of(header)
    tlvs = header.tlvs
    if checksum:  # computed over zeros in its own place
        tlvs = (*tlvs, (TlvType.CRC32C, bytes(_CHECKSUM_BYTES)))
    block = addresses + join_tlvs(tlvs)
    if len(block) > LONGEST_BLOCK:
        raise ValueError(f"{len(block)} bytes of addresses and TLVs: a header has room for {LONGEST_BLOCK}")
    command = PROXY if header.command == "proxy" else LOCAL
    built = FIXED.pack(SIGNATURE, 0x20 | command, family, len(block)) + block
    if checksum:
        return built[:-_CHECKSUM_BYTES] + crc32c(built).to_bytes(_CHECKSUM_BYTES)
    return built


def _addresses_of(header: ProxyHeader) -> tuple[int, bytes]:
    """The byte of family and transport, and the addresses as that family has them."""
    source, destination = header.source, header.destination
    transport = STREAM if header.transport == "stream" else DATAGRAM
    if isinstance(source, SocketAddress) and isinstance(destination, SocketAddress):
        family = IPV6 if ":" in source.host else IPV4
        parts = (_packed(source), _packed(destination), source.port, destination.port)
        return family << 4 | transport, ADDRESSES[family].pack(*parts)
    if isinstance(source, UnixAddress) and isinstance(destination, UnixAddress):
        paths = os.fsencode(source.path), os.fsencode(destination.path)
        return UNIX << 4 | transport, ADDRESSES[UNIX].pack(*paths)
    return UNSPECIFIED, b""


def _packed(address: SocketAddress) -> bytes:
    assert address.ip is not None  # `ProxyHeader` has seen to it
    return address.ip.packed


def _without_scope(address: SocketAddress) -> str:
    return address.host.partition("%")[0]
