"""An echo server with few descriptors, for `test_exhausted_descriptors.py`. Arguments: loop, RLIMIT_NOFILE.

Prints its port; its log goes to standard error.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from collections.abc import Callable
from typing import Any

import aionet

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}


async def echo(sock: Any) -> None:
    async for data in sock:
        await sock.write(data)


async def main() -> None:
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        print(server.address.port, flush=True)
        await aionet.serve(echo, server, drain_grace=0.0)


if __name__ == "__main__":
    loop, descriptors = sys.argv[1], int(sys.argv[2])
    if loop == "uvloop":
        import uvloop

        LOOPS["uvloop"] = uvloop.new_event_loop
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    logging.basicConfig(level=logging.INFO)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
