"""Records like those of ``aionet bench --json``, with figures that a test can work out in its head."""

from __future__ import annotations

from typing import Any

C_RATE = 200_000.0  # requests per CPU second of the C server, in every case


def turn(peer: str, share: float, number: int = 0, **other: Any) -> dict[str, Any]:
    """One turn of a peer that reaches that share of the C server."""
    facts: dict[str, Any] = {
        "workload": "accept",
        "peer": peer,
        "engine": "native" if peer.startswith("aionet") else None,
        "loop": None,
        "connections": 64,
        "size": 1,
        "round": number,
        "seconds": 1.0,
        "requests": round(C_RATE * share),
        "rate": C_RATE * share,
        "server_cpu_seconds": 1.0,
        "requests_per_cpu_second": C_RATE * share,
        "latency": {
            "p50": 1e-3,
            "p90": 2e-3,
            "p99": 3e-3,
            "p99.9": 5e-3,
            "p99.99": 8e-3,
            "max": 2e-2,
        },
        "open_loop_rate": None,
        "starved": 0,
        "errors": {},
        "bytes_compared": 1,
        "load_busy_share": 0.9,
        "saturated": False,
        "listen_overflows": 0,
        "listen_drops": 0,
    }
    return facts | other


def record(*turns: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A record of these turns."""
    facts: dict[str, Any] = {
        "schema": 1,
        "command": ["aionet", "bench", "accept", "--against", "all"],
        "started": "2026-11-28T12:00:00+00:00",
        "machine": {"cpu": "A Processor", "cpus": 2, "kernel": "Linux 6.18", "memory": 8 << 30},
        "python": {"version": "3.11.2"},
        "versions": {"aionet-toolkit": "0.1.0"},
        "skipped": {},
        "turns": list(turns),
    }
    return facts | other


def three_rounds(peer: str, *shares: float, **other: Any) -> list[dict[str, Any]]:
    """A turn for each of the shares, in rounds of their own."""
    return [turn(peer, share, number, **other) for number, share in enumerate(shares)]
