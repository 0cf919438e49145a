"""The tree of errors: as the contract draws it, printed with its place, and fit to travel."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

import aionet
from aionet import (
    AionetError,
    ConnectError,
    ConnectionLostError,
    DeliveryError,
    IncompleteReadError,
    LimitExceededError,
    ProxyProtocolError,
    ResolveError,
    ResourceExhaustedError,
    SocketAddress,
    SocketBusyError,
    SocketClosedError,
    SocketInheritedError,
    SuccessionError,
    TlsError,
    TlsTruncatedError,
    UnixAddress,
    WorkerFailedError,
)

TREE = {
    AionetError: Exception,
    ResolveError: OSError,
    ConnectError: ConnectionError,
    ConnectionLostError: ConnectionError,
    DeliveryError: ConnectionLostError,
    ResourceExhaustedError: OSError,
    SocketClosedError: OSError,
    SocketBusyError: RuntimeError,
    SocketInheritedError: RuntimeError,
    IncompleteReadError: EOFError,
    LimitExceededError: ValueError,
    TlsError: OSError,
    TlsTruncatedError: TlsError,
    ProxyProtocolError: ConnectionError,
    WorkerFailedError: RuntimeError,
    SuccessionError: RuntimeError,
}
HERE, THERE = SocketAddress("127.0.0.1", 1), SocketAddress("::1", 2)


@pytest.mark.parametrize(("error", "built_in"), TREE.items(), ids=lambda kind: kind.__name__)
def test_each_is_an_aionet_error_and_the_built_in_one_would_guess(error, built_in):
    assert issubclass(error, AionetError)
    assert issubclass(error, built_in)


def test_no_class_is_missing_from_the_tree():
    exported = {getattr(aionet, name) for name in dir(aionet) if name.endswith("Error")}
    assert exported == set(TREE)


def test_lost_and_closed_are_told_apart():
    assert not issubclass(SocketClosedError, ConnectionError)
    assert not issubclass(ConnectError, ConnectionLostError)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_each_carries_its_place(kind):
    error = kind("what", operation="read", local_address=HERE, peer_address=THERE)
    assert (error.operation, error.local_address, error.peer_address) == ("read", HERE, THERE)
    assert str(error) == "read 127.0.0.1:1->[::1]:2: what"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_each_can_do_without(kind):
    error = kind("what")
    assert (error.operation, error.local_address, error.peer_address) == (None, None, None)
    assert str(error) == "what"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_unknown_keywords_are_refused(kind):
    with pytest.raises(TypeError, match="colour"):
        kind("what", colour="red")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"operation": "accept"}, "accept: what"),
        ({"operation": "connect", "peer_address": THERE}, "connect [::1]:2: what"),
        ({"local_address": HERE}, "127.0.0.1:1: what"),
        ({"operation": "read", "peer_address": UnixAddress("/run/x")}, "read unix:/run/x: what"),
    ],
)
def test_printed_as_far_as_the_parts_are_known(where, expected):
    assert str(AionetError("what", **where)) == expected


@pytest.mark.parametrize(
    "kind", [kind for kind in TREE if issubclass(kind, OSError)], ids=lambda kind: kind.__name__
)
def test_those_of_the_system_keep_the_errno(kind):
    error = kind(errno.ECONNRESET, "reset", operation="read")
    assert error.errno == errno.ECONNRESET
    assert error.strerror == "reset"
    assert str(error) == f"read: [Errno {errno.ECONNRESET}] reset"


@pytest.mark.parametrize("kind", [kind for kind in TREE if issubclass(kind, OSError)])
def test_those_of_the_system_without_an_errno_print_none(kind):
    error = kind(None, "what happened", operation="resolve")
    assert str(error) == "resolve: what happened"
    assert error.errno is None
    assert error.strerror == "what happened"


def test_closed_has_an_errno_of_its_own():
    assert SocketClosedError().errno == errno.EBADF
    assert SocketClosedError(errno.EPIPE, "ended").errno == errno.EPIPE


EXAMPLES = [
    *(kind("what", operation="read", local_address=HERE, peer_address=THERE) for kind in TREE),
    ConnectError(
        errno.ECONNREFUSED,
        "no",
        attempts=[(HERE, 0.5, OSError(errno.ECONNREFUSED, "no"))],
        operation="connect",
    ),
    DeliveryError(errno.EPIPE, "gone", unacknowledged=17, operation="aclose"),
    IncompleteReadError("cut", partial=b"half", peer_address=THERE),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "travel",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deep"],
)
def test_each_can_travel(error, travel):
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    for name in ("operation", "local_address", "peer_address", "errno", "unacknowledged", "partial"):
        assert getattr(arrived, name, None) == getattr(error, name, None)
    assert str(getattr(arrived, "attempts", None)) == str(getattr(error, "attempts", None))


def test_attempts_are_a_tuple():
    attempt = (HERE, 0.5, OSError("no"))
    assert ConnectError("no", attempts=[attempt]).attempts == (attempt,)
    assert ConnectError("no").attempts == ()


def test_defaults_of_what_only_some_carry():
    assert DeliveryError("gone").unacknowledged == 0
    assert IncompleteReadError("cut").partial == b""
