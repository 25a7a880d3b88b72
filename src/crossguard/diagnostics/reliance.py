"""What a model would say without one of its modalities: reliance over a set, contribution by sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from crossguard.core import InputError, Inputs, Mask, borrowed, expand_mask, forward, takes_mask

Fill: TypeAlias = Literal["mean", "zeros"]


def without(
    model: nn.Module, inputs: Inputs, name: str, mask: Mapping[str, Tensor] | None = None, *, fill: Fill = "mean"
) -> tuple[Inputs, Mask]:
    """The same samples without modality `name`: masked out where the model takes a mask, else filled.

    `fill`: each sample's own mean over what is real, or zeros. Raises InputError for a modality that is not there.
    """
    if name not in inputs:
        raise InputError(f"cannot leave out {name!r}: the inputs are {sorted(inputs)}")
    masks = dict(mask or {})
    x = inputs[name]
    if takes_mask(model):
        real = masks.get(name)
        masks[name] = x.new_zeros(x.shape[0], dtype=torch.bool) if real is None else torch.zeros_like(real)
        return dict(inputs), masks
    return {**inputs, name: torch.zeros_like(x) if fill == "zeros" else _means(x, masks.get(name))}, masks


def _means(x: Tensor, mask: Tensor | None) -> Tensor:
    real = torch.ones_like(x, dtype=torch.bool) if mask is None else expand_mask(mask, x).expand_as(x)
    total = (x * real).flatten(1).sum(dim=1)
    mean = total / real.flatten(1).sum(dim=1).clamp_min(1)
    return mean.view(-1, *(1,) * (x.dim() - 1)).expand_as(x).clone()


def contribution(
    model: nn.Module,
    inputs: Inputs,
    mask: Mapping[str, Tensor] | None = None,
    *,
    fill: Fill = "mean",
    logits: Tensor | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Modality -> (N,) winning logit minus the same logit without that modality; the model comes back as it was.

    `logits` and `known` (modality -> logits without it) are what the caller has computed already.
    """
    found: dict[str, Tensor] = {}
    with borrowed(model) as net, torch.no_grad():
        whole = forward(net, inputs, mask).logits if logits is None else logits
        winner = whole.argmax(dim=1, keepdim=True)
        for name in inputs:
            rest = (known or {}).get(name)
            if rest is None:
                rest = forward(net, *without(net, inputs, name, mask, fill=fill)).logits
            found[name] = (whole - rest).gather(1, winner).squeeze(1)
    return found
