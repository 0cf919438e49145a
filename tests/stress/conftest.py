"""What the tests with servers in processes of their own need."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from helpers import ENGINES


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that is here; the server runs on it."""
    return str(request.param)


@pytest.fixture
def most_descriptors() -> Iterator[int]:
    """As many descriptors as this process may have, which are inherited by what it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
