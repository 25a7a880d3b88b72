"""How a search moves: a rule turns gradients into the next point, with a memory by row where it needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from crossguard.core.batch import Inputs
from crossguard.core.errors import ThreatError
from crossguard.threat.budget import Ball


class StepRule(Protocol):
    """One move of all rows; the memory is any nest of tensors that lead with the row axis.

    What a rule says it has no need of (`gradient`, `loss`) is not paid for, and comes empty.
    """

    gradient: ClassVar[bool]
    loss: ClassVar[bool]

    def begin(self, point: Inputs, balls: Mapping[str, Ball], key: Tensor) -> Any:
        """The memory before the first move; `key` (R,) seeds what is random."""
        ...

    def move(
        self, memory: Any, point: Inputs, gradient: Inputs, loss: Tensor, balls: Mapping[str, Ball], step: int
    ) -> tuple[Inputs, Any]:
        """The next point, inside the balls, and the memory that goes with it."""
        ...


@dataclass(frozen=True)
class Steepest:
    """A steepest-ascent move of `step_size` x radius in each modality's own norm, then its projection; raises
    ThreatError for a step that is none."""

    step_size: float
    gradient: ClassVar[bool] = True
    loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.step_size < float("inf"):
            raise ThreatError(f"step_size is {self.step_size}, expected a finite number >= 0, a share of the budget")

    def begin(self, point: Inputs, balls: Mapping[str, Ball], key: Tensor) -> None:
        return None

    def move(
        self, memory: None, point: Inputs, gradient: Inputs, loss: Tensor, balls: Mapping[str, Ball], step: int
    ) -> tuple[Inputs, None]:
        return {n: balls[n].ascend(x, gradient[n], self.step_size) for n, x in point.items()}, None
