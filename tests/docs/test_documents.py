"""Every Python block of the documents is a program that runs and prints what the document says."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import until_listening, unused_port

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(document: str) -> list[tuple[str, str]]:
    """The fenced blocks of a document: language and text."""
    return _BLOCK.findall((ROOT / document).read_text())


def programs_of(document: str) -> list[tuple[str, str | None]]:
    """The Python blocks, each with the text block right after it, if there is one."""
    blocks = [*blocks_of(document), ("", "")]
    return [
        (text, following[1] if following[0] == "text" else None)
        for (language, text), following in itertools.pairwise(blocks)
        if language == "python"
    ]


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


README = programs_of("README.md")
SELF_CONTAINED = [pytest.param(*program, id=f"README-{n}") for n, program in enumerate(README[2:])] + [
    pytest.param(*program, id=f"{Path(document).stem}-{n}")
    for document in ("docs/guide.md", "docs/facing-the-internet.md")
    for n, program in enumerate(programs_of(document))
]


@pytest.mark.parametrize(("program", "expected"), SELF_CONTAINED)
def test_a_block_prints_what_the_document_says(program: str, expected: str | None) -> None:
    printed = run(program)
    if expected is not None:
        assert printed == expected


def test_the_server_and_the_client_of_the_readme_talk_to_each_other() -> None:
    port = str(unused_port())
    (server, _), (client, expected) = README[:2]
    assert expected is not None
    with subprocess.Popen([sys.executable, "-c", server.replace("3000", port)]) as serving:
        try:
            until_listening(int(port))
            assert run(client.replace("3000", port)) == expected.replace("3000", port)
        finally:
            serving.terminate()
    assert serving.returncode == 0


def test_the_commands_of_the_readme_exist() -> None:
    shell = "\n".join(text for language, text in blocks_of("README.md") if language == "sh")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in set(re.findall(r"python -m aionet (\w+)", shell)):
        subprocess.run(
            [sys.executable, "-m", "aionet", command, "--help"],
            check=True,
            capture_output=True,
            env=environment,
        )
