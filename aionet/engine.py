"""Which engine runs, and the wires it makes.

The only one so far is the portable engine. `AIONET_ENGINE` asks for one by name and fails loudly where it
cannot be had: a service that was measured on one engine should not silently start on another.
"""

from __future__ import annotations

import os
from typing import Literal

from .wires.portable import PortableWire

__all__ = ["Implementation", "implementation", "stream_wire"]

Implementation = Literal["native", "portable"]

_VARIABLE = "AIONET_ENGINE"


def implementation() -> Implementation:
    """Return the engine that runs: ``"native"`` or ``"portable"``.

    Raises:
        RuntimeError: the environment variable ``AIONET_ENGINE`` asks for one that this installation lacks.
    """
    wanted = os.environ.get(_VARIABLE, "")
    if wanted == "native":
        raise RuntimeError(f"{_VARIABLE}=native, but this installation has no compiled engine")
    if wanted not in ("", "portable"):
        raise RuntimeError(f"{_VARIABLE}={wanted!r}: expected 'native' or 'portable'")
    return "portable"


implementation()  # fails at import where the environment asks for what is not there

stream_wire = PortableWire
"""Makes a wire of a connected, non-blocking socket."""
