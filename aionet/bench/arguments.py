"""Numbers from a command line: argparse types whose messages name the value and what was expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

__all__ = ["number", "seconds", "whole_number"]


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """An argparse type: a whole number from ``lowest`` to ``highest``."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{number} is not from {lowest:,} to {highest:,}")
        return number

    return convert


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """An argparse type: a finite number above ``lowest`` and at most ``highest``."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (math.isfinite(value) and lowest < value <= highest):
            raise argparse.ArgumentTypeError(f"{text} is not above {lowest:,g} and at most {highest:,g}")
        return value

    return convert


def seconds(text: str) -> float:
    """An argparse type: a positive, finite number of seconds, at most a day."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not (math.isfinite(number) and 0 < number <= 86_400):
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 86,400 seconds")
    return number
