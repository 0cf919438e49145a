"""The parser of each command: mistakes in a line or two, with what was probably meant.

Theory of operation
-------------------
argparse prints all options before it says what is wrong, and a flag that a command does not have is blamed on
the program above it. Here the first line says what is wrong, and the second how the command is called.

A flag with a typo is found before anything is parsed: its value would be taken for an argument in another
place, and the mistake blamed on that one. No value of an option begins with two dashes.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ..announcing import say
from .standard_streams import print_out

__all__ = ["CommandParser", "TextOnly", "did_you_mean"]

_NEAR = 0.7  # how much alike two words are that are taken for one: 0 to 1


class TextOnly:
    """An argparse type whose value is a text in a configuration file, too.

    A number there no longer shows how it was written: 0o660 and 432 are the same to TOML.
    """

    def __init__(self, convert: Callable[[str], object], example: str) -> None:
        self._convert = convert
        self.example = example

    def __call__(self, text: str) -> object:
        return self._convert(text)


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` with short messages."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse everything: nothing is left to the parser above."""
        if args is not None and self._subparsers is None:
            self._refuse_unknown_flags(args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse_unknown_flags(unknown)
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, []

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with exit code 2."""
        say(f"{self.prog}: error: {message}")
        say(f"usage: {self.prog} {self._in_short()}; {self.prog} --help has more")
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write the help, or the version; argparse itself takes no notice of an output that fails."""
        print_out(message)

    def _in_short(self) -> str:
        if self._subparsers is not None:
            return "COMMAND ..."
        arguments = [
            f"[{action.metavar} ...]" if action.nargs == "*" else str(action.metavar)
            for action in self._get_positional_actions()
        ]
        return " ".join(["[options]", *arguments])

    def _refuse_unknown_flags(self, arguments: Sequence[str]) -> None:
        options = self._option_string_actions
        for argument in arguments:
            flag = argument.partition("=")[0]
            if flag == "--":
                return
            if flag.startswith("--") and not any(option.startswith(flag) for option in options):
                self.error(f"unknown option {flag}{did_you_mean(flag, options)}")


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the end of a message about an unknown `word`: the one of `words` that is nearest, if any is.

    Their beginnings count as well, because options may be shortened.
    """

    def likeness(known: str) -> float:
        name, other = word.lstrip("-"), known.lstrip("-")
        return max(difflib.SequenceMatcher(None, name, text).ratio() for text in (other, other[: len(name)]))

    nearest = max(words, key=likeness)
    return f"; did you mean {nearest}?" if likeness(nearest) >= _NEAR else ""
