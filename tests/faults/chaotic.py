"""The chaos of `stress/test_chaos.py` where system calls fail: a program for `test_chaotic.py`.

It runs with `faults.c` preloaded. Its arguments are a loop, how many seconds, and seeds.
"""

from __future__ import annotations

import errno
import random
import sys

from stress.test_chaos import run_chaos

from .plans import LOOPS, plan

FAULTS = [
    ("epoll_ctl", errno.ENOSPC),
    ("epoll_create1", errno.EMFILE),
    ("send", errno.ENOBUFS),
    ("accept4", errno.EMFILE),
]


def make_faults(rng: random.Random) -> None:
    """Have one to three calls of a kind fail."""
    kind, number = rng.choice(FAULTS)
    plan(kind, rng.randrange(1, 4), rng.randrange(1, 4), number)


if __name__ == "__main__":
    new_loop = LOOPS[sys.argv[1]]()
    new_loop().close()  # what a loop opens once per process is no leak
    for seed in sys.argv[3:]:
        for kind, _ in FAULTS:
            plan(kind, 1, 0, 0)
        counts = run_chaos(new_loop, float(sys.argv[2]), int(seed), make_faults).counts
        assert counts["faults"], "no faults were made"
