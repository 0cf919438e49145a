"""The compiled engine: whether it is there, and whether it is to be used.

Theory of operation
-------------------
The C files beside this one become the extension module `_compiled` where a compiler was at hand when aionet
was installed (`setup.py`); without it everything runs on the portable engine. `AIONET_ENGINE` asks for one of
the two by name, and fails loudly where it cannot be had: a service that was measured on one engine should not
silently start on another.

`compiled` is the module, or ``None`` when the portable engine runs. Its types become aionet's in three
places: `loop_state` (the reactor of a loop), `wires.native` (a wire) and `selector` (an event loop's
selector).
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

__all__ = ["compiled", "why_portable"]

_VARIABLE = "AIONET_ENGINE"


def _load() -> tuple[ModuleType | None, str]:
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("", "native", "portable"):
        raise RuntimeError(f"{_VARIABLE}={wanted!r}: expected 'native' or 'portable'")
    if wanted == "portable":
        return None, f"{_VARIABLE}=portable"
    try:
        engine = import_module("._compiled", __name__)  # says plainly what is missing
    except ImportError as error:
        if wanted == "native":
            raise RuntimeError(
                f"{_VARIABLE}=native, but this installation has no compiled engine: {error}"
            ) from error
        return None, f"no compiled engine: {error}"
    return engine, ""


compiled, why_portable = _load()
"""The compiled engine, or ``None``; and then, why."""
