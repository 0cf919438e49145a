"""`AsyncUnixConnectionServer`: its path, which must neither be stolen nor left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile

import pytest
from helpers import open_sockets
from peers import RawPeer

from aionet import AsyncUnixConnectionServer, SocketAddress, UnixAddress, UnixOptions
from aionet.socket_file import FileAccess, bind_to_path

pytestmark = pytest.mark.asyncio


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


async def answer_one(server, path):
    with await RawPeer.connect(path, socket.AF_UNIX) as peer:
        peer.send_now(b"x")
        async with await server.accept() as accepted:  # a look at whether the server lives is no connection
            assert await accepted.read() == b"x"


def make_stale(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()


@pytest.mark.parametrize(
    "form", [str, UnixAddress, lambda path: f"unix:{path}"], ids=["text", "address", "unix:"]
)
async def test_every_kind_of_address(path, form):
    async with AsyncUnixConnectionServer(form(path)) as server:
        assert server.address == UnixAddress(path)
        assert path in repr(server)
        await answer_one(server, path)
    assert not os.path.exists(path)


async def test_an_abstract_name():
    name = f"@aionet-test-{os.getpid()}"
    async with AsyncUnixConnectionServer(f"unix:{name}") as server:
        await answer_one(server, "\0" + name[1:])
        with pytest.raises(OSError) as caught:
            AsyncUnixConnectionServer(f"unix:{name}")
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("address", ["", b"", 5, SocketAddress(80), None, "/tmp/" + "x" * 200])
async def test_bad_addresses_are_refused(address):
    before = open_sockets()
    with pytest.raises((TypeError, ValueError)):
        AsyncUnixConnectionServer(address)
    assert open_sockets() == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"backlog": 0}, ValueError), ({"backlog": "1"}, TypeError), ({"options": 1}, TypeError)],
)
async def test_bad_arguments_are_refused_before_any_io(path, arguments, error):
    with pytest.raises(error):
        AsyncUnixConnectionServer(path, **arguments)
    assert not os.path.exists(path)


async def test_a_stale_path_is_replaced(path):
    make_stale(path)
    async with AsyncUnixConnectionServer(path) as server:
        await answer_one(server, path)
    assert not os.path.exists(path)


async def test_a_live_servers_path_is_never_taken(path):
    before = open_sockets()
    async with AsyncUnixConnectionServer(path) as server:
        with pytest.raises(OSError, match="socket") as caught:
            AsyncUnixConnectionServer(path)
        assert caught.value.errno == errno.EADDRINUSE
        await answer_one(server, path)
    assert open_sockets() == before


async def test_a_live_servers_path_is_not_taken_when_its_queue_is_full(path):
    async with AsyncUnixConnectionServer(path, backlog=1) as server:
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(path)
        with pytest.raises(OSError) as caught:
            AsyncUnixConnectionServer(path)
        assert caught.value.errno == errno.EADDRINUSE
        for sock in waiting:
            sock.close()
        assert os.path.exists(server.address.path)


@pytest.mark.parametrize("make", [lambda path: open(path, "x").close(), os.mkdir], ids=["file", "directory"])
async def test_something_else_than_a_socket_is_left_alone(path, make):
    make(path)
    with pytest.raises(OSError) as caught:
        AsyncUnixConnectionServer(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert os.path.exists(path)


async def test_a_symbolic_link_is_left_alone(path, tmp_path):
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError):
        AsyncUnixConnectionServer(path)
    assert os.path.islink(path)


async def test_nothing_that_is_no_dead_socket_is_removed_if_it_comes_between_two_looks(path, monkeypatch):
    """What is at the path when it is taken need not be what was looked at."""
    make_stale(path)
    real_rename, found = os.rename, {}

    def rename(source, target):
        monkeypatch.undo()
        os.unlink(source)
        with open(source, "x") as file:
            file.write("a stranger's")
        found["source"] = source
        return real_rename(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError) as caught:
        AsyncUnixConnectionServer(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert found["source"] == path
    with open(path) as file:
        assert file.read() == "a stranger's"
    assert os.listdir(os.path.dirname(path)) == ["socket"]


async def test_a_server_that_was_faster_at_a_stale_path_keeps_it(path, monkeypatch):
    make_stale(path)
    real_rename, faster = os.rename, []

    def rename(source, target):
        monkeypatch.undo()
        faster.append(AsyncUnixConnectionServer(path))
        return real_rename(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError) as caught:
        AsyncUnixConnectionServer(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert os.listdir(os.path.dirname(path)) == ["socket"]
    async with faster[0] as server:
        await answer_one(server, path)
    assert not os.path.exists(path)


@pytest.mark.parametrize("stale", [False, True])
async def test_a_strangers_lock_on_the_directory_holds_up_nothing(path, stale):
    if stale:
        make_stale(path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_SH)
        async with AsyncUnixConnectionServer(path) as server:
            await answer_one(server, path)
        assert not os.path.exists(path)
    finally:
        os.close(directory)


@contextlib.contextmanager
def without_privileges():
    """Root may read every directory."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("stale", [False, True])
async def test_a_directory_that_cannot_be_read(stale):
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o333)
        path = f"{directory}/socket"
        with without_privileges():
            if stale:
                make_stale(path)
            async with AsyncUnixConnectionServer(path) as server:
                await answer_one(server, path)
            assert not os.path.exists(path)
        os.chmod(directory, 0o700)
        assert os.listdir(directory) == []


async def test_a_relative_path_is_removed_after_the_directory_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = AsyncUnixConnectionServer("socket")
    assert server.address == UnixAddress("socket")
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    make_stale("socket")
    await server.aclose()
    assert os.listdir(tmp_path) == ["elsewhere"]
    assert os.listdir() == ["socket"]


async def test_a_path_is_removed_though_the_working_directory_is_gone(path, tmp_path, monkeypatch):
    os.mkdir(tmp_path / "gone")
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    async with AsyncUnixConnectionServer(path):
        pass
    assert not os.path.exists(path)


def directory_for(name, room):
    """A directory so long that the path of `name` in it is as long as can be, less `room`."""
    random = len(tempfile.gettempdir()) + len("/12345678/")
    return tempfile.TemporaryDirectory(prefix="d" * (107 - random - len(name) - room))


@pytest.mark.parametrize("room", [0, 1])
async def test_a_stale_socket_whose_path_is_as_long_as_can_be(room):
    with directory_for("socket-12", room) as directory:
        path = f"{directory}/socket-12"
        make_stale(path)
        async with AsyncUnixConnectionServer(path) as server:
            await answer_one(server, path)
        assert os.listdir(directory) == []


async def test_a_name_too_short_to_be_looked_at_twice_leaves_all_as_it_is():
    with directory_for("s", 0) as directory:
        make_stale(f"{directory}/s")
        with pytest.raises(OSError, match="dead socket") as caught:
            AsyncUnixConnectionServer(f"{directory}/s")
        assert caught.value.errno == errno.EADDRINUSE
        assert os.listdir(directory) == ["s"]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
async def test_a_socket_that_is_bound_is_alive_whatever_its_type(path, kind):
    with socket.socket(socket.AF_UNIX, kind) as bound:
        bound.bind(path)
        with pytest.raises(OSError) as caught:
            AsyncUnixConnectionServer(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.listdir(os.path.dirname(path)) == ["socket"]


async def test_a_failing_listen_leaves_no_file(path, monkeypatch):
    def listen(self, *args):
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(socket.socket, "listen", listen)
    with pytest.raises(OSError, match="no"):
        AsyncUnixConnectionServer(path)
    assert not os.path.exists(path)


FORKING = """
import asyncio, os, sys
from aionet import AsyncUnixConnectionServer

async def main():
    server = AsyncUnixConnectionServer(sys.argv[1])
    if not os.fork():
        server.close()
        os._exit(0)
    os.wait()
    print(os.path.exists(sys.argv[1]))
    server.close()
    print(os.path.exists(sys.argv[1]))

asyncio.run(main())
"""


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_forked_child_leaves_the_file_to_its_parent(path):
    command = [sys.executable, "-c", FORKING, path]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("True\nFalse\n", "")


async def test_a_missing_directory_is_an_error(path):
    with pytest.raises(OSError) as caught:
        AsyncUnixConnectionServer(path + "/deeper")
    assert caught.value.errno == errno.ENOENT


async def test_a_path_that_somebody_else_has_taken_meanwhile_is_left_at_closing(path):
    server = AsyncUnixConnectionServer(path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as usurper:
        usurper.bind(path)
        usurper.listen()
        await server.aclose()
        assert os.path.exists(path)


async def test_a_path_that_was_removed_meanwhile_is_no_error_at_closing(path):
    server = AsyncUnixConnectionServer(path)
    os.unlink(path)
    await server.aclose()


async def test_a_successor_keeps_its_path_when_its_predecessor_closes_late(path, tmp_path):
    first = AsyncUnixConnectionServer(path)
    os.rename(path, tmp_path / "moved")
    async with AsyncUnixConnectionServer(path) as second:
        await first.aclose()
        await answer_one(second, path)


async def test_adopting_a_descriptor_leaves_the_path_to_its_owner(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        fd = os.dup(listening.fileno())
    async with AsyncUnixConnectionServer.from_fd(fd) as server:
        assert server.address == UnixAddress(path)
        await answer_one(server, path)
    assert os.path.exists(path)


async def test_what_cannot_be_adopted_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unbound:
        for sock in (tcp, unbound):
            with pytest.raises(ValueError):
                AsyncUnixConnectionServer.from_fd(sock.fileno())
            assert sock.getsockname() is not None


async def test_accepted_sockets_carry_the_options(path):
    async with AsyncUnixConnectionServer(path, options=UnixOptions(send_buffer=50_000)) as server:
        with await RawPeer.connect(path, socket.AF_UNIX):
            accepted = await server.accept()
            with socket.socket(fileno=os.dup(accepted.fileno())) as view:
                assert view.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 100_000
            assert accepted.local_address == UnixAddress(path)
            accepted.abort()


async def test_a_server_that_is_just_starting_is_not_taken_for_a_dead_one(path, monkeypatch):
    """Between bind(2) and listen(2) a socket refuses connections, as a stale one does."""
    real_listen, outcomes = socket.socket.listen, []

    def listen(self, *args):
        monkeypatch.setattr(socket.socket, "listen", real_listen)
        try:
            outcomes.append(AsyncUnixConnectionServer(path))
        except OSError as error:
            outcomes.append(error)
        return real_listen(self, *args)

    monkeypatch.setattr(socket.socket, "listen", listen)
    first = AsyncUnixConnectionServer(path)
    (second,) = outcomes
    if not isinstance(second, OSError):
        await second.aclose()
    try:
        assert isinstance(second, OSError), "two servers believe that the path is theirs"
    finally:
        await first.aclose()


RACER = """
import sys, asyncio
from aionet import AsyncUnixConnectionServer

async def main():
    sys.stdin.readline()
    try:
        server = AsyncUnixConnectionServer(sys.argv[1])
    except OSError as error:
        print("lost", flush=True)
        sys.stdin.readline()
    else:
        print("won", flush=True)
        async with await server.accept() as accepted:
            await accepted.read()
            await accepted.write(b"hello")
        sys.stdin.readline()
        await server.aclose()

asyncio.run(main())
"""


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_of_several_servers_that_race_for_a_stale_path_one_wins(path):
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    make_stale(path)
    try:
        for racer in racers:
            racer.stdin.write(b"go\n")
            racer.stdin.flush()
        outcomes = await asyncio.to_thread(lambda: [racer.stdout.readline() for racer in racers])
        assert sorted(outcomes) == [b"lost\n", b"lost\n", b"won\n"]
        with await RawPeer.connect(path, socket.AF_UNIX) as peer:
            peer.send_now(b"?")
            assert await peer.receive_to_end() == b"hello"
    finally:
        for racer in racers:
            await asyncio.to_thread(racer.communicate, b"end\n", 10)
    assert not os.path.exists(path)


# Mode, owner and group of the file ----------------------------------------------------------------------


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_the_mode_is_what_was_asked_for(path, mode, umask):
    before = os.umask(umask)
    try:
        async with AsyncUnixConnectionServer(path, mode=mode) as server:
            assert mode_of(path) == mode
            await answer_one(server, path)
    finally:
        os.umask(before)
    assert not os.path.exists(path)


@pytest.mark.parametrize("named", [False, True])
async def test_the_group_is_what_was_asked_for(path, named):
    number = os.getgid()
    async with AsyncUnixConnectionServer(path, group=grp.getgrgid(number).gr_name if named else number):
        assert os.stat(path).st_gid == number


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
@pytest.mark.parametrize("named", [False, True])
async def test_the_owner_is_what_was_asked_for(path, named):
    user = pwd.getpwnam("nobody")
    async with AsyncUnixConnectionServer(
        path, mode=0o600, owner="nobody" if named else user.pw_uid
    ) as server:
        assert (os.stat(path).st_uid, mode_of(path)) == (user.pw_uid, 0o600)
        await answer_one(server, path)
    assert not os.path.exists(path)


async def test_a_client_cannot_connect_before_the_mode_is_set(path, monkeypatch):
    refused = []

    def chmod(target, mode):
        with socket.socket(socket.AF_UNIX) as early:
            refused.append(early.connect_ex(path))
        real_chmod(target, mode)

    real_chmod = os.chmod
    monkeypatch.setattr(os, "chmod", chmod)
    async with AsyncUnixConnectionServer(path, mode=0o600) as server:
        await answer_one(server, path)
    assert refused == [errno.ECONNREFUSED]


async def test_a_file_that_cannot_be_given_away_is_removed_again(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(
        OSError, match="owner or group of its file cannot be set: Operation not per"
    ) as caught:
        AsyncUnixConnectionServer(path, owner=0)
    assert caught.value.errno == errno.EPERM
    assert not os.path.exists(path)


async def test_another_file_at_the_path_is_left_alone(path, tmp_path):
    """A user that may write to the directory puts a link to a file of the server's user there."""
    with socket.socket(socket.AF_UNIX) as sock:
        file = bind_to_path(sock, path)
    other = tmp_path / "other"
    other.touch(mode=0o600)
    for replace in (os.symlink, os.link):
        os.unlink(path)
        replace(other, path)
        with pytest.raises(OSError, match="owner or group of its file cannot be set"):
            FileAccess(mode=0o666).grant(file)
        assert mode_of(other) == 0o600


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"mode": "660"}, TypeError),
        ({"mode": True}, TypeError),
        ({"mode": 0o1777}, ValueError),
        ({"mode": -1}, ValueError),
        ({"owner": "no such user"}, ValueError),
        ({"owner": -1}, ValueError),
        ({"owner": 1.5}, TypeError),
        ({"group": "no such group"}, ValueError),
        ({"group": True}, TypeError),
    ],
)
async def test_a_bad_mode_or_owner_is_refused_before_any_io(path, arguments, error):
    with pytest.raises(error, match=r"mode|owner|group"):
        AsyncUnixConnectionServer(path, **arguments)
    assert not os.path.exists(path)
    with pytest.raises(ValueError, match="those of a file"):
        AsyncUnixConnectionServer("unix:@aionet-test", group=0)
