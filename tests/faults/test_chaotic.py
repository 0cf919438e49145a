"""The chaos, where system calls fail for lack of resources: its books balance as ever."""

from __future__ import annotations

import pytest
from stress.test_chaos import SECONDS, announced, seeds_for

from .preloading import LOOPS, run_preloaded


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("loop", LOOPS)
def test_chaos_without_resources(loop: str, capfd: pytest.CaptureFixture[str]) -> None:
    seeds = announced(seeds_for(2), capfd)
    lines = run_preloaded("chaotic", loop, str(SECONDS / len(seeds)), *map(str, seeds))
    assert any("ResourceExhaustedError" in line for line in lines)
