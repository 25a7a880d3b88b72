"""Expectation over transformation: a randomised model, seen through the mean of its draws."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from crossguard.core.batch import Inputs, Output
from crossguard.core.errors import ModelError
from crossguard.core.model import bare, forward


class Expectation(nn.Module):
    """A randomised `model` as one that every attack can climb: logits (N, C) are the mean over `draws` of its own.

    Athalye et al., ICML 2018 ("Synthesizing robust adversarial examples"). Means of logits and of log-probabilities
    differ by a number a sample, so that loss, margin and decision are the same: the class of the highest geometric
    mean of probabilities. The gradient of a margin is exactly that of the expected margin against that runner-up;
    that of the cross-entropy belongs to a lower bound on the expected loss (Jensen), tight where draws agree.

    Every call draws afresh, also the one that confirms a success, so that luck during the search is not counted; with
    few draws it can still stop a search too early: use `stop="never"`, and judge with more draws than are climbed.

    Draws are rows of one batch; `at_once` of them a call where memory is short. It must be 1 for a model that draws
    once a call, not once a sample. The randomness is the model's own, in eval mode. Any branch may be random, so none
    is computed only once (no `encode`, no `fuse`).
    """

    def __init__(self, model: nn.Module, draws: int = 16, *, at_once: int | None = None) -> None:
        super().__init__()
        if draws < 1 or (at_once is not None and at_once < 1):
            raise ModelError(f"Expectation needs draws >= 1 and at_once >= 1 (or None), found {draws} and {at_once}")
        self.viewed = bare(model)
        self.draws = draws
        self.at_once = min(at_once or draws, draws)

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Output:
        """The mean logits of inputs and masks by modality."""
        samples = next(iter(inputs.values())).shape[0]
        total: Tensor | None = None
        for first in range(0, self.draws, self.at_once):
            count = min(self.at_once, self.draws - first)
            rows = {n: x.repeat_interleave(count, dim=0) for n, x in inputs.items()}
            masks = {n: m.repeat_interleave(count, dim=0) for n, m in (mask or {}).items()}
            drawn = forward(self.viewed, rows, masks).logits.unflatten(0, (samples, count)).sum(dim=1)
            total = drawn if total is None else total + drawn
        assert total is not None
        return Output(total / self.draws)
