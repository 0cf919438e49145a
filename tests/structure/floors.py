"""Which floor each module stands on: imports run within a floor or downward. ARCHITECTURE.md shows it too."""

from __future__ import annotations

__all__ = ["FLOORS", "floor_of"]

FLOORS: dict[int, tuple[str, ...]] = {
    0: (
        "errors",
        "addresses",
        "options",
        "tcp_info",
        "receive_buffer",
        "version",
        "accept_errors",
        "announcing",
        "line_limit",
        "peers",
        "handshake_places",
        "cleaning_up",
        "close_reason",
        "hanging_up",
        "early_signals",
        "first_process",
        "process_signals",
        "working_directory",
        "tls_failure",
        "no_copies",
        "open_files",
    ),
    1: ("wires", "native", "engine"),
    2: (
        "racing",
        "resolving",
        "dialing",
        "listening",
        "socket_file",
        "accepting",
        "scope",
        "tls",
        "unfinished",
        "signals",
    ),
    3: (
        "stream_socket",
        "tcp_socket",
        "unix_socket",
        "stream_server",
        "tls_handshakes",
        "tcp_connection_server",
        "unix_connection_server",
        "network_toolkit",
    ),
    4: (
        "connection",
        "connection_task",
        "traffic",
        "limiting",
        "spawner",
        "spawner_stats",
        "verdict",
        "draining",
        "serving",
        "running",
        "held_listeners",
        "message_channel",
        "succession",
        "workers",
    ),
    5: (
        "adapters",
        "proxy_protocol",
        "relaying",
        "observing",
        "testing",
        "",  # aionet itself, which re-exports
    ),
    6: ("cli", "bench", "__main__"),
}
"""Floor -> modules, or packages with all that is in them, below `aionet`."""


def floor_of(module: str) -> int:
    """Return the floor of `module`, a dotted name that starts with ``aionet``; `KeyError` if it has none."""
    room = module.removeprefix("aionet").lstrip(".").partition(".")[0]
    for floor, rooms in FLOORS.items():
        if room in rooms:
            return floor
    raise KeyError(f"{module} is on no floor: enter it in tests/structure/floors.py and in ARCHITECTURE.md")
