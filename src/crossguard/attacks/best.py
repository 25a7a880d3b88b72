"""What a search has found so far, by row."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.attacks.problem import Problem
from crossguard.attacks.rows import Rows
from crossguard.core.batch import Inputs, take
from crossguard.threat.ball import blend

# Until they take this many bytes, points wait to be compared in one go: on small models comparing costs as much as a
# step, and on large ones nothing may wait.
WAITING = 2**22


class Best:
    """By row the point of the lowest `score` of all that the model was shown, and its `margin`. Whoever reads them
    settles first: the rows that are still there may have points waiting."""

    def __init__(self, problem: Problem, rows: Rows) -> None:
        self.problem = problem
        self.point = {n: x.clone() for n, x in rows.point.items()}
        self.score = torch.full((len(rows.index),), torch.inf, device=rows.index.device, dtype=problem.dtype)
        self.margin = self.score.clone()
        self._waiting: list[tuple[Tensor, Inputs, Tensor]] = []
        self._room = max(1, WAITING // max(1, sum(x.nbytes for x in rows.point.values())))

    def see(self, rows: Rows, shown: Inputs, logits: Tensor) -> None:
        """What the model said to the points of all rows."""
        self._waiting.append((rows.index, shown, logits))
        if self.problem.plan.score is not None or len(self._waiting) >= self._room:
            self.settle(rows)

    def leave(self, rows: Rows, left: Tensor, shown: Inputs, gap: Tensor) -> Tensor:
        """Rows at the places `left` go, as they or others of their samples fool the model at `shown`; their indices."""
        out = rows.index.index_select(0, left)
        low = gap.index_select(0, left).to(self.score.dtype)
        self._keep(out, take(shown, left), low, low)
        return out

    def settle(self, rows: Rows) -> None:
        """Compare all that waits, of the rows that are still there."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        problem, index = self.problem, rows.index
        places = {id(at): torch.searchsorted(at, index) for at, _, _ in waiting if at is not index}
        seen = [(s, z) if at is index else take((s, z), places[id(at)]) for at, s, z in waiting]
        if len(seen) == 1:
            shown, logits = seen[0]
            low = gap = self._gap(logits, rows.targets)
            if problem.plan.score is not None:
                low = problem.plan.score(shown, rows.balls, gap)
        else:
            logits = torch.cat([z for _, z in seen])
            gaps = self._gap(logits, rows.targets.repeat(len(seen), *(1,) * (rows.targets.dim() - 1)))
            low, first = gaps.view(len(seen), -1).min(dim=0)
            gap, place = low, torch.arange(len(low), device=low.device)
            shown = {n: torch.stack([s[n] for s, _ in seen])[first, place] for n in self.point}
        whole = len(index) == len(self.score)
        old: tuple[Inputs, Tensor, Tensor] = (self.point, self.score, self.margin)
        before, score, margin = old if whole else take(old, index)
        better = low < score
        point = {n: blend(better, x, before[n]) for n, x in shown.items()}
        score, margin = torch.minimum(low, score), torch.where(better, gap, margin)
        if whole:
            self.point, self.score, self.margin = point, score, margin
        else:
            self._keep(index, point, score, margin)

    def _gap(self, logits: Tensor, targets: Tensor) -> Tensor:
        gap = self.problem.gap(logits, targets).to(self.score.dtype)
        # NaN of a narrower format is not what the model answers, and must not win over what float32 will confirm.
        return gap if self.problem.precision is None else gap.masked_fill(gap.isneginf(), torch.inf)

    def _keep(self, index: Tensor, point: Inputs, score: Tensor, margin: Tensor) -> None:
        for n, x in point.items():
            self.point[n].index_copy_(0, index, x)
        self.score.index_copy_(0, index, score)
        self.margin.index_copy_(0, index, margin)
