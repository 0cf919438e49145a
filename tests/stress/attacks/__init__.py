"""Attacks on servers, each a small program, with the frame that runs and measures them.

Theory of operation
-------------------
*An attack* is a module with a generator function ``attack(target, **options)``. It opens connections through
its `target` and yields once when it is prepared, and then ``(events, bytes)`` for each step: how many hostile
events the step was, and how many bytes they cost the attacker. `attacker` runs one in a process of its own,
counts, and keeps to a rate if there is one.

*A server* (`servers`) is ours, as `aionet serve` starts it with the limits that the guide recommends, or one
to compare with: asyncio's streams on uvloop, or a bare epoll loop in C, over OpenSSL for TLS. *The probe* is
the honest client: echoes that are due at fixed times, on held connections or on a new one each.

*The same programs serve two purposes.* The tests here run them for a moment and bound what does not depend
on the clock: CPU time per event, by the server's own CPU clock and relative to another server or to honest
work in the same run, and what the server holds. ``benchmarks/attacks.py`` runs them at length beside the
probe, and writes docs/attacks.md.

The server has one core, attacker and probe another, where there are two.
"""
