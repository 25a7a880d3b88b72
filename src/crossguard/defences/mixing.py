"""What is mixed with what: partners of a batch's samples, and the mixture of inputs, masks or features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch, Feature, Inputs, Mask, Need, Output, expand_mask
from crossguard.core.model import Branched

Partner: TypeAlias = Literal["any", "within", "across"]


@dataclass(frozen=True)
class Mixture:
    """Samples `first` mixed with samples `second` (B,) of a batch, by modality with the share of the first."""

    first: Tensor
    second: Tensor
    share: Mapping[str, float]

    def inputs(self, batch: Batch) -> tuple[Inputs, Mask]:
        """lambda x + (1 - lambda) x'; what is real in one of the two alone stays as it is, and the mask is of both."""
        mixed: Inputs = {}
        masks: Mask = {}
        for name, x in batch.inputs.items():
            real = batch.mask.get(name)
            a, b = x[self.first], x[self.second]
            mixed[name] = self.share[name] * a + (1 - self.share[name]) * b
            if real is not None:
                own, other = real[self.first], real[self.second]
                only = a.where(expand_mask(own, a), b)
                mixed[name] = mixed[name].where(expand_mask(own & other, a), only)
                masks[name] = own | other
        return mixed, masks

    def feature(self, name: str, feature: Feature) -> Feature:
        """The same of what a branch hands over."""
        return feature.take(self.first).between(feature.take(self.second), self.share[name])


class Between(nn.Module):
    """A model with branches, whose features are mixed where branches first meet."""

    def __init__(self, model: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.model, self.mixture = model, mixture

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None, need: Sequence[Need] = ()) -> Output:
        net, masks = self.model, mask or {}
        assert isinstance(net, Branched)
        names: tuple[str, ...] = getattr(net, "modalities", ())
        features = {n: net.encode(n, inputs[n], masks.get(n)) for n in names if n in inputs}
        return net.fuse({n: self.mixture.feature(n, f) for n, f in features.items()}, need)


def partners(
    targets: Tensor, partner: Partner, chances: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(B,) and (B,) rows that are mixed, on the CPU.

    "any": each sample with a random one; "across": of another class; "within": of the same (with several labels: of
    none, or one, in common), where there is such a one, else with itself. `chances` (C,): the class of the partner is
    drawn with them among those of the batch, within classes that of the pair, and then samples of it evenly.
    """
    count = len(targets)
    kind = targets.cpu()
    labels = kind.bool() if kind.dim() == 2 else kind[:, None] == kind.unique()[None]
    weight = torch.ones(count)
    if chances is not None:
        by_class = chances.cpu().float() if kind.dim() == 2 else chances.cpu().float()[kind.unique()]
        weight = labels.float() @ (by_class / labels.sum(dim=0).clamp_min(1))
        weight = weight + torch.finfo(torch.float32).tiny
    first = torch.arange(count)
    if partner == "within" and chances is not None:
        first = torch.multinomial(weight, count, replacement=True, generator=generator)
    shared = labels[first].float() @ labels.float().T > 0
    allowed = torch.ones_like(shared) if partner == "any" else shared if partner == "within" else ~shared
    allowed[first[:, None] == torch.arange(count)] = False
    table = allowed * (weight if partner != "within" else torch.ones(count))
    alone = ~allowed.any(dim=1)
    table[alone, first[alone]] = 1.0
    return first, torch.multinomial(table, 1, generator=generator).squeeze(1)
