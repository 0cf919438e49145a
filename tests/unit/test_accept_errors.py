"""What accept(2) can fail with."""

from __future__ import annotations

import errno

import pytest

from aionet.accept_errors import AcceptFailure, Backoff, classify

# accept(2) of the Linux man pages, "Error handling" and ERRORS; a firewall's EPERM; Go's and Twisted's lists.
TRANSIENT = [
    "ECONNABORTED",
    "ECONNRESET",
    "EINTR",
    "EPERM",
    "EPROTO",
    "ENETDOWN",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ENETUNREACH",
    "ETIMEDOUT",
]
EXHAUSTED = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ENOSPC"]
FATAL = ["EBADF", "EINVAL", "ENOTSOCK", "EFAULT"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [(name, AcceptFailure.TRANSIENT) for name in TRANSIENT]
    + [(name, AcceptFailure.EXHAUSTED) for name in EXHAUSTED]
    + [(name, AcceptFailure.FATAL) for name in FATAL],
)
def test_kinds(name, expected):
    assert classify(OSError(getattr(errno, name), "x")) is expected


def test_an_error_without_a_number_is_fatal():
    assert classify(OSError("odd")) is AcceptFailure.FATAL


def test_pauses_double_up_to_a_second_and_start_anew_after_a_success():
    backoff = Backoff()
    assert [backoff.next_pause() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    backoff.succeeded()
    assert backoff.next_pause() == pytest.approx(0.1)


def test_one_line_a_second_at_most():
    backoff = Backoff()
    times = [0.0, 0.1, 0.9, 1.0, 1.5, 2.5]
    assert [backoff.may_log(now) for now in times] == [True, False, False, True, False, True]
    backoff.succeeded()
    assert not backoff.may_log(2.6)
