"""``chat.py``: one room, heard by all, stopped by nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self

import pytest
from example_process import Example, connect


class Person:
    """A client of the chat: a blocking socket, read by lines."""

    def __init__(self, port: int, name: str = "", *, receive_buffer: int = 0) -> None:
        self.sock = connect(port, receive_buffer=receive_buffer)
        self.lines = self.sock.makefile("rb")
        self.read_prompt("Your name? ")
        if name:
            self.say(name)
            self.company = self.hear()

    def read_prompt(self, prompt: str) -> None:
        assert self.lines.read(len(prompt)) == prompt.encode()

    def say(self, line: str) -> None:
        self.sock.sendall(f"{line}\n".encode())

    def hear(self) -> str:
        line = self.lines.readline().decode()
        assert line.endswith("\n"), f"the stream ended in {line!r}"
        return line.removesuffix("\n")

    def close(self) -> None:
        self.lines.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@pytest.fixture
def port() -> Iterator[int]:
    with Example("chat", 0) as example:
        yield example.port()
        assert example.interrupt() == 0


def test_what_one_says_all_the_others_hear(port: int) -> None:
    with Person(port, "ada") as ada, Person(port, "grace") as grace, Person(port, "joan") as joan:
        assert ada.company == "* you are here with: nobody"
        assert joan.company == "* you are here with: ada, grace"
        assert [ada.hear(), ada.hear(), grace.hear()] == ["* grace joined", "* joan joined", "* joan joined"]
        grace.say("hello!")
        assert ada.hear() == joan.hear() == "grace: hello!"
        ada.say("hello, grace")
        assert grace.hear() == joan.hear() == "ada: hello, grace"  # and grace did not hear herself
        joan.close()
        assert ada.hear() == grace.hear() == "* joan left"


def test_a_name_is_asked_for_until_it_is_free(port: int) -> None:
    with Person(port, "ada"), Person(port) as other:
        other.say("  ")
        other.read_prompt("Your name? ")
        other.say("ada")
        other.read_prompt("That name is taken. Your name? ")
        other.say("grace")
        assert other.hear() == "* you are here with: ada"


def test_who_leaves_without_a_name_was_never_there(port: int) -> None:
    with Person(port, "ada") as ada:
        Person(port).close()
        with Person(port, "grace"):
            assert ada.hear() == "* grace joined"


def test_who_is_reset_has_left(port: int) -> None:
    with Person(port, "ada") as ada, Person(port, "grace") as grace:
        assert ada.hear() == "* grace joined"
        grace.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        grace.close()
        assert ada.hear() == "* grace left"


def test_what_could_steer_a_terminal_is_replaced(port: int) -> None:
    with Person(port, "ada") as ada, Person(port, "gr\x1b[2Jace") as grace:
        assert ada.hear() == "* gr?[2Jace joined"
        for evil in ("\x1b", "\x07", "\x9b", "\r", "\x00", "\u202e", "\u2028", "\x7f"):
            grace.say(f"hel{evil}lo")
            assert ada.hear() == "gr?[2Jace: hel?lo", f"{evil!r} came through"


def test_what_is_no_text_is_replaced(port: int) -> None:
    with Person(port, "ada") as ada, Person(port, "grace") as grace:
        ada.hear()
        grace.sock.sendall(b"\xff\x9b31m grace\xc3\xbc\n")
        assert ada.hear() == "grace: \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}31m graceü"


def test_a_long_line_ends_the_visit_and_a_long_name_is_cut(port: int) -> None:
    with Person(port, "ada") as ada, Person(port, "g" * 100) as grace:
        assert ada.hear() == f"* {'g' * 20} joined"
        grace.say("x" * 990)
        assert ada.hear() == f"{'g' * 20}: {'x' * 990}"
        grace.say("x" * 1001)
        assert grace.hear() == "* that line is too long, goodbye"
        assert grace.lines.read() == b""
        assert ada.hear() == f"* {'g' * 20} left"


def test_a_reader_that_stops_reading_stops_nobody_and_is_told_what_it_missed(port: int) -> None:
    with ExitStack() as stack:
        stuck = stack.enter_context(Person(port, "stuck", receive_buffer=2048))
        ada = stack.enter_context(Person(port, "ada"))
        grace = stack.enter_context(Person(port, "grace"))
        assert ada.hear() == "* grace joined"
        said = 0
        for _ in range(2000):  # 2 MB, which is more than the kernel and the outbox hold
            ada.say(f"{said} {'x' * 980}")
            assert grace.hear() == f"ada: {said} {'x' * 980}"  # grace hears all of it, and at once
            said += 1
        heard = [stuck.hear(), stuck.hear()]
        assert heard == ["* ada joined", "* grace joined"]
        notice = ""
        numbers = []
        while not notice:
            line = stuck.hear()
            if line.startswith("* you missed"):
                notice = line
            else:
                numbers.append(int(line.split()[1]))
        assert numbers == list(range(len(numbers)))
        assert notice == f"* you missed {said - len(numbers)} lines"
        grace.say("are you back?")
        assert stuck.hear() == "grace: are you back?"


def test_many_lines_at_once_reach_who_reads(port: int) -> None:
    with Person(port, "ada") as ada, Person(port, "grace") as grace:
        assert ada.hear() == "* grace joined"
        for start in range(0, 2000, 400):
            lines = [f"line {number}" for number in range(start, start + 400)]
            grace.say("\n".join(lines))
            assert [ada.hear() for _ in lines] == [f"grace: {line}" for line in lines]
