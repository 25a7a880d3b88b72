"""SNR: a radius in decibels by sample."""

from __future__ import annotations

import math

import pytest
import torch

import crossguard as cg


def test_the_radius_is_the_signal_over_the_ratio() -> None:
    x = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(cg.SNR(20).radius(x), torch.tensor([0.5, 0.0]))
    assert torch.allclose(cg.SNR(20, floor=1.0).radius(x), torch.tensor([0.5, 0.1]))
    real = torch.tensor([[True, False, True], [True, True, True]])
    assert torch.allclose(cg.SNR(20).radius(x, real), torch.tensor([0.3, 0.0])), "what is masked is no signal"


def test_what_it_finds_has_the_ratio_that_was_asked_for() -> None:
    x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    y = cg.SNR(30).project(x + torch.randn(4, 1000, generator=torch.Generator().manual_seed(1)), x)
    ratio = 10 * torch.log10(x.square().sum(dim=1) / (y - x).square().sum(dim=1))
    assert torch.allclose(ratio, torch.full((4,), 30.0), atol=1e-3)


def test_silence_without_a_floor_stays_silent() -> None:
    x = torch.zeros(2, 8)
    assert torch.equal(cg.SNR(10).project(x + 1, x), x)
    assert not torch.equal(cg.SNR(10, floor=0.1).project(x + 1, x), x)


def test_scaling_scales_the_radius() -> None:
    x = torch.randn(3, 9)
    for scale in (0.25, 2.0):
        assert torch.allclose(cg.SNR(17, floor=0.1).scaled(scale).radius(x), cg.SNR(17, floor=0.1).radius(x) * scale)
    assert not cg.SNR(17).scaled(0).active
    assert cg.SNR.from_dict(cg.SNR(math.inf).to_dict()) == cg.SNR(math.inf)


@pytest.mark.parametrize("eps", [math.nan, -math.inf, -1e6])
def test_impossible_decibels_are_refused(eps: float) -> None:
    with pytest.raises(cg.ThreatError, match="eps"):
        cg.SNR(eps)


def test_impossible_floors_and_scales_are_refused() -> None:
    with pytest.raises(cg.ThreatError, match="floor"):
        cg.SNR(20, floor=-1.0)
    with pytest.raises(cg.ThreatError, match="scaled"):
        cg.SNR(20).scaled(-1)
