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
_MOST = 8  # times the memory's size: samples looked at for a modality that is absent in many (our choice)


def fill_memory(model: nn.Module, dataset: Dataset, context: Context) -> None:
    """Take the dictionaries of an `ExFMem` from clean training samples, as the model in eval mode sees them.

    Nothing is done for other fusions, or once the memory is frozen; the first epoch always fills it. The samples are
    drawn once a run, a function of the seed; one that lacks a modality gives no feature of it, and others are drawn in
    its place. A memory whose modality is in none of them stays empty.
    """
    net = bare(model)
    if not isinstance(net, FusionModel) or not isinstance(net.fusion, ExFMem):
        return
    if context.epoch and context.epoch >= net.fusion.frozen_from * context.epochs:
        return
    order = bits(combine(torch.tensor([context.seed]), text_key("memory")), len(dataset))[0].argsort(stable=True)
    size = net.fusion.size
    rest: list[int] = order[: _MOST * size].tolist()
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in net.modalities}
    net.fusion.empty()
    with borrowed(net), torch.no_grad():
        while rest and (lacking := size - min(sum(map(len, values)) for values in parts.values())) > 0:
            chosen, rest = sorted(rest[:lacking]), rest[lacking:]
            for start in range(0, len(chosen), _BATCH):
                batch = dataset.read(chosen[start : start + _BATCH]).to(context.device)
                for name, values in parts.items():
                    value = net.encode(name, batch.inputs[name], batch.mask.get(name)).value
                    values.append(value[batch.present(name)])
                context.work.forwards += len(batch)
    features = {name: torch.cat(values)[:size] for name, values in parts.items()}
    net.fusion.fill({name: z for name, z in features.items() if len(z)})
