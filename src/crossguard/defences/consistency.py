"""Consistency: the branches' own beliefs are drawn together."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.core.batch import Output
from crossguard.core.task import MultiLabel, Task
from crossguard.defences.term import Given, Term, asked, mean_where


def consistency(output: Output, given: Given) -> Tensor:
    """The Jensen-Shannon divergence of the auxiliary heads' beliefs, H(mean_m p_m) - mean_m H(p_m), in nats.

    Over the modalities that a sample has, mean over the samples that have two or more; with several labels, the mean
    over the classes' Bernoulli beliefs. In [0, log M]; it costs nothing to agree on an uncertain answer, so the task's
    own losses must pull as well. Our own choice, after no paper.
    """
    auxiliary = asked("consistency", output.auxiliary, "auxiliary logits", least=2)
    there = given.present(list(auxiliary))
    beliefs = torch.stack([_beliefs(logits, given.task) for logits in auxiliary.values()], dim=1)
    count = there.sum(dim=1)
    share = (there / count.clamp_min(1)[:, None])[:, :, None, None].to(beliefs.dtype)
    mixed = (beliefs * share).sum(dim=1)
    apart = _entropy(mixed) - (_entropy(beliefs) * share[..., 0]).sum(dim=1)
    return mean_where(apart.mean(dim=1), count >= 2)


def _beliefs(logits: Tensor, task: Task) -> Tensor:
    """(N, variables, outcomes): one variable of C outcomes, or C of two."""
    if isinstance(task, MultiLabel):
        return torch.stack([logits.sigmoid(), (-logits).sigmoid()], dim=2)
    return logits.softmax(dim=1)[:, None]


def _entropy(p: Tensor) -> Tensor:
    """Of the last axis; finite gradients at 0."""
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(dim=-1)


CONSISTENCY = Term("auxiliary", consistency)
