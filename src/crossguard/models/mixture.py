"""Mixture-of-experts classifier (Jordan and Jacobs 1994; as in the YouTube-8M report, arXiv 1609.08675)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.errors import ModelError


class MixtureOfExperts(nn.Module):
    """p_c = sum_k softmax_k(gate_c)_k sigmoid(expert_ck): K logistic experts a class, and one more that says 0.

    Answers the logits log p - log(1 - p), computed in logarithms, so that neither end saturates.
    """

    def __init__(self, features: int, classes: int, experts: int) -> None:
        super().__init__()
        if experts < 1:
            raise ModelError(f"mixture of experts: experts is {experts}, expected a whole number >= 1")
        self.experts = experts
        self.gate = nn.Linear(features, classes * (experts + 1))
        self.expert = nn.Linear(features, classes * experts)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) to logits (N, classes)."""
        gate = self.gate(x).unflatten(1, (-1, self.experts + 1)).log_softmax(dim=2)
        expert = self.expert(x).unflatten(1, (-1, self.experts))
        own, none = gate[..., :-1], gate[..., -1:]
        present = (own + F.logsigmoid(expert)).logsumexp(dim=2)
        absent = torch.cat([own + F.logsigmoid(-expert), none], dim=2).logsumexp(dim=2)
        return present - absent
