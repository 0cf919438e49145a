"""`aionet bench`: how fast this machine accepts and echoes, measured with a server and a load process.

Only names are gathered here. The rooms: `histogram` and `payloads` (no I/O), `polling` and `exchanges` (the
load's connections), `load_process` and `server_process` (the two programs), `runner` (starts and ends them),
`report` and `command` (what a person sees).
"""

from .children import BenchError
from .histogram import LatencyHistogram
from .runner import BenchPlan, BenchProgress, BenchResult, run_bench

__all__ = [
    "BenchError",
    "BenchPlan",
    "BenchProgress",
    "BenchResult",
    "LatencyHistogram",
    "run_bench",
]
