"""Accuracy, or GAP of several labels, on the inner split, clean and under PGD: what chooses the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossguard.attacks import pgd
from crossguard.attacks.objective import RANKED
from crossguard.attacks.result import AttackResult
from crossguard.attacks.viewed import viewed
from crossguard.core.batch import Batch
from crossguard.core.model import borrowed, forward
from crossguard.core.random import bits, combine, text_key
from crossguard.core.ranking import Ranking, rankable
from crossguard.core.task import MultiLabel, Task
from crossguard.data.base import Dataset
from crossguard.defences.objective import Work
from crossguard.threat import ThreatModel
from crossguard.training.config import TrainConfig
from crossguard.training.distributed import Ranks


@dataclass(frozen=True)
class Accuracy:
    """`clean`, and under the `joint` attack (None without a threat model): shares of `samples` that are right, or of
    several labels GAP@20, as `metric` says."""

    clean: float
    joint: float | None
    samples: int
    metric: Literal["accuracy", "gap"] = "accuracy"

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

    A single label is right where its margin is above 0; a sample that is fooled needs no further step. Of several, GAP
    is over the whole split, every sample attacked to the end. Robust accuracy chooses because
    clean accuracy hides robust overfitting (Rice et al., ICML 2020).
    """
    chosen = drawn(dataset, config.validation_samples)
    mine = chosen[ranks.rank :: ranks.world]
    split = _Split(model, dataset, mine, config, ranks.device)
    options = {"steps": config.validation_steps, "step_size": 2.5 / config.validation_steps, "seed": seed}
    if isinstance(task, MultiLabel):
        return _ranked(split, task, threat, options, ranks, work)
    clean = joint = 0
    for batch in split:
        right = (task.margin(split.logits(batch), batch.targets) > 0).nonzero().flatten().tolist()
        work.forwards += len(batch)
        clean += len(right)
        if threat is not None and right:
            result = _attacked(split, batch.take(right), task, threat, options, work)
            joint += int((~result.success).sum())
    clean, joint, samples = ranks.total(clean, joint, len(mine))
    return Accuracy(clean / samples, None if threat is None else joint / samples, samples)


def _ranked(
    split: _Split, task: MultiLabel, threat: ThreatModel | None, options: dict[str, Any], ranks: Ranks, work: Work
) -> Accuracy:
    """GAP of the split, clean and attacked: the lowest of those that the attacks by single losses leave, each on one of
    the sets of modalities that may be attacked at once."""
    clean, subsets = Ranking(task.classes), [] if threat is None else threat.subsets()
    joint = {(name, i): Ranking(task.classes) for name in RANKED for i in range(len(subsets))}
    for batch in split:
        clean.add(split.logits(batch), batch.targets)
        work.forwards += len(batch)
        for (name, i), ranking in joint.items():
            found = _attacked(
                split, batch, task, subsets[i], options | {"objective": name, "stop": "never", "select": "last"}, work
            )
            said = split.logits(batch.with_inputs(found.inputs))
            ranking.add(rankable(said, batch.targets), batch.targets)
            work.forwards += len(batch)
    clean, worst = clean.gathered(ranks.device), [ranking.gathered(ranks.device) for ranking in joint.values()]
    return Accuracy(clean.gap(), min((r.gap() for r in worst), default=None), len(clean), "gap")


@dataclass(frozen=True)
class _Split:
    """This rank's batches of a split, and what the model says of them."""

    model: nn.Module
    dataset: Dataset
    rows: list[int]
    config: TrainConfig
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        size = self.config.batch_size
        return (
            self.dataset.read(self.rows[first : first + size]).to(self.device)
            for first in range(0, len(self.rows), size)
        )

    def logits(self, batch: Batch) -> Tensor:
        """(N, C), in eval mode."""
        with borrowed(self.model, device=self.device) as net, torch.no_grad():
            return forward(net, batch.inputs, batch.mask).logits


def _attacked(
    split: _Split, batch: Batch, task: Task, threat: ThreatModel, options: dict[str, Any], work: Work
) -> AttackResult:
    """PGD on a batch, with all modalities at once, through the view that the model offers to attackers."""
    result = viewed(pgd, split.model, batch, threat, task=task, **options)
    work.forwards += result.forwards
    work.backwards += result.backwards
    return result
