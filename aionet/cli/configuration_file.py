"""TOML: reading a file, with mistakes in one line each, and writing values."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

__all__ = ["InvalidFileError", "read_file", "toml_value"]


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


def toml_value(value: object) -> str:
    """Return as TOML a `value` that came from there, or a boolean, a number, a text or a list of such."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return str(value)  # a number is the same in both; a date or a table is only ever shown
