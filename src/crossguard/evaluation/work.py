"""What a condition cost: sample-forwards, sample-backwards, seconds."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Work:
    """Costs by condition."""

    costs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, condition: str, forwards: int = 0, backwards: int = 0, seconds: float = 0.0) -> None:
        """Add to a condition's cost."""
        cost = self.costs.setdefault(condition, [0.0, 0.0, 0.0])
        for i, value in enumerate((forwards, backwards, seconds)):
            cost[i] += value

    @contextmanager
    def timed(self, condition: str) -> Generator[None]:
        """Add the time of a block to a condition."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(condition, seconds=time.perf_counter() - start)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays "work/joint"."""
        return {f"work/{condition}": np.array(cost) for condition, cost in self.costs.items()}
