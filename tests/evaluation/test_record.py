"""A Record's hits, also of samples that no answer gets right, or none wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import crossguard as cg
from crossguard.evaluation import Protocol, evaluate, metrics

PROTOCOL = Protocol(
    "quick", steps=2, scales=(1.0,), max_scale=1.0, curve_steps=1, noise_trials=1, check_samples=0, clips=0
)


class Shifted(nn.Module):
    """Logits that are all on one side of 0."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.map, self.shift = nn.Linear(4, 3), shift

    def forward(self, inputs: cg.Inputs) -> torch.Tensor:
        return self.map(inputs["x"]) + self.shift


@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_hits_are_those_of_the_metric_where_no_label_is_true_or_every_one(shift: float) -> None:
    torch.manual_seed(0)
    model = Shifted(shift).eval()
    x, targets = torch.rand(20, 4), torch.zeros(20, 3)
    targets[:5, 0], targets[5:8] = 1, 1
    batch = cg.Batch({"x": x}, targets, ids=tuple(map(str, range(20))))
    record = evaluate(model, [batch], cg.ThreatModel(x=cg.Linf(0.5)), task=cg.MultiLabel(3), protocol=PROTOCOL)
    logits = model({"x": x}).detach()
    assert record.figure("clean", "hit@1").value == metrics.hit(logits, targets)
    for condition in record.conditions:
        right = record.right(condition)
        assert right[5:8].all(), condition
        assert not right[8:].any(), condition
    for condition in ("only:x", "any_one", "joint"):
        assert [e.value for _, e in record.curve(condition)] == [
            record.figure(c, "hit@1").value for c in ("clean", condition)
        ]
        assert (record.broken_at(condition)[8:] == 0).all()
        assert np.isinf(record.broken_at(condition)[5:8]).all()
