"""APGD's schedule, and what it is for."""

from __future__ import annotations

import torch

import crossguard as cg
from crossguard.attacks import apgd, pgd
from crossguard.attacks.apgd import checkpoints
from tests.models_for_tests import Mixed


def test_checkpoints_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_a_step_size_that_is_far_too_large_is_mended() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    x = {"a": torch.rand(128, 6), "b": torch.randn(128, 4)}
    y = model(x).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.L2(0.3), b=cg.L2(0.3))
    options = {"objective": "margin", "stop": "never", "seed": 1}
    fixed = pgd(model, x, y, threat, steps=50, step_size=2.0, **options)
    auto = apgd(model, x, y, threat, steps=50, **options)
    assert auto.margin.mean() < fixed.margin.mean()
    tuned = pgd(model, x, y, threat, steps=200, step_size=0.05, **options)
    assert float((auto.margin - tuned.margin).mean()) < 0.02
