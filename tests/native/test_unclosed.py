"""What nobody closed says so when it is collected, as the standard library has it."""

from __future__ import annotations

import pytest

from .end_stage import STAGE, ends
from .support import run_script


@pytest.mark.parametrize("where", ["client", "accepted"])
def test_an_unclosed_socket_is_a_resource_warning(loop_name, where):
    body = f"""
async def main():
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        client = await aionet.AsyncTcpSocket().connect_to(server.address)
        accepted = await server.accept()
        {"accepted" if where == "client" else "client"}.abort()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
gc.collect()
print("done")
"""
    stderr = ends(body, loop_name, "-X", "dev")
    assert "ResourceWarning: unclosed <" in stderr
    done = run_script(STAGE + body, loop_name, "-W", "error::ResourceWarning")
    assert "ResourceWarning: unclosed <" in done.stderr
    assert done.stderr.startswith("Exception ignored ")  # "in: <", from Python 3.15 on "while finalizing"
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_closed_sockets_give_no_warnings(loop_name):
    body = """
async def main():
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        async with await aionet.AsyncTcpSocket().connect_to(server.address) as client:
            async with await server.accept() as accepted:
                await client.write(b"x")
                await accepted.read()

with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
    runner.run(main())
gc.collect()
print("done")
"""
    assert ends(body, loop_name, "-X", "dev", "-W", "error") == ""


def test_an_unclosed_loop_is_a_resource_warning_and_is_collected(loop_name):
    """Sockets of it that somebody waits for do not keep it: it would wait for ever."""
    body = """
import weakref

loop = new_loop()
everything = loop.run_until_complete(begin())
left = weakref.ref(loop)
del loop, everything
gc.collect()
assert left() is None, gc.get_referrers(left())
print("done")
"""
    assert "ResourceWarning: unclosed event loop" in ends(body, loop_name, "-X", "dev")


def test_an_unclosed_loop_without_sockets_is_a_resource_warning(loop_name):
    body = """
loop = new_loop()
sock, raw = loop.run_until_complete(connected())
sock.abort()
raw.close()
del loop, sock
gc.collect()
print("done")
"""
    assert "ResourceWarning: unclosed event loop" in ends(body, loop_name, "-X", "dev")
