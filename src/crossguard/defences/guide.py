"""Which classes mix-up draws: those that a metric of latent space calls thin or not convex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from crossguard.core.estimate import Estimate
from crossguard.core.model import bare, borrowed
from crossguard.core.random import bits, combine, text_key
from crossguard.data.base import Dataset
from crossguard.defences.objective import Context
from crossguard.diagnostics.convexity import convexity
from crossguard.diagnostics.density import density
from crossguard.diagnostics.latents import Latents, latents, rest

Metric: TypeAlias = Literal["density", "convexity"]
_BATCH = 64


def drawn_by(metric: Metric, tau: float, model: nn.Module, dataset: Dataset, samples: int, context: Context) -> Tensor:
    """(C,) p(c) ~ exp(-tau z_c), z_c the standardised metric on clean training latents, as the model in eval mode
    makes them, of at most `samples` samples drawn once a run; of a class where it is undefined z_c is 0.

    density: of the fused latents. convexity: of what the branches hand over, under all that comes after.
    """
    net = bare(model)
    order = bits(combine(torch.tensor([context.seed]), text_key("guide")), len(dataset))[0].argsort(stable=True)
    chosen: list[int] = sorted(order[:samples].tolist())
    parts = (chosen[i : i + _BATCH] for i in range(0, len(chosen), _BATCH))
    found = latents(
        net, (dataset.read(part) for part in parts), most=samples, features=metric == "convexity", seed=context.seed
    )
    context.work.forwards += len(chosen)
    values = _density(found, context) if metric == "density" else _convexity(net, found, context)
    return (-tau * standardised(values)).softmax(dim=0)


def standardised(values: Sequence[Estimate]) -> Tensor:
    """(C,) (value - mean) / deviation over the classes that have one, 0 for the others and where all are alike."""
    v = torch.tensor([e.value for e in values], dtype=torch.float64)
    there = v[v.isfinite()]
    spread = there.std(correction=0) if len(there) else torch.zeros(())
    return torch.nan_to_num((v - there.mean()) / spread) if float(spread) > 1e-12 else torch.zeros_like(v)


def _density(found: Latents, context: Context) -> list[Estimate]:
    classes = context.task.classes
    return density(found.values["fused"], found.targets, groups=found.groups, classes=classes, seed=context.seed)


def _convexity(net: nn.Module, found: Latents, context: Context) -> list[Estimate]:
    with borrowed(net) as lent:
        values = {name: feature.to(context.device) for name, feature in found.features.items()}
        answer = convexity(rest(lent), values, found.targets, classes=context.task.classes, seed=context.seed)
    context.work.forwards += 2000 * sum(e.defined for e in answer)
    return answer
