"""Modality dropout (ModDrop: Neverova et al., TPAMI 2016)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from crossguard.core.batch import Batch, expand_mask, present
from crossguard.core.model import bare, takes_mask
from crossguard.core.random import combine, sample_keys, text_key, uniform


def drop_modalities(model: nn.Module, batch: Batch, share: float, key: int) -> Batch:
    """`batch` with each modality of each sample absent with probability `share`, by its mask.

    Independent draws, functions of (key, sample, modality). Where all that a sample has would go, the one with the
    highest draw stays (our choice), so of M modalities each goes with probability share - share^M / M. Only what the
    model reads is dropped. A model that takes no mask is given zeros instead.
    """
    net, n = bare(model), len(batch)
    read: tuple[str, ...] = getattr(net, "modalities", ()) or tuple(batch.inputs)
    names = sorted(set(read) & set(batch.inputs))
    samples = sample_keys(batch.ids or None, batch.inputs)
    draws = torch.stack([uniform(combine(samples, key, text_key(name)), 1).squeeze(1) for name in names], dim=1)
    draws = (draws + 1) / 2
    for i, name in enumerate(names):
        there = present(batch.mask, name, n)
        if there is not None:
            draws[:, i] = draws[:, i].where(there, -1.0)
    kept = (draws >= share) | (draws == draws.amax(dim=1, keepdim=True))
    keep = dict(zip(names, kept.unbind(1), strict=True))
    if not takes_mask(net):
        zeroed = {m: x.where(expand_mask(keep[m], x), 0.0) for m, x in batch.inputs.items() if m in keep}
        return batch.with_inputs({**batch.inputs, **zeroed})
    masks = {m: batch.mask[m] & expand_mask(k, batch.mask[m]) if m in batch.mask else k for m, k in keep.items()}
    return replace(batch, mask={**batch.mask, **masks})
