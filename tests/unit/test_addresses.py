"""Addresses: what is accepted, what is refused and how, and that text, kernel and value agree."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import random
import socket
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aionet.addresses import SocketAddress, UnixAddress, as_address

LOOPBACK_INDEX = 1

# The same classes as somebody sees them who does not check types.
untyped_socket_address: Any = SocketAddress
untyped_unix_address: Any = UnixAddress

ports = st.integers(0, 65535)
scopes = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", fullmatch=True)
ipv6_texts = st.builds(
    lambda ip, scope: f"{ip}%{scope}" if scope else str(ip), st.ip_addresses(v=6), st.none() | scopes
)
labels = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join) | st.sampled_from(
    ["bücher.example", "例え.テスト", "a.b.", "1.2.3.in-addr.arpa", "xn--bcher-kva.example", "٣.example"]
)
hosts = st.just("") | st.ip_addresses(v=4) | st.ip_addresses(v=6) | ipv6_texts | names
addresses = st.builds(SocketAddress, hosts, ports)

unix_bytes = st.binary(max_size=100).filter(lambda raw: b"\0" not in raw)
unix_addresses = st.builds(
    UnixAddress, unix_bytes | st.binary(max_size=107).map(lambda raw: b"\0" + raw) | st.just("@at-sign")
)


# --- SocketAddress: making one -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "text", "shown"),
    [
        (SocketAddress(3000), ":3000", "SocketAddress(3000)"),
        (SocketAddress("", 3000), ":3000", "SocketAddress(3000)"),
        (SocketAddress("*", 3000), ":3000", "SocketAddress(3000)"),
        (SocketAddress(port=3000), ":3000", "SocketAddress(3000)"),
        (SocketAddress("127.0.0.1", 3000), "127.0.0.1:3000", "SocketAddress('127.0.0.1', 3000)"),
        (SocketAddress(IPv4Address("10.0.0.1"), "80"), "10.0.0.1:80", "SocketAddress('10.0.0.1', 80)"),
        (SocketAddress("::1", 3000), "[::1]:3000", "SocketAddress('::1', 3000)"),
        (
            SocketAddress(IPv6Address("FE80::0:1%eth0"), 1),
            "[fe80::1%eth0]:1",
            "SocketAddress('fe80::1%eth0', 1)",
        ),
        (SocketAddress("localhost", "http"), "localhost:80", "SocketAddress('localhost', 80)"),
    ],
)
def test_every_way_to_make_an_address(address: SocketAddress, text: str, shown: str) -> None:
    assert str(address) == text
    assert repr(address) == shown
    assert eval(shown) == address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:3000", "127.0.0.1", 3000),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("[0:0:0:0:0:0:0:1]:http", "::1", 80),
        ("localhost:http", "localhost", 80),
        ("my_host.example.:00080", "my_host.example.", 80),
        (":3000", "", 3000),
        ("*:3000", "", 3000),
        ("3000", "", 3000),
        ("Example.COM:65535", "Example.COM", 65535),
    ],
)
def test_parse(text: str, host: str, port: int) -> None:
    address = SocketAddress.parse(text)
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize("spelling", ["::ffff:1.2.3.4", "::ffff:102:304", "0:0:0:0:0:FFFF:1.2.3.4"])
def test_a_mapped_address_has_one_spelling(spelling: str) -> None:
    address = SocketAddress(spelling, 80)
    assert str(address) == "[::ffff:1.2.3.4]:80"
    assert address == SocketAddress.from_sockaddr(("::ffff:1.2.3.4", 80, 0, 0))


@pytest.mark.parametrize(
    ("address", "ip", "family", "wildcard", "scope"),
    [
        (SocketAddress(1), None, None, True, None),
        (SocketAddress("0.0.0.0", 1), IPv4Address(0), socket.AF_INET, True, None),
        (SocketAddress("::", 1), IPv6Address(0), socket.AF_INET6, True, None),
        (SocketAddress("10.0.0.1", 1), IPv4Address("10.0.0.1"), socket.AF_INET, False, None),
        (SocketAddress("fe80::1%lo", 1), IPv6Address("fe80::1%lo"), socket.AF_INET6, False, "lo"),
        (SocketAddress("example.com", 1), None, None, False, None),
        (SocketAddress("٣.٣.٣.٣", 1), None, None, False, None),
    ],
)
def test_what_an_address_says_of_itself(
    address: SocketAddress, ip: object, family: object, wildcard: bool, scope: str | None
) -> None:
    assert address.ip == ip
    assert address.family == family
    assert address.is_wildcard is wildcard
    assert address.scope_id == scope


# --- SocketAddress: what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("::1:80", r"'::1:80': an IPv6 address goes in brackets before its port, as in '\[::1\]:80'"),
        ("::1", "goes in brackets"),
        ("localhost", "'localhost' lacks a port: expected 'host:port'"),
        ("", "'' lacks a port"),
        ("https://example.org/", "is a URL: expected its host and port only, as in 'example.org:443'"),
        ("[::1]", r"'\[::1\]' is no address: expected an IPv6 address in brackets and a port"),
        ("[::1]80", "expected an IPv6 address in brackets"),
        ("[::1:80", "expected an IPv6 address in brackets"),
        ("[127.0.0.1]:80", "expected an IPv6 address in brackets"),
        ("[::1]]:80", "'::1]' is no host"),
        ("localhost:", "expected a port in 0..65535 or a TCP service's name, got ''"),
        ("localhost:no-such-service", "got 'no-such-service'"),
        ("localhost:-1", "got '-1'"),
        ("localhost:+80", r"got '\+80'"),
        ("localhost: 80", "got ' 80'"),
        ("localhost:8\0", "expected a port"),
        ("localhost:\udc80", "expected a port"),
        ("localhost:٣", "expected a port"),
        ("localhost:65536", "expected a port in 0..65535, got '65536'"),
        ("localhost:" + "9" * 5000, "expected a port in 0..65535, got '999"),
        ("99999", "expected a port in 0..65535, got '99999'"),
    ],
)
def test_text_that_is_no_address(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SocketAddress.parse(text)


@pytest.mark.parametrize(
    "host",
    [
        "1.2.3",
        "256.1.1.1",
        "127.1",
        "1",
        "127.0.0.01",
        "1.2.3.4.",
        "0x7f.1",
        "0x7f000001",
        "\uff11\uff12\uff17.0.0.1",
        "127。0。0。1",
    ],
)
def test_a_name_that_the_resolver_would_take_for_an_ipv4_address(host: str) -> None:
    with pytest.raises(ValueError, match="expected an IPv4 address of four numbers") as caught:
        SocketAddress(host, 80)
    assert repr(host) in str(caught.value)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("a b", "expected an IP address or labels of letters"),
        ("a\0b", "expected an IP address or labels"),
        ("a\nb", "expected an IP address or labels"),
        ("a/b", "expected an IP address or labels"),
        ("user@host", "expected an IP address or labels"),
        ("a..b", "expected an IP address or labels"),
        (".a", "expected an IP address or labels"),
        (".", "expected an IP address or labels"),
        ("127.0.0.1%eth0", "expected an IP address or labels"),
        ("℀.example", "expected an IP address or labels"),  # becomes "a/c" on its way to the resolver
        ("a" * 64, "expected labels of at most 63 characters"),
        ("ab." * 84 + "xx", "expected a name of at most 253 characters"),
        ("b" + "ü" * 80, "expected a name that IDNA can encode"),
        ("ü..b", "expected a name that IDNA can encode"),
        ("exa\u00admple", "expected no invisible characters"),
        ("a\u3000b", "expected no invisible characters"),
        ("a\udc80", "expected no invisible characters"),
        ("::g", "expected an IPv6 address without brackets"),
        ("[::1]", "expected an IPv6 address without brackets"),
        ("1:2", "expected an IPv6 address without brackets"),
        ("fe80::1%", "expected an IPv6 address without brackets"),
        ("fe80::1%a b", "expected an interface's name or number after '%', got 'a b'"),
        ("fe80::1%a/b", "expected an IPv6 address without brackets"),
        ("fe80::1%a\x1b[0m", "expected an interface's name or number after '%'"),
        ("fe80::1%a\u202e", "expected an interface's name or number after '%'"),
        ("fe80::1%no\ud800", "expected an interface's name or number after '%'"),
        ("fe80::1%4294967296", "expected an interface's name or number after '%'"),
    ],
)
def test_a_host_that_cannot_be_one(host: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        SocketAddress(host, 80)
    assert repr(host) in str(caught.value)


def test_the_longest_names_are_accepted() -> None:
    longest = "ab." * 84 + "x"
    assert len(longest) == 253
    assert SocketAddress(longest, 1).host == longest
    assert SocketAddress(longest + ".", 1).host == longest + "."
    assert SocketAddress("a" * 63, 1).host == "a" * 63


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: untyped_socket_address(True),
            TypeError,
            "expected a port as an integer or a service name, got True",
        ),
        (lambda: untyped_socket_address("::1", False), TypeError, "got False"),
        (lambda: untyped_socket_address("::1", 3.0), TypeError, "got 3.0"),
        (lambda: untyped_socket_address("::1", b"80"), TypeError, "got b'80'"),
        (lambda: untyped_socket_address(-1), ValueError, "expected a port in 0..65535, got -1"),
        (lambda: untyped_socket_address("::1", 65536), ValueError, "got 65536"),
        (
            lambda: untyped_socket_address("localhost"),
            TypeError,
            r"SocketAddress\('localhost'\) lacks a port",
        ),
        (lambda: untyped_socket_address(), TypeError, "lacks a port"),
        (
            lambda: untyped_socket_address(None, 80),
            TypeError,
            "expected a host as str, IPv4Address or IPv6Address, got None",
        ),
        (lambda: untyped_socket_address(b"::1", 80), TypeError, "got b'::1'"),
        (lambda: untyped_socket_address(3000, 80), TypeError, "expected a host as str, .* got 3000"),
        (
            lambda: untyped_socket_address.parse(3000),
            TypeError,
            "expected the text of an address .* got 3000",
        ),
    ],
)
def test_wrong_types_and_ports(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# --- SocketAddress: a value ----------------------------------------------------------------------------


@settings(deadline=None)
@given(addresses)
@example(SocketAddress("::1.2.3.4", 1))
@example(SocketAddress("::", 0))
@example(SocketAddress("1:0:2:3:4:5:6:7", 1))
def test_text_pickle_and_copy_give_back_an_equal_address(address: SocketAddress) -> None:
    for same in (
        SocketAddress.parse(str(address)),
        as_address(str(address)),
        as_address((address.host, address.port)),
        eval(repr(address)),
        pickle.loads(pickle.dumps(address)),
        copy.copy(address),
        copy.deepcopy(address),
    ):
        assert same == address
        assert hash(same) == hash(address)
        assert str(same) == str(address)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_whatever_text_is_given_it_is_read_or_refused_with_a_value_error(text: str) -> None:
    try:
        address = as_address(text)
    except ValueError:
        return
    assert as_address(str(address)) == address


@settings(deadline=None)
@given(st.ip_addresses(), ports)
def test_ip_gives_back_the_address_that_was_put_in(ip: IPv4Address | IPv6Address, port: int) -> None:
    assert SocketAddress(ip, port).ip == ip
    assert SocketAddress(str(ip), port) == SocketAddress(ip, port)


def test_addresses_are_keys_and_cannot_be_changed() -> None:
    address = SocketAddress("::1", 3000)
    assert {address: 1}[SocketAddress.parse("[0::1]:3000")] == 1
    assert address != untyped_unix_address("/a")
    with pytest.raises(FrozenInstanceError):
        address.port = 1  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        address.note = "?"  # type: ignore[attr-defined]


def test_addresses_sort_by_number_and_kind() -> None:
    ordered = [
        SocketAddress(80),
        SocketAddress(443),
        SocketAddress("0.0.0.0", 80),
        SocketAddress("::", 80),
        SocketAddress("9.0.0.1", 65535),
        SocketAddress("10.0.0.1", 9),
        SocketAddress("10.0.0.1", 80),
        SocketAddress("127.0.0.1", 1),
        SocketAddress("::1", 80),
        SocketAddress("fe80::9", 80),
        SocketAddress("fe80::9%a", 80),
        SocketAddress("fe80::9%b", 1),
        SocketAddress("fe80::10", 80),
        SocketAddress("a.example", 80),
        SocketAddress("b.example", 1),
    ]
    shuffled = ordered[:]
    random.Random(7).shuffle(shuffled)
    assert sorted(shuffled) == ordered


@settings(deadline=None)
@given(addresses, addresses)
def test_any_two_addresses_are_ordered_one_way(a: SocketAddress, b: SocketAddress) -> None:
    assert [a < b, a == b, a > b].count(True) == 1
    assert (a <= b) == (not a > b)


def test_addresses_are_not_compared_with_other_things() -> None:
    with pytest.raises(TypeError):
        SocketAddress(1) < "127.0.0.1:1"  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        SocketAddress(1) < UnixAddress("/a")  # type: ignore[operator]  # noqa: B015


# --- SocketAddress: to the kernel and back --------------------------------------------------------------


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_takes_and_returns_addresses(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as sock:
        sock.bind(SocketAddress(host, 0).sockaddr())
        bound = SocketAddress.from_sockaddr(sock.getsockname())
    assert bound.host == host
    assert bound.port > 0
    assert SocketAddress.parse(str(bound)) == bound


@settings(deadline=None)
@given(st.ip_addresses(), ports)
def test_a_numeric_address_survives_the_way_to_the_kernel_and_back(
    ip: IPv4Address | IPv6Address, port: int
) -> None:
    address = SocketAddress(ip, port)
    assert SocketAddress.from_sockaddr(address.sockaddr()) == address
    assert as_address(address.sockaddr()) == address


@pytest.mark.parametrize(
    ("address", "family", "raw"),
    [
        (SocketAddress(80), socket.AF_INET, ("0.0.0.0", 80)),
        (SocketAddress(80), socket.AF_INET6, ("::", 80, 0, 0)),
        (SocketAddress("10.0.0.1", 80), socket.AF_INET6, ("::ffff:10.0.0.1", 80, 0, 0)),
        (SocketAddress("::ffff:10.0.0.1", 80), socket.AF_INET, ("10.0.0.1", 80)),
        (SocketAddress("fe80::1%7", 80), None, ("fe80::1", 80, 0, 7)),
    ],
)
def test_sockaddr_for_a_family(address: SocketAddress, family: int | None, raw: object) -> None:
    assert address.sockaddr(family) == raw


@pytest.mark.parametrize(
    ("address", "family", "message"),
    [
        (SocketAddress(80), None, ":80 has no family of its own"),
        (SocketAddress("localhost", 80), None, "localhost:80 has no family of its own: .* resolve the host"),
        (SocketAddress("localhost", 80), socket.AF_INET, "localhost:80 is no IPv4 address"),
        (
            SocketAddress("localhost", 80),
            socket.AF_INET6,
            "localhost:80 is no IP address: resolve the host first",
        ),
        (SocketAddress("::1", 80), socket.AF_INET, r"\[::1\]:80 is no IPv4 address"),
        (SocketAddress("::1", 80), 12345, "cannot be expressed in family 12345"),
    ],
)
def test_sockaddr_refuses_what_a_family_cannot_express(
    address: SocketAddress, family: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        address.sockaddr(family)


@pytest.mark.parametrize("scope", ["no-such", "longer-than-any-interface", "höh\u0301e"])
def test_a_scope_that_names_no_interface_is_an_error_of_the_system(scope: str) -> None:
    address = SocketAddress(f"fe80::1%{scope}", 80)
    with pytest.raises(OSError, match="no interface is named") as caught:
        address.sockaddr()
    assert caught.value.errno == errno.ENODEV


def test_a_scope_is_named_by_its_interface() -> None:
    name = socket.if_indextoname(LOOPBACK_INDEX)
    raw = ("fe80::1", 80, 0, LOOPBACK_INDEX)
    for address in (SocketAddress.from_sockaddr(raw), as_address(raw), as_address(("fe80::1%x", 80, 0, 1))):
        assert str(address) == f"[fe80::1%{name}]:80"
    assert SocketAddress.from_sockaddr(raw).sockaddr() == raw


def test_the_scope_of_an_interface_that_is_gone_is_a_number() -> None:
    raw = ("fe80::1", 80, 0, 2**31 - 1)
    address = SocketAddress.from_sockaddr(raw)
    assert address.scope_id == "2147483647"
    assert address.sockaddr() == raw


# --- UnixAddress ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "path", "text", "abstract"),
    [
        (UnixAddress("/tmp/x.sock"), "/tmp/x.sock", "unix:/tmp/x.sock", False),
        (UnixAddress(b"/tmp/x.sock"), "/tmp/x.sock", "unix:/tmp/x.sock", False),
        (UnixAddress(Path("/tmp/x.sock")), "/tmp/x.sock", "unix:/tmp/x.sock", False),
        (UnixAddress("\0name"), "\0name", "unix:@name", True),
        (UnixAddress(b"\0name"), "\0name", "unix:@name", True),
        (UnixAddress("@name"), "./@name", "unix:./@name", False),
        (UnixAddress(""), "", "unix:", False),
        (UnixAddress(b"/\xff"), "/\udcff", r"unix:/\xff", False),
        (UnixAddress("/a\nb"), "/a\nb", r"unix:/a\x0ab", False),
        (UnixAddress("\0a\0\x1b[0m"), "\0a\0\x1b[0m", r"unix:@a\x00\x1b[0m", True),
        (UnixAddress("/\u202e\u2028"), "/\u202e\u2028", r"unix:/\xe2\x80\xae\xe2\x80\xa8", False),
        (UnixAddress("/bücher und mehr"), "/bücher und mehr", "unix:/bücher und mehr", False),
        (UnixAddress(r"/a\x0ab"), r"/a\x0ab", r"unix:/a\x5cx0ab", False),
        (UnixAddress(r"/a\x2db"), r"/a\x2db", r"unix:/a\x5cx2db", False),
    ],
)
def test_unix_addresses(address: UnixAddress, path: str, text: str, abstract: bool) -> None:
    assert address.path == path
    assert str(address) == text
    assert address.is_abstract is abstract
    assert UnixAddress.parse(text) == as_address(text) == address


@pytest.mark.parametrize("path", [r"/a\x2db", r"/a\b", "/a\\", r"/\xfg", r"/\XFF"])
def test_a_backslash_that_escapes_nothing_is_one(path: str) -> None:
    assert UnixAddress.parse(f"unix:{path}").path == path


def test_an_escaped_at_sign_is_no_abstract_name() -> None:
    assert not UnixAddress.parse(r"unix:\x40name").is_abstract


def test_an_escaped_nul_is_refused_as_any_other() -> None:
    with pytest.raises(ValueError, match="contains a NUL"):
        UnixAddress.parse(r"unix:/a\x00b")


@settings(deadline=None)
@given(unix_addresses)
def test_the_text_of_every_unix_address_is_printable(address: UnixAddress) -> None:
    assert str(address).isprintable()


@settings(deadline=None)
@given(unix_addresses)
def test_text_kernel_pickle_and_copy_give_back_an_equal_unix_address(address: UnixAddress) -> None:
    for same in (
        UnixAddress.parse(str(address)),
        UnixAddress.from_sockaddr(address.sockaddr()),
        eval(repr(address)),
        pickle.loads(pickle.dumps(address)),
        copy.deepcopy(address),
    ):
        assert same == address
        assert hash(same) == hash(address)


def test_unix_addresses_are_ordered_and_frozen() -> None:
    ordered = [UnixAddress(""), UnixAddress("\0b"), UnixAddress("/a"), UnixAddress("/b")]
    assert ordered[0] < ordered[1] < ordered[2] < ordered[3]
    with pytest.raises(FrozenInstanceError):
        ordered[0].path = "/c"  # type: ignore[misc]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit, and abstract names, are Linux's")
def test_the_longest_unix_addresses_that_are_accepted_can_be_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    abstract = b"\0aionet-test-%d-" % os.getpid()
    for longest in (b"p" * 107, abstract.ljust(108, b"x")):
        address = UnixAddress(longest)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(address.sockaddr())
            assert UnixAddress.from_sockaddr(sock.getsockname()) == address


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_a_unix_socket_that_was_never_bound_has_the_empty_address() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert UnixAddress.from_sockaddr(left.getpeername()) == UnixAddress("")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: untyped_unix_address("/a\0b"), ValueError, r"'/a\\x00b' contains a NUL"),
        (
            lambda: untyped_unix_address("/" + "a" * 108),
            ValueError,
            r"'/aaa.*' is 109 bytes long: expected at most 10\d",
        ),
        (lambda: untyped_unix_address("/" + "ü" * 60), ValueError, "is 121 bytes long"),
        (lambda: untyped_unix_address("\0" + "a" * 108), ValueError, "is 109 bytes long"),
        (lambda: untyped_unix_address("/\ud800"), ValueError, "cannot be encoded for the file system"),
        (
            lambda: untyped_unix_address(7),
            TypeError,
            "expected the path of a Unix socket as str, bytes or PathLike, got 7",
        ),
        (
            lambda: untyped_unix_address.parse("/tmp/x"),
            ValueError,
            "'/tmp/x' is no Unix address: expected 'unix:/path'",
        ),
        (
            lambda: untyped_unix_address.parse(b"unix:"),
            TypeError,
            "expected the text of a Unix address .* got b'unix:'",
        ),
    ],
)
def test_unix_addresses_that_are_refused(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


# --- as_address ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (3000, SocketAddress(3000)),
        ("3000", SocketAddress(3000)),
        ("[::1]:80", SocketAddress("::1", 80)),
        (("127.0.0.1", 80), SocketAddress("127.0.0.1", 80)),
        (("", 80), SocketAddress(80)),
        (("localhost", "http"), SocketAddress("localhost", 80)),
        ((IPv6Address("::1"), 80), SocketAddress("::1", 80)),
        (("::1", 80, 0, 0), SocketAddress("::1", 80)),
        ("unix:/a", UnixAddress("/a")),
        ("unix:@a", UnixAddress("\0a")),
    ],
)
def test_everything_that_may_stand_for_an_address(value: object, address: object) -> None:
    assert as_address(value) == address  # type: ignore[arg-type]


def test_an_address_stands_for_itself() -> None:
    for address in (SocketAddress(1), UnixAddress("/a")):
        assert as_address(address) is address


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "None is no address: expected a SocketAddress, .* 'unix:/path' or a port"),
        (True, TypeError, "True is no address"),
        (80.0, TypeError, "80.0 is no address"),
        (b"::1", TypeError, "b'::1' is no address"),
        (["::1", 80], TypeError, r"\['::1', 80\] is no address"),
        (("::1",), TypeError, r"\('::1',\) is no address"),
        (("::1", 80, 0), TypeError, "is no address"),
        ((3000, None), TypeError, r"\(3000, None\) lacks a port"),
        (("::1", 80, 0, "lo"), TypeError, r"expected \(host, port, flowinfo, scope_id\)"),
        (("::1", 80, 0, -1), ValueError, "expected a scope id"),
        (("127.0.0.1", 80, 0, 1), ValueError, "is no host"),
        (("::1", 65536), ValueError, "got 65536"),
        (-1, ValueError, "got -1"),
    ],
)
def test_what_is_no_address(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_address(value)  # type: ignore[arg-type]
