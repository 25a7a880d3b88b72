"""What a model would say without some of its modalities: reliance over a set, contribution and share by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from crossguard.core import InputError, Inputs, Mask, Task, borrowed, expand_mask, forward, takes_mask
from crossguard.core.batch import check_named, check_tensors, flat
from crossguard.core.task import hits, infer_task

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
    total = flat(x * real).sum(dim=1)
    mean = total / flat(real).sum(dim=1).clamp_min(1)
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
    check_named("inputs", inputs)
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


def shapley(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    mask: Mapping[str, Tensor] | None = None,
    *,
    task: Task | None = None,
    value: Literal["right", "margin"] = "right",
    fill: Fill = "mean",
) -> dict[str, Tensor]:
    """Modality -> (N,) its share of what the model gets right (or of its margin), clean or attacked as the inputs are.

    Exact Shapley values (Shapley, 1953) over all 2^M sets of modalities, the others left out as `without` does: the
    shares of a sample sum to its value with all less its value with none. The model comes back as it was.
    """
    check_tensors(inputs, targets, mask)
    names = tuple(inputs)
    worth: dict[frozenset[str], Tensor] = {}
    with borrowed(model) as net, torch.no_grad():
        for size in range(len(names) + 1):
            for kept in combinations(names, size):
                seen, masks = dict(inputs), dict(mask or {})
                for name in set(names) - set(kept):
                    seen, masks = without(net, seen, name, masks, fill=fill)
                logits = forward(net, seen, masks).logits
                margin = (task or infer_task(targets, logits)).margin(logits, targets)
                worth[frozenset(kept)] = hits(margin, targets).to(margin.dtype) if value == "right" else margin
    shares: dict[str, Tensor] = {}
    for name in names:
        total = torch.zeros_like(worth[frozenset()])
        for kept, without_it in worth.items():
            if name not in kept:
                orders = math.factorial(len(kept)) * math.factorial(len(names) - len(kept) - 1)
                total += orders / math.factorial(len(names)) * (worth[kept | {name}] - without_it)
        shares[name] = total
    return shares
