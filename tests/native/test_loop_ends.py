"""Loops that end, and interpreters that end, with sockets open and tasks that wait."""

from __future__ import annotations

import pytest

from .end_stage import ends


def test_the_interpreter_ends_in_the_middle_of_everything(loop_name):
    body = """
loop = new_loop()
everything = loop.run_until_complete(begin())
print("done")
"""
    ends(body, loop_name)


def test_the_interpreter_ends_after_the_loop_was_closed_on_everything(loop_name):
    body = """
loop = new_loop()
everything = loop.run_until_complete(begin())
loop.close()
print("done")
"""
    ends(body, loop_name)


def test_a_loop_closed_on_everything_and_collected(loop_name):
    body = """
import weakref

loop = new_loop()
everything = loop.run_until_complete(begin())
left = weakref.WeakSet(each for each in everything if not isinstance(each, aionet.ConnectionSpawner))
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
del everything, loop
gc.collect()
gc.collect()
assert not left, list(left)
print("done")
"""
    ends(body, loop_name)


def test_everything_collected_before_the_loop_is_closed(loop_name):
    body = """
loop = new_loop()
everything = loop.run_until_complete(begin())
del everything
for _ in range(3):
    loop.run_until_complete(asyncio.sleep(0))
    gc.collect()
loop.close()
del loop
gc.collect()
print("done")
"""
    ends(body, loop_name)


def test_sys_exit_in_a_handler(loop_name):
    body = """
async def main():
    async def handler(sock):
        await sock.read()
        print("done", flush=True)
        sys.exit(0)

    kept.extend(await begin())
    spawner = aionet.ConnectionSpawner(handler)
    server = aionet.AsyncTcpConnectionServer(("127.0.0.1", 0))
    raw = socket.create_connection(("127.0.0.1", server.address.port))
    raw.sendall(b"x")
    await spawner.serve(server)

kept = []
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""
    ends(body, loop_name)


def test_a_daemon_thread_with_a_loop_does_not_keep_the_interpreter(loop_name):
    body = """
def work():
    loop = new_loop()
    kept.extend([loop, loop.run_until_complete(begin())])
    ready.set()
    loop.run_forever()

kept, ready = [], threading.Event()
threading.Thread(target=work, daemon=True).start()
assert ready.wait(10)
print("done")
"""
    ends(body, loop_name)


@pytest.mark.parametrize("run", ["aionet.run(main())", "asyncio.run(main())"])
def test_one_run_after_the_other(loop_name, run):
    body = f"""
async def main():
    loop = asyncio.get_running_loop()
    everything = await begin()
    for each in everything:
        if isinstance(each, asyncio.Task):
            each.cancel()
    await asyncio.wait([each for each in everything if isinstance(each, asyncio.Task)])
    for each in everything:
        if isinstance(each, aionet.AsyncTcpSocket):
            each.abort()
        elif not isinstance(each, (asyncio.Task, aionet.ConnectionSpawner)):
            each.close()

for _ in range(5):
    {run}
gc.collect()
print("done")
"""
    assert ends(body, loop_name, "-X", "dev", "-W", "error") == ""


def test_a_handler_that_stops_the_loop_stops_it_promptly(loop_name):
    body = """
async def handler(sock):
    await sock.read()
    loop.stop()
    await sock.read()

loop = new_loop()
sock, raw = loop.run_until_complete(connected())
task = loop.create_task(handler(sock))
threading.Timer(0.05, raw.sendall, [b"x"]).start()
loop.call_later(15, os._exit, 3)
before = time.monotonic()
loop.run_forever()
assert time.monotonic() - before < 5
raw.sendall(b"y")
loop.run_until_complete(task)
sock.abort()
raw.close()
loop.close()
print("done")
"""
    assert ends(body, loop_name) == ""
