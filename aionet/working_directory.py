"""The working directory under the name by which the user knows it.

Theory of operation
-------------------
The kernel knows a directory, not its name: where ``/srv/app/current`` is a symbolic link, getcwd(2) says
``/srv/app/releases/7``. A deployment that switches the link and then asks for a reload or a restart means the
directory that has the name now. A shell keeps the name in ``$PWD``, and POSIX (pwd(1), ``-L``) says when to
believe it: if it is absolute, has no ``.`` and ``..``, and names the very directory that is the working one.

Other paths that a program has made absolute by itself begin with the kernel's name of the directory: entries
of `sys.path`, the interpreter, the main script. `WorkingDirectory.renamed` gives them the user's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

__all__ = ["WorkingDirectory"]


@dataclass(frozen=True)
class WorkingDirectory:
    """The working directory at the moment of `now`; both names are ``None`` if it was removed."""

    name: str | None
    """What the user calls it."""
    real: str | None
    """What the kernel calls it."""

    @classmethod
    def now(cls) -> Self:
        """Return the present one."""
        try:
            real = os.getcwd()
        except FileNotFoundError:
            return cls(None, None)
        name = os.environ.get("PWD", "")
        return cls(name if _is_logical(name) else real, real)

    def renamed(self, path: str) -> str:
        """Return `path` with the user's name of this directory, if it lies there."""
        if self.name is None or self.real is None or self.name == self.real:
            return path
        if path == self.real:
            return self.name
        beneath = os.path.join(self.real, "")
        return os.path.join(self.name, path.removeprefix(beneath)) if path.startswith(beneath) else path


def _is_logical(name: str) -> bool:
    if not os.path.isabs(name) or {".", ".."} & set(name.split("/")):
        return False
    try:
        return os.path.samefile(name, ".")
    except OSError:
        return False
