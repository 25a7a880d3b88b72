"""Fills the external feature memory of a model in training."""

from __future__ import annotations

import torch
from torch import nn

from crossguard.core.model import bare, borrowed
from crossguard.core.random import bits, combine, text_key
from crossguard.data.base import Dataset
from crossguard.defences.objective import Context
from crossguard.models.fusion.exfmem import ExFMem
from crossguard.models.fusion_model import FusionModel

_BATCH = 64


def fill_memory(model: nn.Module, dataset: Dataset, context: Context) -> None:
    """Take the dictionaries of an `ExFMem` from clean training samples, as the model in eval mode sees them.

    Nothing is done for other fusions, or once the memory is frozen; the first epoch always fills it. The samples are
    drawn once a run, a function of the seed.
    """
    net = bare(model)
    if not isinstance(net, FusionModel) or not isinstance(net.fusion, ExFMem):
        return
    if context.epoch and context.epoch >= net.fusion.frozen_from * context.epochs:
        return
    order = bits(combine(torch.tensor([context.seed]), text_key("memory")), len(dataset))[0].argsort(stable=True)
    chosen: list[int] = sorted(order[: net.fusion.size].tolist())
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in net.modalities}
    net.fusion.empty()
    with borrowed(net), torch.no_grad():
        for start in range(0, len(chosen), _BATCH):
            batch = dataset.read(chosen[start : start + _BATCH]).to(context.device)
            for name, values in parts.items():
                values.append(net.encode(name, batch.inputs[name], batch.mask.get(name)).value)
            context.work.forwards += len(batch)
    net.fusion.fill({name: torch.cat(values) for name, values in parts.items()})
