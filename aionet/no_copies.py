"""Objects that are one of a kind: what owns a descriptor, tasks or a loop's settings cannot be copied.

Theory of operation
-------------------
`copy.copy`, `copy.deepcopy` and `pickle` all ask an object for `__reduce_ex__`, whose default calls
`__reduce__` where a class has one of its own. A copy would share the descriptor of the original, with state
of its own about it, so the classes that own something have `__reduce__ = refuse_to_be_copied`.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["refuse_to_be_copied"]


def refuse_to_be_copied(self: object) -> NoReturn:
    """Raise `TypeError`; in the place of `__reduce__`."""
    raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object: it owns what it stands for")
