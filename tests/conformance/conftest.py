"""A pair of ends for every test, over every transport.

A developer's run takes every loop with `OFTEN`, and every transport on the stock loop; CI takes all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from conftest import LOOP_FACTORIES

from .transports import TRANSPORTS, Pair, Transport

OFTEN = ("tcp4", "tls-tcp4")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != Path(__file__).parent or not isinstance(item, pytest.Function):
            continue
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if "transport" not in params or params["transport"].name in OFTEN:
            continue
        if params.get("_asyncio_loop_factory") is not LOOP_FACTORIES["asyncio"]:
            item.add_marker(pytest.mark.slow)


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
