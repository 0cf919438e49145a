"""Releases are directories, and ``current`` is a symbolic link to one, which a deployment switches."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from command_line import PATIENCE, AionetServer, connect_raw, receive_to_end
from processes import Process, children_of

APP = """\
from pathlib import Path

CODE = {release}

async def release(socket):
    await socket.write(f"{{CODE}} {{Path('asset').read_text()}}".encode())
"""


@pytest.fixture
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The link to the first of two releases, where a shell would have gone."""
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "app.py").write_text(APP.format(release=release))
        (tmp_path / release / "asset").write_text(release)
        (tmp_path / release / "app.toml").write_text("[serve]\nhandler = 'app:release'\n")
    link = tmp_path / "current"
    link.symlink_to("1")
    monkeypatch.setenv("PWD", str(link))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return link


def switch(current: Path) -> None:
    current.with_name("next").symlink_to("2")
    current.with_name("next").replace(current)


def answer(address: str) -> str:
    with connect_raw(address) as sock:
        return receive_to_end(sock).decode()


def serving(current: Path, *more: object) -> AionetServer:
    return AionetServer("serve", "--config", "app.toml", "--bind", "127.0.0.1:0", *more, cwd=current)


@pytest.mark.parametrize("old_release", [pytest.param("kept", marks=pytest.mark.slow), "removed"])
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
@pytest.mark.parametrize("mode", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_the_new_release_serves(
    current: Path, mode: list[str], number: signal.Signals, old_release: str
) -> None:
    with serving(current, *mode) as server:
        assert answer(server.address) == "1 1"
        switch(current)
        if old_release == "removed":
            shutil.rmtree(current.with_name("1"))
        server.signal(number)
        if mode and number == signal.SIGHUP:
            server.expect("reloaded: 2 new workers")
            assert {answer(server.address) for _ in range(8)} == {"2 2"}
            server.signal()
            assert server.ended()[0] == 0
            return
        server.expect(f"is to be the successor, in {current}")
        while (event := server.next_event())["event"] != "listening":
            pass
        with Process(event["pid"]) as successor:
            assert server.process.wait(PATIENCE) == 0
            assert {answer(server.address) for _ in range(8)} == {"2 2"}
            successor.signal(signal.SIGTERM)
            assert successor.ends()


def test_a_worker_that_ends_is_replaced_though_its_release_was_removed(current: Path) -> None:
    with serving(current, "--workers", "1", "--control", current.with_name("control")) as server:
        switch(current)
        shutil.rmtree(current.with_name("1"))
        [worker] = children_of(server.process.pid)
        os.kill(worker, signal.SIGKILL)
        server.expect("takes the place of")
        assert answer(server.address) == "2 2"
        server.signal()
        assert server.ended()[0] == 0


@pytest.mark.parametrize("mode", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_a_link_that_is_missing_changes_nothing(current: Path, mode: list[str]) -> None:
    with serving(current, *mode) as server:
        current.unlink()
        server.signal(signal.SIGHUP)
        server.expect(f"No such file or directory: '{current}'")
        assert answer(server.address) == "1 1"
        server.signal()
        assert server.ended()[0] == 0


def test_a_name_that_is_another_directorys_is_not_believed(current: Path) -> None:
    """As after a ``chdir`` that set no ``$PWD``."""
    real = current.with_name("2")
    with AionetServer("serve", "app:release", "--bind", "127.0.0.1:0", "--workers", 1, cwd=real) as server:
        assert answer(server.address) == "2 2"
        server.signal(signal.SIGHUP)
        server.expect("reloaded: 1 new workers")
        assert answer(server.address) == "2 2"
        server.signal()
        assert server.ended()[0] == 0


def test_a_current_directory_that_is_gone(tmp_path: Path) -> None:
    """Is an error only where something is to be imported from it."""
    (tmp_path / "gone").mkdir()
    prefix = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh"]
    with AionetServer("echo", "--bind", "127.0.0.1:0", cwd=tmp_path / "gone", prefix=prefix) as server:
        with connect_raw(server.address) as sock:
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
        server.signal()
        assert server.ended()[0] == 0
