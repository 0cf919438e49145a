"""fork(2) with sockets, a server and waiting tasks open: the parent notices nothing, a child begins anew."""

from __future__ import annotations

import pytest

from .fork_stage import run

FORGET = """
kept = parent.loop  # asyncio's own loop would take its own wake-up pipe out of the parent's epoll instance
parent.__dict__.clear()
gc.collect()
"""


def test_a_child_that_does_nothing(loop_name):
    run("parent = Parent(); in_child(lambda: None); parent.goes_on()", loop_name)


def test_a_child_with_a_loop_of_its_own(loop_name):
    run("parent = Parent(); in_child(loop_of_its_own); parent.goes_on()", loop_name)


def test_a_child_with_a_loop_of_its_own_while_the_parent_goes_on(loop_name):
    body = """
parent = Parent()
child = os.fork()
if child == 0:
    loop_of_its_own()
    os._exit(0)
parent.loop.run_until_complete(parent.exchange())
finish(child)
parent.goes_on()
"""
    run(body, loop_name)


def test_a_grandchild(loop_name):
    run("parent = Parent(); in_child(lambda: in_child(loop_of_its_own)); parent.goes_on()", loop_name)


def test_a_fork_in_a_task_while_others_wait(loop_name):
    body = """
async def fork():
    child = os.fork()
    if child == 0:
        try:
            loop_of_its_own()
        finally:
            os._exit(0)
    await asyncio.to_thread(finish, child)

parent = Parent()
parent.loop.run_until_complete(fork())
parent.goes_on()
"""
    run(body, loop_name)


def test_a_child_forgets_sockets_that_nobody_waits_for(loop_name):
    body = """
async def talked():
    return await parent.echoed(await parent.connect())

def forget():
    warnings.simplefilter("ignore", ResourceWarning)
    idle.clear()
    gc.collect()
    loop_of_its_own()

parent = Parent()
idle = [parent.loop.run_until_complete(talked()) for _ in range(3)]
in_child(forget)
for sock in idle:
    parent.loop.run_until_complete(parent.echoed(sock))
    parent.loop.run_until_complete(sock.aclose())
parent.goes_on()
"""
    run(body, loop_name)


def test_a_child_forgets_everything_it_inherited(loop_name):
    body = """
def forget():
    global kept
    warnings.simplefilter("ignore")
    FORGET
    loop_of_its_own()

parent = Parent()
in_child(forget)
parent.goes_on()
"""
    run(body.replace("    FORGET", FORGET.replace("\n", "\n    ")), loop_name)


def test_a_child_forgets_even_the_loop_that_is_ours():
    body = """
def forget():
    warnings.simplefilter("ignore")
    parent.__dict__.clear()
    gc.collect()
    loop_of_its_own()

parent = Parent()
in_child(forget)
parent.goes_on()
"""
    run(body, "own")


def test_a_child_closes_the_loop_that_is_ours_and_forgets_everything():
    body = """
def close_and_forget():
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None  # tasks that end with their loop complain of that
    tasks = weakref.WeakSet(parent.waiting)
    tasks.update(each.task for each in parent.spawner.connections)
    parent.loop.close()
    parent.__dict__.clear()
    gc.collect()
    assert not tasks, "nothing was forgotten: this tests nothing"
    loop_of_its_own()

import weakref

parent = Parent()
in_child(close_and_forget)
parent.goes_on()
"""
    run(body, "own")


@pytest.mark.parametrize("close", ["os.close(sock.fileno())", "raw[sock].close()", "sock.abort()"])
def test_a_child_closes_its_copies_of_the_descriptors(loop_name, close):
    body = f"""
def close():
    for sock in sockets:
        {close}
    gc.collect()
    loop_of_its_own()

parent = Parent()
sockets = [*parent.clients, *parent.readers, *(each.socket for each in parent.spawner.connections)]
raw = {{sock: sock.raw_socket for sock in sockets}} if {"raw" in close} else {{}}
in_child(close)
parent.goes_on()
"""
    run(body, loop_name)


def test_a_child_closes_the_server(loop_name):
    body = """
def close():
    parent.server.close()
    loop_of_its_own()

parent = Parent()
in_child(close)
parent.goes_on()
"""
    run(body, loop_name)


@pytest.mark.parametrize("exit_", ["sys.exit()", "sys.exit(loop_of_its_own())"])
def test_a_child_ends_as_interpreters_end(loop_name, exit_):
    body = f"""
parent = Parent()
kept = sys.modules["kept"] = parent.loop
child = os.fork()
if child == 0:
    asyncio.BaseEventLoop.__del__ = lambda loop: None  # asyncio's own closes what is the parent's, too
    warnings.simplefilter("ignore")
    {exit_}
finish(child)
parent.goes_on()
"""
    run(body, loop_name)


def test_a_child_that_uses_an_inherited_socket_is_refused(loop_name):
    body = """
async def use():
    sock = parent.clients[0]
    for operation in (sock.read, sock.read_line, lambda: sock.read_into(bytearray(1)), sock.peek):
        try:
            await asyncio.wait_for(operation(), 30)
        except RuntimeError:
            continue
        raise AssertionError("not refused")
    try:
        await asyncio.wait_for(fresh.read(), 30)
    except RuntimeError as error:
        assert "fork" in str(error), error
    else:
        raise AssertionError("not refused")

def use_on_new_loops():
    for make in LOOPS.values():
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(use())

parent = Parent()
fresh = parent.loop.run_until_complete(parent.connect())
in_child(use_on_new_loops)
parent.loop.run_until_complete(parent.echoed(fresh))
parent.loop.run_until_complete(fresh.aclose())
parent.goes_on()
"""
    run(body, loop_name)


@pytest.mark.parametrize("where", ["between runs", "in a task"])
def test_multiprocessing_with_fork(loop_name, where):
    body = """
import multiprocessing

def work(queue):
    loop_of_its_own()
    queue.put(os.getpid())

def start_and_join():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    process.join()
    assert (process.exitcode, queue.get()) == (0, process.pid)
    queue.close()
    process.close()

async def in_a_task():
    start_and_join()

parent = Parent()
if WHERE == "in a task":
    parent.loop.run_until_complete(in_a_task())
else:
    start_and_join()
parent.goes_on()
"""
    run(body.replace("WHERE", repr(where)), loop_name)
