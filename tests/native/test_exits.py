"""What waits at the end of the interpreter is cleaned up when nearly everything is gone."""

from __future__ import annotations

import pytest

from .support import run_script

# The filter keeps the module's names alive until the built-in functions are gone.
BODY = """
import logging

logging.getLogger("asyncio").addFilter(lambda record: True)


async def begin():
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    accepting = asyncio.create_task(server.accept())
    for _ in range(5):
        await asyncio.sleep(0)
    return server, accepting


loop = new_loop()
kept = loop.run_until_complete(begin())
print("done", flush=True)
"""


@pytest.mark.parametrize("engine", ["native", "portable"])
def test_a_pending_accept(engine, loop_name):
    done = run_script(BODY, loop_name, engine=engine)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
