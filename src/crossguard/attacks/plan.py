"""What an attack is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from crossguard.attacks.objective import OBJECTIVES, Objective
from crossguard.attacks.start import Start
from crossguard.attacks.step import StepRule
from crossguard.core.batch import Inputs
from crossguard.core.errors import ThreatError
from crossguard.threat import Ball

Score: TypeAlias = Callable[[Inputs, Mapping[str, Ball], Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """What an attack is: its objective (a name or a function), step rule, start, steps and restarts.

    `rivals`: ranks among the wrong classes of the clean logits; each restart is made once for each, aiming at it.
    `score` (shown, balls, gap) -> (R,): what the best point is lowest in; None: the margin.
    """

    objective: str | Objective
    step: StepRule
    start: Start
    steps: int
    restarts: int = 1
    rivals: tuple[int, ...] = ()
    score: Score | None = None

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1:
            raise ThreatError(f"an attack needs steps >= 0 and restarts >= 1, found {self.steps} and {self.restarts}")
        if isinstance(self.objective, str) and self.objective not in OBJECTIVES:
            raise ThreatError(f"unknown objective {self.objective!r}; known: {sorted(OBJECTIVES)}")
        if isinstance(self.objective, str) and self.objective.startswith("targeted_") and not self.rivals:
            raise ThreatError(f"objective {self.objective!r} aims at rival classes: use apgd_t, or name rivals")

    @property
    def climbed(self) -> Objective:
        """The objective as a function."""
        return OBJECTIVES[self.objective] if isinstance(self.objective, str) else self.objective
