"""L0: the right entries change, and no more of them than may."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crossguard as cg
from tests.threat.cases import case


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6))
def test_projection_and_move_beat_every_choice_of_entries(seed: int, count: int) -> None:
    x, y, _ = case((6,), seed, masked=False)
    budget = cg.L0(count, bounds=(0, 1))
    found, gradient = budget.project(y, x), y - x
    gain = (budget.around(x).steepest(gradient) * gradient).sum(dim=1)
    edge = torch.where(gradient > 0, 1.0, 0.0)
    for chosen in combinations(range(6), min(count, 6)):
        kept = torch.zeros(6, dtype=torch.bool)
        kept[list(chosen)] = True
        other = torch.where(kept, y.clamp(0, 1), x)
        assert ((found - y).norm(dim=1) <= (other - y).norm(dim=1) + 1e-6).all()
        assert (gain >= ((edge - x) * gradient * kept).sum(dim=1) - 1e-5).all()


def test_entries_of_a_random_start_can_be_left() -> None:
    x = torch.full((1, 100), 0.5)
    gradient = torch.zeros(1, 100)
    gradient[0, :3] = 1.0
    ball = cg.L0(3, bounds=(0, 1)).around(x)
    y = ball.uniform(torch.tensor([5]))
    for _ in range(20):
        y = ball.ascend(y, gradient, 0.1)
    assert (y[0, :3] == 1).all()
    assert ((y != x).sum(dim=1) <= 3).all()


def test_scaled_counts_round_down_and_more_than_all_is_all() -> None:
    x = torch.rand(2, 5)
    assert cg.L0(3, bounds=(0, 1)).scaled(0.5).radius(x).tolist() == [1, 1]
    assert cg.L0(99, bounds=(0, 1)).radius(x).tolist() == [5, 5]


def test_a_change_within_rounding_still_counts() -> None:
    x = torch.full((1, 4), 0.5)
    assert not cg.L0(1, bounds=(0, 1)).contains(torch.nextafter(x, torch.ones(1)), x).any()


def test_impossible_ones_are_refused() -> None:
    with pytest.raises(cg.ThreatError, match="how far"):
        cg.L0(3)
    with pytest.raises(cg.ThreatError, match="amplitude"):
        cg.L0(3, amplitude=-1.0)
    with pytest.raises(cg.ThreatError, match="joint_weights"):
        cg.L0(3, bounds=(0, 1), constraints=(cg.JointWeights((1.0,), axis=-1),))
