"""A figure with its interval: no figure is printed without one."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, from `n` samples; where it is undefined it is NaN and `reason` says why."""

    value: float
    low: float
    high: float
    n: int
    reason: str = ""

    def __float__(self) -> float:
        return self.value

    @property
    def defined(self) -> bool:
        """Whether there is a figure at all."""
        return not math.isnan(self.value)

    def scaled(self, factor: float) -> Estimate:
        """The same figure in another unit, such as points (factor 100)."""
        ends = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, ends[0], ends[1], self.n, self.reason)

    def said(self, form: str = ".2f") -> str:
        """ "1.23 [1.10, 1.40]", or "undefined (why)"."""
        if not self.defined:
            return f"undefined ({self.reason or f'{self.n} samples'})"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    @classmethod
    def undefined(cls, n: int = 0, reason: str = "") -> Estimate:
        """Of too few samples, or of none at all."""
        return cls(math.nan, math.nan, math.nan, n, reason)


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a share of `n` independent samples (Wilson, 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Rounding must not leave the observed share outside.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
