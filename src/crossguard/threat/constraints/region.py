"""A patch: only a window of the last axes, or a pattern over them, may change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from crossguard.core.errors import ThreatError
from crossguard.threat.constraints.constraint import Still, frozen


@dataclass(frozen=True)
class Region(Still):
    """Only a part of the trailing axes may change: a `window` of (start, stop) an axis (None: all of that axis), or a
    boolean `pattern` (nested lists or a tensor). `Region(((8, 16), (8, 16)))` is a patch of rows and columns.

    Raises ThreatError for both or neither of the two, empty windows, and windows outside the tensor.
    """

    window: tuple[tuple[int, int] | None, ...] | None = None
    pattern: Any = None
    kind: ClassVar[str] = "region"

    def __post_init__(self) -> None:
        if (self.window is None) == (self.pattern is None):
            raise ThreatError("Region: give either window=((start, stop), …) or pattern=[[True, …], …]")
        for span in self.window or ():
            if span is not None and not 0 <= span[0] < span[1]:
                raise ThreatError(f"Region: found the window {span}, expected 0 <= start < stop, or None")
        if self.pattern is not None:
            pattern = self.pattern.tolist() if isinstance(self.pattern, Tensor) else self.pattern
            try:
                rectangular = torch.as_tensor(pattern).dtype == torch.bool
            except (TypeError, ValueError):
                rectangular = False
            if not rectangular:
                raise ThreatError("Region: pattern must be booleans in nested lists of equal lengths")
            object.__setattr__(self, "pattern", frozen(pattern))

    @cached_property
    def _open(self) -> Tensor:
        return torch.as_tensor(self.pattern)

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        shape = tuple(x.shape)
        if self.window is None:
            found = tuple(self._open.shape)
            if len(found) >= x.dim() or found != shape[x.dim() - len(found) :]:
                raise ThreatError(f"modality {name!r}: region's pattern is {found}, the last axes of {shape} differ")
            return
        sizes = shape[x.dim() - len(self.window) :]
        outside = any(s is not None and s[1] > size for s, size in zip(self.window, sizes, strict=False))
        if len(self.window) >= x.dim() or outside:
            raise ThreatError(f"modality {name!r}: region's window {self.window} leaves the last axes of {shape}")

    def free(self, x: Tensor) -> Tensor:
        if self.window is None:
            return self._open.to(x.device)
        inside = torch.ones((1,) * len(self.window), dtype=torch.bool, device=x.device)
        for back, span in enumerate(reversed(self.window)):
            if span is not None:
                place = torch.arange(x.shape[-1 - back], device=x.device).view(-1, *(1,) * back)
                inside = inside & (place >= span[0]) & (place < span[1])
        return inside
