"""Predictors take batches one at a time, to where the model is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard import Batch, Inputs
from crossguard.diagnostics.predictors import predictors
from tests.training.toys import THREAT, TwoBranch, dataset


class ArrivedError(Exception):
    pass


class Elsewhere(nn.Module):
    """A model on a device without storage, which nothing can be computed on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 2, device="meta"))

    def forward(self, inputs: Inputs, mask: dict[str, Tensor] | None = None) -> Tensor:
        assert mask is not None
        devices = {x.device for x in (inputs["x"], mask["x"])}
        raise ArrivedError if devices == {self.weight.device} else AssertionError(f"batches are left on {devices}")


def test_batches_are_moved_to_the_model() -> None:
    batch = Batch({"x": torch.rand(4, 4)}, torch.tensor([0, 1, 0, 1]), {"x": torch.ones(4, 4, dtype=torch.bool)})
    with pytest.raises(ArrivedError):
        predictors(Elsewhere(), [batch], cg.ThreatModel(x=cg.Linf(0.1)), steps=2)


def test_no_batch_is_kept() -> None:
    data, alive = dataset("toy", 24, 0), list[int]()

    def batches() -> Iterator[Batch]:
        seen: list[weakref.ref[Tensor]] = []
        for start in range(0, 24, 4):
            batch = data.read(range(start, start + 4))
            seen += [weakref.ref(x) for x in batch.inputs.values()]
            yield batch
            del batch
            gc.collect()
            alive.append(sum(ref() is not None for ref in seen))

    rows = {r.name: r for r in predictors(TwoBranch(), batches(), THREAT, steps=2)}
    assert max(alive) <= 4, "no more than the last two batches of two modalities"
    for name in ("density", "convexity"):
        assert len(rows[name].by_class) == 2
    assert rows["density"].price.forwards == 24
    assert rows["convexity"].price.forwards == 24 + 2 * 2000
    assert rows["convexity"].price.seconds > 0
