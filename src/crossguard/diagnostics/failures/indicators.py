"""The indicators, each a small function of a trace or of the model: by sample, whether it speaks up.

I1 to I6 are those of Pintor et al. ("Indicators of Attack Failure", NeurIPS 2022), the rest are the flags of AutoAttack
(Croce and Hein, ICML 2020). Where ours differ from theirs, it is said.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crossguard.attacks import AttackResult, Trace, apgd, square
from crossguard.core import forward
from crossguard.core.batch import flat
from crossguard.core.random import combine, text_key
from crossguard.diagnostics.failures.study import Study

# I2, our choice: so many draws, this far away in budgets.
DRAWS, NEAR = 8, 0.1
# I4, as in the authors' code: so many last steps, and this share of the range of the loss.
LAST, MOVED = 10, 0.05
# I6, our choice: survivors are carried through these scales of the budgets, by so many steps each.
SCALES, UNBOUNDED_STEPS = (4.0, 16.0, 64.0, 256.0, 1024.0), 10
# AutoAttack's, with numbers of our choice: times asked again; queries of random search for each step of the attack.
REPEATS, QUERIES = 3, 3


def unavailable_gradients(trace: Trace, name: str) -> Tensor:
    """I1: (N,) the gradient is exactly zero (theirs: at the sample; ours: at any step before it fell)."""
    return ((trace.gradient[name] == 0) & (trace.margin[:-1] > 0)).any(dim=0)


def unexplained(study: Study, name: str, margin: Tensor, gradient: Tensor) -> Tensor:
    """I2, unstable predictions: (N,) the share of the margin's change next to the sample that its gradient does not
    foretell: 0 where the model is smooth, or linear in pieces, however steep; towards 1 where it jumps.

    Theirs is the mean change itself, relative to the loss, which grows with the radius and with honest steepness.
    """
    clean = study.inputs[name]
    ball = study.threat.budgets[name].scaled(NEAR).around(clean, study.mask.get(name))
    error, total = torch.zeros_like(margin), torch.zeros_like(margin)
    with torch.no_grad():
        for draw in range(DRAWS):
            near = ball.uniform(combine(study.keys, text_key(name), draw))
            change = study.margin({**study.inputs, name: near}) - margin
            foretold = flat((near - clean) * gradient).sum(dim=1)
            error += (change - foretold).abs()
            total += change.abs() + foretold.abs()
    # So little is rounding, not change.
    rounding = 1e3 * DRAWS * torch.finfo(margin.dtype).eps * margin.abs().clamp_min(1.0)
    return torch.where(total > rounding, error / total, 0.0)


def silent_success(result: AttackResult) -> Tensor:
    """I3: (N,) the attack passed a point that fools the model and handed back one that does not."""
    assert result.trace is not None
    return ~result.success & (result.trace.margin <= 0).any(dim=0)


def incomplete_optimization(trace: Trace) -> Tensor:
    """I4: (N,) the best margin so far still moved in the last steps, by a share of all that it moved, on a sample that
    withstood (ours: of a short attack, the last fifth of its steps)."""
    best = (-trace.margin).cummax(dim=0).values
    last = min(LAST, max(1, len(best) // 5))
    moved = best[-1] - best[-1 - last] > MOVED * (best[-1] - best[0]).clamp_min(1e-12)
    return moved & (best[-1] < 0)


def unbounded_attack_fails(study: Study) -> Tensor:
    """I6: (N,) an attack with no budget to speak of leaves the sample right."""
    survivors = torch.arange(len(study), device=study.targets.device)
    part, start = study, {m: study.inputs[m] for m in study.threat.names}
    for scale in SCALES:
        result = apgd(
            part.net, part.inputs, part.targets, study.threat.scaled(scale), objective="margin",
            steps=UNBOUNDED_STEPS, start=start, **part.options,
        )  # fmt: skip
        left = (~result.success).nonzero().squeeze(1)
        survivors, part, start = survivors[left], part.at(left), {m: result.inputs[m][left] for m in start}
        if not left.numel():
            break
    return torch.zeros(len(study), dtype=torch.bool, device=survivors.device).index_fill(0, survivors, True)


def square_beats_attack(study: Study, fooled: Tensor) -> Tensor:
    """AutoAttack: (N,) random search fools what gradients could not."""
    left = (~fooled).nonzero().squeeze(1)
    if not left.numel():
        return torch.zeros_like(fooled)
    part = study.at(left)
    result = square(
        part.net, part.inputs, part.targets, part.threat, queries=QUERIES * part.steps, **part.options
    )  # fmt: skip
    return torch.zeros_like(fooled).index_copy(0, left, result.success)


def random_predictions(study: Study) -> Tensor:
    """AutoAttack: (N,) asked again, the model says something else, by more than rounding."""
    with torch.no_grad():
        logits = forward(study.net, study.inputs, study.mask).logits
        slack = 1e-4 * logits.abs().amax(dim=1, keepdim=True)
        moved = torch.zeros_like(logits, dtype=torch.bool)
        for _ in range(REPEATS):
            moved |= (forward(study.net, study.inputs, study.mask).logits - logits).abs() > slack
    return moved.any(dim=1)


def optimizes_at_test_time(study: Study) -> bool:
    """AutoAttack: the model takes gradients of its own while it answers (a dynamic defence)."""
    with torch.no_grad(), _Calls() as calls:
        forward(study.net, study.inputs, study.mask)
    return calls.seen


class _Calls(TorchFunctionMode):
    """Whether gradients are taken while active."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen |= func in (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
        return func(*args, **(kwargs or {}))
