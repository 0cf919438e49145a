"""A pair of ends for every test, over every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from .transports import TRANSPORTS, Pair, Transport


@pytest.fixture(
    params=[
        pytest.param(transport, id=transport.name, marks=[pytest.mark.slow] if transport.slow else [])
        for transport in TRANSPORTS
    ]
)
def transport(request: pytest.FixtureRequest) -> Transport:
    found: Transport = request.param
    return found


@pytest_asyncio.fixture
async def pair(transport: Transport) -> AsyncIterator[Pair]:
    async with transport.connected() as made:
        yield made


@pytest.fixture
def sock(pair: Pair) -> Any:
    return pair.socket


@pytest.fixture
def peer(pair: Pair) -> Any:
    return pair.peer
