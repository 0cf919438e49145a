"""`ConnectionLimits`: what a spawner allows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ConnectionLimits"]


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """One policy for all connections of a spawner.

    Raises `TypeError` or `ValueError`, naming the limit and its value.
    """

    max_connections: int | None = None
    """Connections served at a time; further ones wait in the kernel's queue. ``None``: no limit."""

    def __post_init__(self) -> None:
        limit = self.max_connections
        if limit is None:
            return
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"max_connections must be a number of connections or None, not {limit!r}")
        if limit < 1:
            raise ValueError(f"max_connections must be at least 1, not {limit}")
