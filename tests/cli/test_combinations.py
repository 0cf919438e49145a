"""Options that would change nothing, or cannot work together, are refused with one line."""

from __future__ import annotations

import pytest

from aionet.cli.main import main

UNIX = ["--bind", "unix:/nowhere/at/all"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["echo", *UNIX, "--keepalive", "60"], "--keepalive needs an address HOST:PORT"),
        (["echo", *UNIX, "--user-timeout", "5"], "--user-timeout needs an address HOST:PORT"),
        (["serve", "app:handler", *UNIX, "--keepalive", "60"], "--keepalive needs an address HOST:PORT"),
        (["relay", "unix:/a", "unix:/b", "--user-timeout", "5"], "--user-timeout needs an address HOST:PORT"),
        (["relay", "unix:/a", "unix:/b", "--keepalive", "60"], "--keepalive needs an address HOST:PORT"),
        (["connect", "unix:/a", "--keepalive", "60"], "--keepalive needs an address HOST:PORT"),
        (["serve", "app:handler", "--shared-listener"], "--shared-listener needs --workers"),
        (["serve", "app:handler", "--worker-timeout", "5"], "--worker-timeout needs --workers"),
        (["serve", "app:handler", "--replace"], "--replace needs --control"),
        (
            ["echo", "--drain-spread", "100", "--drain-grace", "1"],
            "--drain-spread 100 is longer than --drain-grace 1",
        ),
        (
            ["serve", "app:handler", "--reload", "--bind", "systemd:web"],
            "--reload cannot serve systemd:web: systemd passes sockets to one process (LISTEN_PID)",
        ),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_they_are_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str, check: bool
) -> None:
    if check and (words[0] in ("relay", "connect") or "--reload" in words):
        pytest.skip("it has no --check")
    code = main([*words, *["--check"][:check]])
    out, err = capsys.readouterr()
    assert (code, out) == (2 if check else 1, "")
    assert err.startswith(f"aionet: {message}")


@pytest.mark.parametrize(
    "words",
    [
        ["--keepalive", "60", *UNIX, "--bind", "127.0.0.1:0"],
        ["--keepalive", "60", "--bind", "systemd:web"],
        ["--keepalive", "off", *UNIX],
        ["--drain-spread", "5", "--drain-grace", "5"],
        ["--access-log", "off", "--access-log-file", "log"],
    ],
)
def test_what_goes_together(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["echo", *words, "--check"]) == 0
    assert capsys.readouterr().err == ""
