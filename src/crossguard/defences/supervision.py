"""The loss on what a model returns: the fused logits, and deep supervision of each branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch, Output, present
from crossguard.core.errors import RecipeError
from crossguard.core.model import forward
from crossguard.core.task import Task
from crossguard.defences.objective import Context, Losses

AuxiliaryWeight: TypeAlias = float | dict[str, float]


def check_weight(weight: AuxiliaryWeight) -> None:
    """Raise RecipeError for a negative or non-finite weight."""
    for name, w in (weight if isinstance(weight, dict) else {"every modality": weight}).items():
        if not 0 <= w < float("inf"):
            raise RecipeError(f"auxiliary_weight of {name} is {w}, expected a finite number >= 0 (0 turns it off)")


def check_heads(weight: AuxiliaryWeight, model: nn.Module) -> None:
    """Raise RecipeError where a weight is of a modality that the model, which says its modalities, does not read."""
    read: tuple[str, ...] = getattr(model, "modalities", ())
    unknown = sorted(set(weight) - set(read)) if isinstance(weight, dict) and read else []
    if unknown:
        raise RecipeError(f"auxiliary_weight names {unknown[0]!r}, the model reads {sorted(read)}")


def weight_of(weight: AuxiliaryWeight, name: str) -> float:
    """lambda of one modality; one that a mapping does not name has 0."""
    return weight.get(name, 0.0) if isinstance(weight, dict) else weight


def wanted(weight: AuxiliaryWeight) -> bool:
    """Whether any auxiliary head is to be trained."""
    return any(weight.values()) if isinstance(weight, dict) else weight > 0


def supervised_losses(
    output: Output, targets: Tensor, mask: Mapping[str, Tensor], task: Task, weight: AuxiliaryWeight
) -> Losses:
    """L = loss(fused) + sum_m lambda_m loss(auxiliary head of m), means over samples, in float32 at least.

    A sample in which m is absent does not count towards m's mean. Without auxiliary logits only the first term is
    left. Weighted deep supervision as METHODS section 1 sets it for AMR (our choice; the paper names no formula).
    """
    logits = _full(output.logits)
    task.check_logits(logits, targets.shape[0])
    total = task.loss(logits, targets).mean()
    parts = {"fused": total.detach()}
    for name, guess in (output.auxiliary or {}).items():
        if not weight_of(weight, name):
            continue
        loss = task.loss(_full(guess), targets)
        here = present(mask, name, targets.shape[0])
        here = torch.ones_like(loss) if here is None else here.to(loss.dtype)
        part = (loss * here).sum() / here.sum().clamp_min(1)
        parts[f"auxiliary/{name}"] = part.detach()
        total = total + weight_of(weight, name) * part
    return Losses(total, parts, logits.detach())


def supervise(model: nn.Module, batch: Batch, context: Context, weight: AuxiliaryWeight) -> Losses:
    """One forward pass whose graph the loop will run backwards, both counted, and its losses."""
    with context.precision(weights=True):
        output = forward(model, batch.inputs, batch.mask, ("auxiliary",) if wanted(weight) else ())
    context.work.forwards += len(batch)
    context.work.backwards += len(batch)
    return supervised_losses(output, batch.targets, batch.mask, context.task, weight)


def _full(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
