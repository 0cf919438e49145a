"""A server without epoll watches takes that for the machine's shortage: it pauses, says so, and continues."""

from __future__ import annotations

import pytest

from .preloading import LOOPS, run_preloaded

SCENES = [
    "each_connection_lacks_resources",
    "one_of_a_batch_lacks_resources",
    "a_peer_cannot_be_watched",
    "a_handshake_lacks_resources",
    "a_listener_cannot_be_registered",
]


OF_EPOLL = {"each_connection_lacks_resources", "a_peer_cannot_be_watched", "a_handshake_lacks_resources"}
"""They count on registrations that last; the other reactor makes one for each wait."""


@pytest.mark.parametrize(
    ("scene", "loop"),
    [(scene, loop) for scene in SCENES for loop in LOOPS if loop != "callback" or scene not in OF_EPOLL],
)
@pytest.mark.slow
def test_it_pauses_and_continues(scene: str, loop: str) -> None:
    assert run_preloaded("serving", loop, scene) == ["done"]
