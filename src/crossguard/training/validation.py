"""Accuracy on the inner split, clean and under PGD: what chooses the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from crossguard.attacks import pgd
from crossguard.core.batch import Batch
from crossguard.core.model import borrowed, forward
from crossguard.core.random import bits, combine, text_key
from crossguard.core.task import Task
from crossguard.data.base import Dataset
from crossguard.defences.objective import Work
from crossguard.threat import ThreatModel
from crossguard.training.config import TrainConfig
from crossguard.training.distributed import Ranks


@dataclass(frozen=True)
class Accuracy:
    """Shares of `samples` that are right: `clean`, and under the `joint` attack (None without a threat model)."""

    clean: float
    joint: float | None
    samples: int

    def beats(self, other: Accuracy | None) -> bool:
        """Whether this is the better checkpoint: by joint accuracy, then by clean accuracy; a tie is not better."""
        return other is None or (self.joint or 0.0, self.clean) > (other.joint or 0.0, other.clean)


def drawn(dataset: Dataset, most: int | None) -> list[int]:
    """At most `most` samples, always the same ones."""
    samples = len(dataset)
    if most is None or most >= samples:
        return list(range(samples))
    keys = bits(combine(torch.tensor([text_key("validation")])), samples)[0]
    chosen: list[int] = keys.argsort(stable=True)[:most].tolist()
    return sorted(chosen)


def validate(
    model: nn.Module,
    dataset: Dataset,
    *,
    task: Task,
    threat: ThreatModel | None,
    config: TrainConfig,
    seed: int,
    ranks: Ranks,
    work: Work,
) -> Accuracy:
    """Each sample exactly once over all ranks, in full precision, from the same random starts every time.

    Right means a margin above 0: for several labels, that the top-scored class is present (Hit@1). Robust accuracy
    chooses because clean accuracy hides robust overfitting (Rice et al., ICML 2020).
    """
    chosen = drawn(dataset, config.validation_samples)
    mine = chosen[ranks.rank :: ranks.world]
    clean = joint = 0
    for start in range(0, len(mine), config.batch_size):
        batch = dataset.read(mine[start : start + config.batch_size]).to(ranks.device)
        right = _right(model, batch, task, ranks.device)
        work.forwards += len(batch)
        clean += len(right)
        if threat is None or not right:
            continue
        batch = batch.take(right)
        result = pgd(
            model,
            batch.inputs,
            batch.targets,
            threat,
            steps=config.validation_steps,
            step_size=2.5 / config.validation_steps,
            task=task,
            mask=batch.mask,
            ids=batch.ids or None,
            seed=seed,
        )
        work.forwards += result.forwards
        work.backwards += result.backwards
        joint += int((~result.success).sum())
    clean, joint, samples = ranks.total(clean, joint, len(mine))
    return Accuracy(clean / samples, None if threat is None else joint / samples, samples)


def _right(model: nn.Module, batch: Batch, task: Task, device: torch.device) -> list[int]:
    """The rows that the model gets right."""
    with borrowed(model, device=device) as net, torch.no_grad():
        margin = task.margin(forward(net, batch.inputs, batch.mask).logits, batch.targets)
    return (margin > 0).nonzero().flatten().tolist()
