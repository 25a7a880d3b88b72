"""What the weights of modalities should be: even, or low where the attack is. Against an AMR that collapses."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.core.batch import Output
from crossguard.defences.term import Given, Term, asked, mean_where


def even_weights(output: Output, given: Given) -> Tensor:
    """KL(even || w): a price on relying on one modality; 0 where all weights are 1, unbounded as one goes to 0.

    Mean over the samples that have two modalities or more. Our own choice, after no paper.
    """
    return _divergence("even_weights", output, given, follow=False)


def follow_attack(output: Output, given: Given) -> Tensor:
    """KL(t || w), with t even over the modalities that are not attacked, or over all where none or all of them are.

    So that the weights are to tell which modality is attacked; meant for batches that attack a random subset. Mean over
    the samples that have two modalities or more. Our own choice, after no paper.
    """
    return _divergence("follow_attack", output, given, follow=True)


def _divergence(name: str, output: Output, given: Given, *, follow: bool) -> Tensor:
    weights = asked(name, output.weights, "weights", least=2)
    there = given.present(list(weights))
    w = torch.stack(list(weights.values()), dim=1)
    wanted = there
    if follow:
        spared = there & ~given.hit(list(weights))
        wanted = torch.where(spared.any(dim=1, keepdim=True), spared, there)
    count = there.sum(dim=1)
    t = wanted.to(w.dtype) / wanted.sum(dim=1, keepdim=True).clamp_min(1)
    # w averages 1 over those that are there; a weight that underflowed still has a finite price.
    share = (w / count.clamp_min(1)[:, None]).clamp_min(torch.finfo(w.dtype).eps)
    return mean_where(torch.xlogy(t, t).sum(dim=1) - (t * share.log()).sum(dim=1), count >= 2)


EVEN_WEIGHTS = Term("weights", even_weights)
FOLLOW_ATTACK = Term("weights", follow_attack)
