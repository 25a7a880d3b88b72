"""Square asks for no gradient, works on any rank, and finds what gradients find."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import pgd, square
from tests.models_for_tests import Linear

SHAPES = {"video": (3, 4, 8, 8), "skeleton": (2, 6, 10, 3)}


class Rounded(nn.Module):
    """Nothing to follow: the gradient is zero wherever it is defined."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return self.net({n: (x * 50).round() / 50 for n, x in inputs.items()})


def _case(n: int = 48) -> tuple[Linear, cg.Inputs, Tensor]:
    model = Linear(SHAPES, classes=4)
    generator = torch.Generator().manual_seed(3)
    inputs = {k: torch.randn(n, *s, generator=generator) for k, s in SHAPES.items()}
    return model, inputs, model(inputs).argmax(dim=1).detach()


@pytest.mark.parametrize(("kind", "size", "share"), [(cg.Linf, 0.05, 0.8), (cg.L2, 1.0, 0.7)])
def test_it_finds_most_of_what_gradients_find(kind: Any, size: float, share: float) -> None:
    """Weights without any structure in space are the hardest for blocks."""
    model, inputs, targets = _case()
    threat = cg.ThreatModel(video=kind(size), skeleton=kind(size))
    best = pgd(model, inputs, targets, threat, objective="margin")
    found = square(model, inputs, targets, threat, queries=1500)
    assert found.backwards == 0
    assert not (found.success & ~best.success).any()
    assert found.success.sum() >= share * best.success.sum()
    assert best.success.float().mean() > 0.5


def test_more_queries_never_hurt() -> None:
    model, inputs, targets = _case()
    threat = cg.ThreatModel(video=cg.Linf(0.02))
    few, many = (
        square(model, inputs, targets, threat, queries=q, stop="never", ids=list(range(48))).margin for q in (40, 400)
    )
    assert many.mean() < few.mean()


def test_it_sees_through_a_model_without_gradients() -> None:
    model, inputs, targets = _case()
    threat = cg.ThreatModel(video=cg.Linf(0.05), skeleton=cg.Linf(0.05))
    blind = pgd(Rounded(model), inputs, targets, threat)
    found = square(Rounded(model), inputs, targets, threat, queries=400)
    assert found.success.sum() > blind.success.sum() + 5


def test_it_goes_on_from_the_signs_of_its_start() -> None:
    model, inputs, targets = _case()
    threat = cg.ThreatModel(video=cg.Linf(0.03), skeleton=cg.Linf(0.03))
    first = square(model, inputs, targets, threat, queries=40)
    again = square(model, inputs, targets, threat, queries=20, start=first.inputs, seed=1)
    fresh = square(model, inputs, targets, threat, queries=20, seed=1)
    assert (again.margin <= first.margin + 1e-5).all()
    assert (again.margin[~first.success] < first.margin[~first.success]).float().mean() > 0.2
    assert again.margin.mean() < fresh.margin.mean()


RANKED = {
    "l1": (cg.ThreatModel(a=cg.L1(3.0, bounds=(0.0, 1.0))), 3),
    "l0": (cg.ThreatModel(a=cg.L0(5, bounds=(0.0, 1.0))), 5),
    "frames": (cg.ThreatModel(a=cg.Linf(0.3, constraints=(cg.Frames(2, axis=1),))), 2 * 4),
    "aligned": (cg.ThreatModel(a=cg.Linf(0.3), frames=cg.AlignedFrames(2, {"a": 1})), 2 * 4),
}


@pytest.mark.parametrize("kind", RANKED)
def test_where_a_budget_chooses_entries_it_tries_others_than_the_first(kind: str) -> None:
    threat, few = RANKED[kind]
    model, generator = Linear({"a": (50, 4)}, classes=4), torch.Generator().manual_seed(3)
    inputs = {"a": torch.rand(24, 50, 4, generator=generator)}
    targets = model(inputs).argmax(dim=1).detach()
    found = square(model, inputs, targets, threat, queries=300, stop="never")
    changed = (found.inputs["a"] != inputs["a"]).flatten(1).float().mean(dim=0)
    assert (changed > 0).sum() > 3 * few, "over the samples, many entries"
    assert changed[len(changed) // 2 :].sum() > 0.2 * changed.sum(), "the later ones among them"
    chance = cg.attacks.noise(model, inputs, targets, threat, trials=300, stop="never")
    assert found.margin.mean() < chance.margin.mean()
