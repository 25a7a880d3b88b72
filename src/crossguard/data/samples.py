"""One sample as a file holds it, and how samples of different lengths become a Batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crossguard.core.batch import Batch, Inputs, Mask
from crossguard.core.modality import Modality


@dataclass(frozen=True)
class Sample:
    """`inputs` by modality without the sample axis, `targets` () int64 or (C,) zeros and ones.

    A modality in `absent` is not there: its tensor is a stand-in of the right shape that no mask lets through.
    """

    id: str
    inputs: Inputs
    targets: Tensor
    group: str
    absent: frozenset[str] = frozenset()


def stack(samples: Sequence[Sample], modalities: Mapping[str, Modality]) -> Batch:
    """Samples as a Batch: every modality padded along T to the longest of them, with a mask of what is real.

    Masks are (N, 1…, T) over the axes up to T, (N,) for a modality without T of which some are absent.
    """
    inputs: Inputs = {}
    mask: Mask = {}
    for name, modality in modalities.items():
        values = [sample.inputs[name] for sample in samples]
        there = torch.tensor([name not in sample.absent for sample in samples])
        position = modality.axis("T")
        if position is None:
            inputs[name] = torch.stack(values)
            if not bool(there.all()):
                mask[name] = there
            continue
        lengths = torch.tensor([x.shape[position - 1] for x in values])
        longest = int(lengths.max())
        shape = list(values[0].shape)
        shape[position - 1] = longest
        padded = values[0].new_zeros(len(values), *shape)
        for row, x in zip(padded, values, strict=True):
            row.narrow(position - 1, 0, x.shape[position - 1]).copy_(x)
        inputs[name] = padded
        real = (torch.arange(longest) < lengths[:, None]) & there[:, None]
        mask[name] = real.view(len(values), *(1,) * (position - 1), longest)
    return Batch(
        inputs,
        torch.stack([sample.targets for sample in samples]),
        mask,
        tuple(sample.id for sample in samples),
        tuple(sample.group for sample in samples),
    )
