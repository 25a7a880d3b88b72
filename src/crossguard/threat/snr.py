"""SNR: the change stays a number of decibels below the signal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ThreatError
from crossguard.threat.ball import flat_norm
from crossguard.threat.l2 import L2


@dataclass(frozen=True)
class SNR(L2):
    """The signal-to-noise ratio stays at `eps` decibels or more: an L2 ball of radius |x| / 10^(eps / 20) a sample.

    |x| is the Euclidean norm of what the mask leaves, at least `floor` (in the modality's unit), so that silence too
    can be attacked. Infinitely many decibels allow nothing; `scaled` scales the radius.
    """

    floor: float = 0.0
    norm: ClassVar[str] = "snr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.floor) and self.floor >= 0):
            raise ThreatError(f"SNR: floor is {self.floor}, expected a finite norm >= 0 in the modality's unit")

    def _check_eps(self) -> None:
        if not self.eps > -1000:
            raise ThreatError(f"SNR: eps is {self.eps}, expected decibels such as 30")

    @property
    def active(self) -> bool:
        """Whether the budget allows any change."""
        return self.eps < math.inf

    def scaled(self, scale: float) -> Self:
        """The same budget with a radius `scale` times as large."""
        if not scale >= 0:
            raise ThreatError(f"SNR: scaled by {scale}, expected a number >= 0")
        return replace(self, eps=self.eps - 20 * math.log10(scale) if scale else math.inf)

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) the norm of the signal over the ratio, or the diagonal of the bounds where that is smaller."""
        signal = flat_norm(x if mask is None else x * expand_mask(mask, x)).clamp_min(self.floor)
        return (signal * 10 ** (-self.eps / 20)).minimum(self._entries(x, mask).sqrt() * self._width)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, which has no infinity."""
        return {**super().to_dict(), "eps": self.eps if self.active else None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From JSON; the inverse of `to_dict`."""
        return super().from_dict({**data, "eps": math.inf if data["eps"] is None else data["eps"]})
