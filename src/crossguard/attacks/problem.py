"""What stays the same over a search, and what is counted and noted on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from crossguard.attacks.plan import Plan
from crossguard.attacks.result import Trace
from crossguard.attacks.view import View
from crossguard.core.batch import Inputs, Mask, flat
from crossguard.core.errors import ModelError, ThreatError
from crossguard.core.task import Task, infer_task


@dataclass
class Notes:
    """A trace in the making."""

    loss: list[Tensor] = field(default_factory=list[Tensor])
    margin: list[Tensor] = field(default_factory=list[Tensor])
    gradient: list[Inputs] = field(default_factory=list[Inputs])

    def done(self) -> Trace:
        """All steps, stacked."""
        names = self.gradient[0] if self.gradient else {}
        norms = {n: torch.stack([flat(g[n]).norm(dim=1) for g in self.gradient]) for n in names}
        return Trace(torch.stack(self.loss), torch.stack(self.margin), norms)


@dataclass
class Problem:
    """What stays the same over the whole search, and the work that it has cost."""

    plan: Plan
    inputs: Inputs
    targets: Tensor
    mask: Mask
    task: Task | None
    targeted: bool
    stop: bool
    examine: bool
    precision: torch.dtype | None
    compiled: bool
    traced: bool
    forwards: int = 0
    backwards: int = 0
    rivals: Tensor | None = None
    trace: Notes | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Margins are kept as exactly as the inputs are."""
        wide = any(x.dtype == torch.float64 for x in self.inputs.values())
        return torch.float64 if wide else torch.float32

    def meet(self, logits: Tensor, targets: Tensor) -> None:
        """Check the first logits; settle the task where it follows from the targets."""
        if logits.dim() != 2:
            raise ModelError(f"model returned logits of shape {tuple(logits.shape)}, expected (N, classes)")
        if self.task is None:
            self.task = infer_task(targets, logits)
            self.task.check(targets)
        self.task.check_logits(logits, targets.shape[0])

    def gap(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(R,) how far each row is from success: success is <= 0."""
        assert self.task is not None
        gap = self.task.margin(logits, targets)
        return -gap if self.targeted else gap

    def all_right(self, logits: Tensor, targets: Tensor) -> bool:
        """Whether certainly no row has success; cheaper than the gap."""
        assert self.task is not None
        return not self.targeted and self.task.all_right(logits, targets)

    def look(self, seen: View, point: Inputs) -> Tensor:
        """The logits of whole inputs, without gradients."""
        with torch.no_grad():
            logits = seen.logits(point)
        self.forwards += self.targets.shape[0]
        self.meet(logits, self.targets)
        return logits

    def aim(self, logits: Tensor) -> None:
        """Settle the rivals of each sample by the clean logits; a single output has none."""
        assert self.task is not None
        found = self.task.rivals(logits, self.targets, max(self.plan.rivals) + 1)
        ranks = [rank for rank in self.plan.rivals if rank < found.shape[1]]
        if not ranks and found.shape[1]:
            raise ThreatError(f"rivals of ranks {self.plan.rivals}: there are only {found.shape[1]} wrong classes")
        self.rivals = found[:, ranks] if ranks else None
