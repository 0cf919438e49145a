"""`aionet bench`: how fast this machine accepts and echoes, measured with a server and a load process.

Only names are gathered here. The rooms: `histogram`, `payloads`, `workloads` (no I/O), `polling` and
`exchanges` (the load in plain Python), `generating` (which load), `load_process` and `server_process` (the
two programs), `peers` and `plan` (who, what, side by side with whom), `measuring` (one turn of the two
programs), `runner` (all turns), `summary` and `cases` (medians and ratios, and what they are called),
`baseline` (what moved since an earlier record), `plots` and `report_page` (a page and pictures), `report`,
`progress` and `command` (what a person sees).
"""

from .children import BenchError
from .histogram import LatencyHistogram
from .measuring import Record
from .plan import BenchPlan
from .runner import BenchProgress, run_bench
from .summary import Row, summarise

__all__ = [
    "BenchError",
    "BenchPlan",
    "BenchProgress",
    "LatencyHistogram",
    "Record",
    "Row",
    "run_bench",
    "summarise",
]
