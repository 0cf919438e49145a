"""TOML: reading a file, with mistakes in one line each, and writing values."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

__all__ = ["InvalidFileError", "read_file", "toml_value"]


_LONG_NUMBER = 512  # bits; what has more is written in hexadecimal, whose length Python does not limit
_UNPRINTABLE = re.compile(r"[\x7f-\xa0\xad\u2028-\u202e\u2066-\u2069\ufeff]")  # beside what JSON escapes


class InvalidFileError(ValueError):
    """The file cannot be read; the message is one line that names it and the place."""


def read_file(file: str) -> dict[str, object]:
    """Return what is in `file`. Raises `InvalidFileError`."""
    try:
        text = Path(file).read_bytes().decode()
    except OSError as error:
        raise InvalidFileError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidFileError(f"{file}: line {line}: this is not UTF-8") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidFileError(f"{file}: {_place_first(str(error), text)}") from error
    except ValueError as error:  # int() has a limit of its own, which tomllib lets through
        raise InvalidFileError(f"{file}: {_place_of_long_number(text)}") from error
    except RecursionError as error:
        raise InvalidFileError(f"{file}: nested too deeply") from error


def _place_first(message: str, text: str) -> str:
    """Turn tomllib's "what (at line 3, column 4)" into "line 3, column 4: what"."""
    message = message.replace("\n", " ")
    if found := re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message):
        what, line, column = found.groups()
        return f"line {line}, column {column}: {what}"
    lines = text.split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}: {message.removesuffix(' (at end of document)')}"


def _place_of_long_number(text: str) -> str:
    """Return where the first number stands that has more digits than Python reads, and that it has."""
    most = sys.get_int_max_str_digits()
    found = re.search(rf"[0-9](?:_?[0-9]){{{most}}}", text)
    before = text[: found.start()] if found else ""
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return f"line {line}, column {column}: a number of more than {most} digits"


def toml_value(value: object) -> str:
    """Return as TOML a `value` that came from there, or a boolean, a number, a text or a list of such."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _UNPRINTABLE.sub(_escaped, json.dumps(value, ensure_ascii=False))
    if isinstance(value, int):
        return str(value) if value.bit_length() <= _LONG_NUMBER else hex(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return str(value)  # a float is the same in both; a date or a table is only ever shown


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
