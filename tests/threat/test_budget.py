"""Every budget: feasible, identity inside, idempotent, independent of the batch, bounds and masks kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import crossguard as cg
from crossguard.threat.budget import Budget

BUDGETS: list[Budget] = [
    cg.Linf(0.3),
    cg.Linf(0.3, bounds=(0, 1)),
    cg.Linf(5.0, bounds=(0, 1)),
    cg.L2(0.7),
    cg.L2(0.7, bounds=(0, 1)),
    cg.L2(50.0, bounds=(0, 1)),
]
SHAPES = [(3,), (2, 3), (3, 2, 4, 5)]


def _case(shape: tuple[int, ...], seed: int, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, *shape, generator=generator)
    y = x + torch.randn(5, *shape, generator=generator) * (0.1 + seed % 3)
    mask = torch.rand(5, shape[0], generator=generator) > 0.4 if masked else None
    return x, y, mask


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(BUDGETS), st.sampled_from(SHAPES), st.booleans())
def test_projection_laws(seed: int, budget: Budget, shape: tuple[int, ...], masked: bool) -> None:
    x, y, mask = _case(shape, seed, masked)
    p = budget.project(y, x, mask)
    assert budget.contains(p, x, mask).all(), "feasible"
    assert torch.allclose(budget.project(p, x, mask), p, atol=1e-6), "idempotent"
    assert torch.equal(budget.project(x, x, mask), x), "the centre stays"
    inside = budget.around(x, mask).uniform(torch.arange(5))
    assert budget.contains(inside, x, mask).all()
    assert torch.equal(budget.project(inside, x, mask), inside), "identity inside"
    alone = budget.project(y[2:3], x[2:3], None if mask is None else mask[2:3])
    assert torch.equal(alone, p[2:3]), "independent of the batch"
    if mask is not None:
        kept = (p == x) | mask.reshape(*mask.shape, *(1,) * (x.dim() - 2))
        assert kept.all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 3.0))
def test_l2_projection_with_a_box_is_the_nearest_point(seed: int, eps: float) -> None:
    x, y, _ = _case((40,), seed, masked=False)
    x, y = x.double(), y.double()
    budget = cg.L2(eps, bounds=(0, 1))
    p = budget.project(y, x)
    d, low, high = y - x, -x, 1 - x
    for i in range(5):  # oracle: bisection on the dual variable
        a, b = 0.0, 1e9
        if float(d[i].clamp(low[i], high[i]).norm()) <= eps:
            b = 0.0
        for _ in range(200):
            lam = (a + b) / 2
            if float((d[i] / (1 + lam)).clamp(low[i], high[i]).norm()) > eps:
                a = lam
            else:
                b = lam
        oracle = x[i] + (d[i] / (1 + b)).clamp(low[i], high[i])
        assert float((p[i] - y[i]).norm()) <= float((oracle - y[i]).norm()) * (1 + 1e-4) + 1e-9


def test_a_point_inside_the_l2_ball_is_not_enlarged() -> None:
    x = torch.zeros(2, 4)
    y = torch.full((2, 4), 0.1)
    assert torch.equal(cg.L2(10.0).project(y, x), y)


@pytest.mark.parametrize("budget", [cg.Linf(0.0, bounds=(0, 1)), cg.L2(0.0, bounds=(0, 1))])
def test_zero_changes_nothing_even_a_hair_outside_the_bounds(budget: Budget) -> None:
    x = torch.tensor([[1.0 + 1e-6, -1e-7, 0.5]])
    budget.check("rgb", x)
    assert torch.equal(budget.project(x + 1, x), x)
    assert not budget.active


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", [cg.Linf, cg.L2])
def test_impossible_budgets_are_refused(kind: type[Budget], eps: float) -> None:
    with pytest.raises(cg.ThreatError, match="eps"):
        kind(eps)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, 0.0), (0.0, math.nan)])
def test_empty_bounds_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(cg.ThreatError, match="bounds"):
        cg.Linf(0.1, bounds=bounds)


def test_bounds_that_do_not_hold_the_data_are_refused() -> None:
    with pytest.raises(cg.ThreatError, match=r"rgb.*span \[0, 255\]"):
        cg.Linf(8 / 255, bounds=(0, 1)).check("rgb", torch.tensor([[0.0, 255.0]]))


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_steepest_move_has_the_radius_and_beats_random_moves(budget: Budget) -> None:
    x, _, _ = _case((30,), 1, masked=False)
    gradient = torch.randn(5, 30)
    ball = budget.around(x)
    move = ball.steepest(gradient)
    length = move.abs().amax(dim=1) if isinstance(budget, cg.Linf) else move.norm(dim=1)
    assert torch.allclose(length, ball.radius, rtol=1e-4)
    other = type(budget)(budget.eps).around(x).uniform(torch.arange(5)) - x
    gain = (move * gradient).sum(dim=1) / ball.radius * budget.eps
    assert ((other * gradient).sum(dim=1) <= gain + 1e-4).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_gradients_still_point(scale: float) -> None:
    g = torch.tensor([[3.0, 4.0]]) * scale
    move = cg.L2(1.0).around(torch.zeros(1, 2)).steepest(g)
    assert torch.allclose(move, torch.tensor([[0.6, 0.8]]), atol=1e-5)


def test_nan_gradients_do_not_move() -> None:
    g = torch.tensor([[math.nan, 1.0]])
    for budget in (cg.Linf(0.1), cg.L2(0.1)):
        move = budget.around(torch.zeros(1, 2)).steepest(g)
        assert move[0, 0] == 0
        assert move[0, 1] > 0


def test_scaled_and_described() -> None:
    budget = cg.Linf(0.1, bounds=(0, 1)).scaled(2)
    assert budget == cg.Linf(0.2, bounds=(0, 1))
    assert budget.to_dict() == {"norm": "linf", "eps": 0.2, "bounds": [0, 1]}
