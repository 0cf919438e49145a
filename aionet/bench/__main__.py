"""``python -m aionet.bench``: the same as ``python -m aionet bench``."""

import argparse
import sys

from .command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m aionet.bench")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
