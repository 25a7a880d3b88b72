"""What is returned can really be stored: every changed value is one that the medium's codes stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.batch import flat, outside
from crossguard.core.errors import ThreatError
from crossguard.threat.constraints.constraint import Constraint


@dataclass(frozen=True)
class Codes(Constraint):
    """Values are `levels` equally spaced codes from `low` to `high`: code q is low + q (high - low) / (levels - 1).

    A value that did not change need not be a code (a resized clean picture is none). `PIXELS8`, `AUDIO16` and
    `YOUTUBE8M` are the usual ones. Raises ThreatError for fewer than two levels or an empty range.
    """

    levels: int
    low: float = 0.0
    high: float = 1.0
    kind: ClassVar[str] = "codes"

    def __post_init__(self) -> None:
        if self.levels < 2 or not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ThreatError(
                f"Codes: found {self.levels} levels from {self.low} to {self.high}, expected at least 2 levels and "
                f"finite low < high"
            )

    @property
    def lets_grow(self) -> bool:
        return True

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise ThreatError for real values that no code is near: of another range or unit, say."""
        room = 1 / self._scale
        if found := outside(x, mask, self.low - room, self.high + room):
            low, high = found
            raise ThreatError(
                f"modality {name!r}: found values in [{low:g}, {high:g}], its codes stand for [{self.low:g}, "
                f"{self.high:g}]; give the codes of this unit, e.g. cg.Codes({self.levels}, {low:g}, {high:g})"
            )

    def encode(self, y: Tensor) -> Tensor:
        """The nearest codes, int64."""
        return self._code(self._position(y).round())

    def decode(self, code: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values of codes."""
        return _values(self, dtype, code.device)[code]

    def round(self, y: Tensor, x: Tensor, share: float = 0.5) -> Tensor:
        """`y` at codes: away from `x` where at least `share` of the way to the next one is made, else towards it.

        `share` 0.5 is the nearest code; 1 never adds to the change. `x` itself where no code lies between.
        """
        # A value that rounding left a hair short of a code has reached it.
        rounding = 2 * torch.finfo(y.dtype).eps * (x.abs() + y.abs())
        away = (y - x).sign()
        ahead = 1 - share + rounding * self._scale
        value = self.decode(self._code(away * (away * self._position(y) + ahead).floor()), y.dtype)
        return torch.where((value - x) * away > rounding, value, x)

    def contains(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        return flat((y == x) | (y == self.decode(self.encode(y), y.dtype))).all(dim=1)

    @property
    def _scale(self) -> float:
        """Codes a unit."""
        return (self.levels - 1) / (self.high - self.low)

    def _position(self, y: Tensor) -> Tensor:
        """Where between the codes; the difference to `low` in float64, which keeps small values apart."""
        return (y.double() - self.low if self.low else y) * self._scale

    def _code(self, position: Tensor) -> Tensor:
        return position.clamp(0, self.levels - 1).nan_to_num(nan=0.0).long()


@cache
def _values(codes: Codes, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values of all codes, in float64 and rounded once: 8-bit pixels are what q / 255 gives in any precision."""
    every = torch.arange(codes.levels, dtype=torch.float64, device=device)
    return (every * (codes.high - codes.low) / (codes.levels - 1) + codes.low).to(dtype)


PIXELS8 = Codes(256, 0.0, 1.0)  # uint8 / 255
AUDIO16 = Codes(65536, -1.0, 32767 / 32768)  # int16 / 32768
YOUTUBE8M = Codes(256, 4 / 512 - 2, 4 + 4 / 512 - 2)  # uint8 x 4 / 255 + 4 / 512 - 2, as its readers de-quantise
