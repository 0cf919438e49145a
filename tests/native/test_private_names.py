"""What is private to CPython may be gone in its next version: the compiled engine runs without it.

Each name is taken away before aionet is imported. The program has several tasks woken in one turn, and serves
connections, with TLS and without.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .support import run_script

REMOVED = """
import asyncio.tasks

hidden = {{name: vars(asyncio.tasks).pop(name) for name in [{name!r}] if hasattr(asyncio.tasks, name)}}
"""

# The library itself uses the attribute: it gets another name wherever it occurs.
RENAMED = """
import importlib.machinery, re, sys


class Renaming(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        path = self.get_filename(fullname)
        source = re.sub(rb"\\b{name}\\b", b"{name}_as_it_is_now", self.get_data(path))
        return self.source_to_code(source, path)


class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        if name.partition(".")[0] not in ("asyncio", "ssl"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Renaming(name, spec.loader.path)
        return spec


assert "asyncio" not in sys.modules and "ssl" not in sys.modules
sys.meta_path.insert(0, Finder)
hidden = {{}}
"""

PROGRAM = f"""
vars(asyncio.tasks).update(hidden)  # for asyncio itself
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from tls_peers import HOST, contexts


async def reading(sock):
    seen = []
    for _ in range(3):
        seen.append(await sock.read(1))
        assert asyncio.current_task() is tasks[sock]
    return b"".join(seen)


async def echo(sock):
    async for data in sock:
        await sock.write(data)


async def echoed(address, tls):
    async with aionet.AsyncTcpSocket() as sock:
        await sock.connect_to(address, tls=tls, **({{"server_hostname": HOST}} if tls else {{}}))
        for _ in range(3):
            await sock.write(b"hello")
            assert await sock.read_exactly(5) == b"hello"


async def main():
    loop = asyncio.get_running_loop()
    async with aionet.AsyncTcpConnectionServer(("127.0.0.1", 0)) as server:
        raws = [socket.create_connection(("127.0.0.1", server.address.port)) for _ in range(5)]
        for sock in [await server.accept() for _ in raws]:
            tasks[sock] = asyncio.Task(reading(sock), loop=loop)
    for _ in range(3):
        for raw in raws:
            raw.sendall(b"x")
        for _ in range(10):
            await asyncio.sleep(0)
    assert asyncio.current_task() not in tasks.values()
    assert await asyncio.gather(*tasks.values()) == [b"xxx"] * 5
    for sock, raw in zip(tasks, raws):
        sock.abort()
        raw.close()
    encrypted = contexts()
    encrypted.server.set_ecdh_curve("prime256v1")  # else there is a warning of finite-field groups
    for tls in (None, encrypted):
        server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0), tls=tls and tls.server)
        spawner = aionet.ConnectionSpawner(echo)
        serving = asyncio.create_task(spawner.serve(server))
        await asyncio.gather(*(echoed(server.address, tls and tls.client) for _ in range(5)))
        await spawner.drain(5)
        await serving


tasks = {{}}
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("done")
"""

PRIVATE = ("_enter_task", "_leave_task", "_swap_current_task", "_current_tasks")

BEFORE = {
    **{name: REMOVED.format(name=name) for name in PRIVATE},
    **{
        name: RENAMED.format(name=name)
        for name in ("_selector", "_ready", "_scheduled", "_stopping", "_sslobj")
    },
}


@pytest.mark.parametrize("name", BEFORE)
def test_the_engine_runs_without(name, loop_name):
    done = run_script(PROGRAM, loop_name, "-W", "error", before=BEFORE[name])
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
