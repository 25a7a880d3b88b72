"""What is looked at before a run starts, so that it fails at once and in plain words."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crossguard.core.errors import InputError, ModelError, ThreatError
from crossguard.core.model import borrowed, forward
from crossguard.core.random import text_key
from crossguard.core.task import MultiLabel, Task
from crossguard.data.base import Dataset, Splits
from crossguard.defences.objective import Losses
from crossguard.models.fusion_model import check_task
from crossguard.threat import ThreatModel
from crossguard.training.validation import drawn


def readable(model: nn.Module, threat: ThreatModel | None) -> ThreatModel | None:
    """The budgets of what the model reads (a unimodal model has no use for the others, nor one that looks at a mask
    alone for those of its values); None where none is left."""
    if threat is None:
        return None
    known: tuple[str, ...] = getattr(model, "modalities", ()) or threat.names
    branches: tuple[str, ...] = getattr(model, "movable", known)
    kept = [name for name in threat.names if name in branches]
    return threat.only(*kept) if kept else None


def check_fit(
    model: nn.Module,
    splits: Splits,
    task: Task,
    threat: ThreatModel | None,
    *,
    device: torch.device,
    batch_size: int,
    validation_samples: int | None = None,
) -> None:
    """Raise before any work where model, data, task and threat model do not fit together.

    Every sample is read once where a budget has bounds, unless its codes have no value outside them; one goes through
    the model.
    """
    if len(splits.classes) != task.classes:
        raise InputError(f"the data have {len(splits.classes)} classes, the task {task.classes}; expected the same")
    check_task(model, task)
    for part in (splits.train, splits.validation):
        task.check(part.targets)
    if isinstance(task, MultiLabel):
        _check_labels(splits.validation, validation_samples)
    unknown = sorted(set(threat.names) - set(splits.modalities)) if threat is not None else []
    if unknown:
        raise ThreatError(f"the threat model names {unknown[0]!r}, but the data have {sorted(splits.modalities)}")
    if threat is not None and any(budget.bounds is not None for budget in threat.declared.values()):
        for part in (splits.train, splits.validation):
            if getattr(part, "coded", False) and _within(splits, threat):
                continue
            for start in range(0, len(part), batch_size):
                batch = part.read(range(start, min(start + batch_size, len(part))))
                threat.check(batch.inputs, batch.mask)
    one = splits.train.read([0]).to(device)
    with borrowed(model, device=device) as net, torch.no_grad():
        task.check_logits(forward(net, one.inputs, one.mask).logits, 1)


def _check_labels(validation: Dataset, most: int | None) -> None:
    """Raise InputError where no sample that is validated has a label."""
    rows = drawn(validation, most)
    if bool(validation.targets.index_select(0, torch.tensor(rows)).sum()):
        return
    fewer = f" (drawn of {len(validation)})" if len(rows) < len(validation) else ""
    raise InputError(
        f"none of {len(rows)} validation samples{fewer} has a label, so that the GAP, which chooses the checkpoint, is "
        f"not defined; expected at least one{': give more validation_samples' if fewer else ''}"
    )


def _within(splits: Splits, threat: ThreatModel) -> bool:
    """Whether all that the modalities can hold lies within the budgets' bounds."""
    for name, budget in threat.declared.items():
        bounds = splits.modalities[name].bounds
        if budget.bounds is not None and (
            bounds is None or bounds[0] < budget.bounds[0] or bounds[1] > budget.bounds[1]
        ):
            return False
    return True


def check_losses(losses: Losses, task: Task) -> None:
    """Raise ModelError where the first step shows that the model cannot be trained like this."""
    if not losses.total.requires_grad:
        raise ModelError("the loss does not depend on any parameter differentiably; is the model under no_grad?")
    varied = bool((losses.logits != losses.logits[0, 0]).any())  # a head that starts at 0 is no fault
    if varied and task.looks_like_probabilities(losses.logits):
        raise ModelError("the model returns probabilities, expected logits; leave out its last softmax or sigmoid")


def digest(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set from another, without reading its samples."""
    targets = dataset.targets
    said = targets.coalesce().indices() if targets.is_sparse else targets
    key = text_key("\n".join(dataset.ids) + repr(said.tolist()))
    return {"name": dataset.name, "samples": len(dataset), "key": f"{key & (2**64 - 1):016x}"}
