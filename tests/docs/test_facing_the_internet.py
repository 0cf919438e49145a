"""The recommended limits agree: as a command, in a file, in a program, and where attacks are measured."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import trustme
from command_line import aionet
from stress.attacks.servers import RECOMMENDED
from test_documents import blocks_of

from aionet import ConnectionLimits

PAGE = "docs/facing-the-internet.md"


def block(language: str) -> str:
    """The one block of a language that the page has, or the first."""
    return next(text for found, text in blocks_of(PAGE) if found == language)


def words() -> list[str]:
    """The recommended command, from ``serve`` on."""
    return shlex.split(block("sh").replace("\\\n", ""))[1:]


def checked(*arguments: str, directory: Path) -> dict[str, Any]:
    """What ``--check`` makes of a command or a file."""
    done = aionet(*arguments, "--check", "--json", cwd=directory)
    assert done.returncode == 0, done.stderr
    options = json.loads(done.stdout)
    return {name: option["value"] for name, option in options.items() if name not in ("config", "json")}


def test_the_recommended_command_and_file_and_program_agree(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("server.example")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "app.py").write_text("async def handler(socket): pass\n")
    (tmp_path / "app.toml").write_text(block("toml"))
    command = checked(*words(), directory=tmp_path)
    file = checked("serve", "--config", "app.toml", directory=tmp_path)
    assert command == file

    program: dict[str, Any] = {}
    exec(block("python").partition("async def")[0], program)
    limits: ConnectionLimits = program["LIMITS"]
    given = [name for name in vars(limits) if f"--{name.replace('_', '-')}" in words()]
    assert {name: getattr(limits, name) for name in given} == {name: command[name] for name in given}
    assert limits == ConnectionLimits(**{name: getattr(limits, name) for name in given})


def test_attacks_are_measured_with_the_recommended_limits() -> None:
    recommended = " ".join(words())
    for option, value in zip(RECOMMENDED[::2], RECOMMENDED[1::2], strict=True):
        assert f"{option} {value}" in recommended
