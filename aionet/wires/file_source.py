"""What a file that is sent is read from: the descriptor of a regular file, or the file's own read().

Theory of operation
-------------------
A descriptor may be read in the file's place only where that gives the same bytes: if the file is the standard
library's own, raw or buffered, with nothing in between that would change them (compression, an archive, a
class that overrides `read`). Everything else is read by its `read()`.

Neither may wait, because both happen in the event loop's thread. The kernel makes a regular file wait for the
disk only, but a pipe, a socket or a terminal for as long as it is silent; so a file over one of those is
refused, also where something lies in between.
"""

from __future__ import annotations

import io
import os
import stat
from typing import IO, Any

__all__ = ["regular_file"]

_BUFFERED = (io.BufferedReader, io.BufferedRandom, io.BufferedWriter)
_TEMPORARY = {"_TemporaryFileWrapper": "file", "SpooledTemporaryFile": "_file"}


def regular_file(file: IO[bytes]) -> io.FileIO | None:
    """Return the regular file beneath `file` if sending its bytes is sending those of `file`, else ``None``.

    What was written to `file` and is still in its buffer is flushed.

    Raises:
        TypeError: `file` is a text file.
        ValueError: it is closed, or cannot be read, or is over a pipe, a socket, a terminal or the like.
        OSError: it cannot be flushed.
    """
    inner = _without_wrapper(file)
    if isinstance(inner, io.TextIOBase):
        raise TypeError(f"send_file() needs a file opened in binary mode, not {file!r}")
    _refuse_what_may_be_silent(inner)
    raw = inner.raw if type(inner) in _BUFFERED else inner
    if type(raw) is not io.FileIO:
        return None
    if not raw.readable():
        raise io.UnsupportedOperation(f"send_file() needs a file that can be read, not {file!r}")
    inner.flush()
    return raw


def _without_wrapper(file: Any) -> Any:
    """Return the file in one of `tempfile`'s; asking a spooled one for more would write it to the disk."""
    kind = type(file)
    attribute = _TEMPORARY.get(kind.__name__) if kind.__module__ == "tempfile" else None
    return file if attribute is None else getattr(file, attribute, file)


def _refuse_what_may_be_silent(file: Any) -> None:
    try:
        number = file.fileno()
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return
    if number >= 0 and not stat.S_ISREG(os.fstat(number).st_mode):
        raise ValueError(f"send_file() needs a regular file, not {file!r}: reading that might wait")
