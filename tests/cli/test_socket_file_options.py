"""``--socket-mode``, ``--socket-owner``, ``--socket-group``: which users may connect over Unix."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import PATIENCE, AionetServer, aionet, connect_raw

SERVERS = {
    "echo": ("echo", "--bind"),
    "workers": ("serve", "aionet.cli.echo:echo", "--workers", 2, "--bind"),
    "relay": ("relay",),
}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", SERVERS)
def test_the_file_has_the_mode_and_the_group(tmp_path: Path, name: str) -> None:
    path, group = tmp_path / "socket", grp.getgrgid(os.getgid()).gr_name
    target = ("127.0.0.1:1",) if name == "relay" else ()
    more = (f"unix:{path}", *target, "--socket-mode", "0620", "--socket-group", group)
    with AionetServer(*SERVERS[name], *more) as server:
        assert (mode_of(path), path.stat().st_gid) == (0o620, os.getgid())
        connect_raw(server.address).close()
        server.signal()
        assert server.ended()[0] == 0
    assert not path.exists()


CONNECT_AS_NOBODY = """\
import os, pwd, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(pwd.getpwnam("nobody").pw_uid)
sys.exit(socket.socket(socket.AF_UNIX).connect_ex(sys.argv[1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize(
    ("more", "allowed"),
    [(("--socket-mode", "600"), False), (("--socket-mode", "600", "--socket-owner", "nobody"), True)],
)
def test_another_user(tmp_path: Path, more: tuple[str, ...], allowed: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are private
        os.chmod(directory, 0o755)
        path = f"{directory}/socket"
        with AionetServer("echo", "--bind", f"unix:{path}", *more) as server:
            code = [sys.executable, "-S", "-c", CONNECT_AS_NOBODY, path]
            done = subprocess.run(code, timeout=PATIENCE, check=False)
            server.signal()
            assert server.ended()[0] == 0
    assert done.returncode == (0 if allowed else 13)  # EACCES


def test_a_successor_gives_the_file_its_own_mode(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    arguments = ("serve", "aionet.cli.echo:echo", "--bind", f"unix:{path}", "--control", tmp_path / "control")
    with (
        AionetServer(*arguments, "--socket-mode", "600") as old,
        AionetServer(*arguments, "--replace", "--socket-mode", "666") as new,
    ):
        assert old.ended()[0] == 0
        assert mode_of(path) == 0o666
        connect_raw(new.address).close()


def test_they_come_from_a_file_and_are_printed_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text(
        '[serve]\nbind = "unix:socket"\nsocket_mode = "660"\nsocket_owner = 0\n'
    )
    done = aionet("echo", "--config", tmp_path / "app.toml", "--check")
    assert done.returncode == 0
    assert 'socket_mode = "660"' in done.stdout.decode()
    assert "socket_owner = 0" in done.stdout.decode()
    (tmp_path / "again.toml").write_bytes(done.stdout)
    again = aionet("echo", "--config", tmp_path / "again.toml", "--check")
    assert again.returncode == 0
    assert b'socket_mode = "660"' in again.stdout


@pytest.mark.parametrize("number", ["0o660", "660", "432"])
def test_a_mode_in_the_file_is_a_text(tmp_path: Path, number: str) -> None:
    """A number does not show there how it was written, and the wrong one lets others in."""
    (tmp_path / "app.toml").write_text(f'[serve]\nbind = "unix:socket"\nsocket_mode = {number}\n')
    done = aionet("serve", "aionet.cli.echo:echo", "--config", "app.toml", "--check", cwd=tmp_path)
    assert done.returncode == 2
    place = f"app.toml: serve.socket_mode = {int(number, 0)}"
    assert f'{place}: expected a text, as "660"' in done.stderr.decode()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--socket-mode", "rw"), 2, "'rw': expected three octal digits, as 660"),
        (("--socket-mode", "888"), 2, "'888': expected three octal digits, as 660"),
        (("--socket-owner", "no such user"), 2, "owner: there is no user 'no such user' here"),
        (("--socket-group", "no such group"), 2, "group: there is no group 'no such group' here"),
        (("--socket-mode", "660"), 1, "--socket-mode needs an address unix:PATH: no other one has a file"),
        (("--bind", "unix:@abstract", "--socket-group", "0"), 1, "--socket-group needs an address unix:PATH"),
    ],
)
def test_bad_usage(more: tuple[str, ...], code: int, message: str) -> None:
    done = aionet("echo", "--bind", "127.0.0.1:0", *more)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()
    checked = aionet("echo", "--bind", "127.0.0.1:0", *more, "--check")
    assert (checked.returncode, checked.stdout) == (2, b"")
    assert message in checked.stderr.decode()
