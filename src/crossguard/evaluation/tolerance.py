"""What the checks by machine put up with, and how much may be wrong without a flag."""

from __future__ import annotations

import math


def tolerance(n: int) -> float:
    """How many samples may go the wrong way: one, or 2 %."""
    return max(1.0, 0.02 * n)


def tolerated(withstood: int) -> int:
    """How many of those that withstood may fall to a stronger attack: one, or 2 %, but never half of them or more."""
    return max(0, min(int(tolerance(withstood)), (withstood - 1) // 2))


def unseen(withstood: int) -> float:
    """The share of all that withstood, looked at on so many, above which a flag is raised at least 19 times in 20.

    The upper 95 % bound of Clopper and Pearson (1934), one-sided, with as many fallen as are `tolerated`.
    """
    fallen = tolerated(withstood)
    low, high = 0.0, 1.0
    while withstood and (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _at_most(fallen, withstood, middle) > 0.05 else (low, middle)
    return high


def _at_most(k: int, n: int, p: float) -> float:
    """The chance of at most k of n, each with chance p."""
    whole = math.lgamma(n + 1)
    logs = (
        whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    )  # fmt: skip
    return sum(map(math.exp, logs))
