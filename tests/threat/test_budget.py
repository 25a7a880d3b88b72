"""Every budget: feasible, identity inside, idempotent, independent of the batch, bounds and masks kept."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crossguard as cg
from crossguard.threat.budget import Budget
from tests.threat.cases import BUDGETS, SHAPES, case


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(BUDGETS), st.sampled_from(SHAPES), st.booleans())
def test_projection_laws(seed: int, budget: Budget, shape: tuple[int, ...], masked: bool) -> None:
    x, y, mask = case(shape, seed, masked)
    p = budget.project(y, x, mask)
    assert budget.contains(p, x, mask).all(), "feasible"
    assert torch.allclose(budget.project(p, x, mask), p, atol=1e-6), "idempotent"
    assert torch.equal(budget.project(x, x, mask), x), "the centre stays"
    inside = budget.around(x, mask).uniform(torch.arange(5))
    assert budget.contains(inside, x, mask).all()
    assert torch.equal(budget.project(inside, x, mask), inside), "identity inside"
    assert budget.contains(budget.around(x, mask).repair(y), x, mask).all(), "repaired"
    assert torch.equal(budget.around(x, mask).repair(torch.full_like(x, math.nan)), x)
    alone = budget.project(y[2:3], x[2:3], None if mask is None else mask[2:3])
    assert torch.equal(alone, p[2:3]), "independent of the batch"
    if mask is not None:
        kept = (p == x) | mask.reshape(*mask.shape, *(1,) * (x.dim() - 2))
        assert kept.all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 3.0))
def test_l2_projection_with_a_box_is_the_nearest_point(seed: int, eps: float) -> None:
    x, y, _ = case((40,), seed, masked=False)
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


@pytest.mark.parametrize(
    "budget",
    [
        cg.Linf(0.0, bounds=(0, 1)),
        cg.L2(0.0, bounds=(0, 1)),
        cg.L1(0.0, bounds=(0, 1)),
        cg.L0(0, bounds=(0, 1)),
        cg.L0(0.9, bounds=(0, 1)),
        cg.SNR(30, bounds=(0, 1)).scaled(0),
    ],
)
def test_zero_changes_nothing_even_a_hair_outside_the_bounds(budget: Budget) -> None:
    x = torch.tensor([[1.0 + 1e-6, -1e-7, 0.5]])
    budget.check("rgb", x)
    assert torch.equal(budget.project(x + 1, x), x)
    assert torch.equal(budget.around(x).uniform(torch.arange(1)), x)
    assert torch.equal(budget.around(x).repair(x + 1), x)
    assert not budget.active


@pytest.mark.parametrize("weights", [(), (cg.JointWeights((0.5, 3.0, 1.0), axis=-1),)])
@pytest.mark.parametrize("budget", [b for b in BUDGETS if b.bounds])
def test_a_hair_outside_the_bounds_is_brought_back(budget: Budget, weights: tuple[cg.JointWeights, ...]) -> None:
    """y - x rounds the hair away, so a projection that looks at the change alone would let it pass."""
    if weights and isinstance(budget, cg.L0):
        return
    budget = type(budget)(**{**vars(budget), "constraints": weights})
    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    for edge in (-1e-9, 1 + 2**-23):
        y = x.clone()
        y[:, 0] = edge
        x[:, 0] = (x[:, 0] - edge).abs().clamp(max=0.1) if edge < 0 else 1 - 0.1 * x[:, 0]
        assert budget.contains(budget.project(y, x), x).all()


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", [cg.Linf, cg.L2, cg.L1, cg.L0])
def test_impossible_budgets_are_refused(kind: type[Budget], eps: float) -> None:
    with pytest.raises(cg.ThreatError, match="eps"):
        kind(eps)


@pytest.mark.parametrize("kind", [cg.Linf, cg.L2, cg.L1, cg.L0, cg.SNR])
def test_budgets_are_numbers(kind: type[Budget]) -> None:
    with pytest.raises(cg.ThreatError, match=r"found '8/255', expected a number; .* write 8 / 255"):
        kind("8/255")  # type: ignore[arg-type]
    with pytest.raises(cg.ThreatError, match="found None, expected a number"):
        kind(None)  # type: ignore[arg-type]
    with pytest.raises(cg.ThreatError, match="found '1', expected a number"):
        kind(1.0, bounds=(0.0, "1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, 0.0), (0.0, math.nan)])
def test_empty_bounds_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(cg.ThreatError, match="bounds"):
        cg.Linf(0.1, bounds=bounds)


def test_bounds_that_do_not_hold_the_data_are_refused() -> None:
    with pytest.raises(cg.ThreatError, match=r"rgb.*span \[0, 255\]"):
        cg.Linf(8 / 255, bounds=(0, 1)).check("rgb", torch.tensor([[0.0, 255.0]]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(BUDGETS), st.booleans())
def test_the_steepest_move_beats_random_moves(seed: int, budget: Budget, masked: bool) -> None:
    """To first order nothing allowed gains more than the projected steepest move, and it is as long as may be."""
    x, y, mask = case((30,), seed, masked)
    gradient = y - x
    ball = budget.around(x, mask)
    move = ball.steepest(gradient)
    assert (budget.size(move) <= ball.radius * (1 + 1e-4)).all()
    if isinstance(budget, cg.L2):  # the direction is that of the whole sphere; the box then cuts it
        ball = type(budget)(**{**vars(budget), "bounds": None}).around(x, mask)
        move = ball.steepest(gradient)
        assert torch.allclose(budget.size(move), ball.radius * (1 if mask is None else mask.any(dim=1)), rtol=1e-4)
    reached = ball.project(x + move) - x
    for trial in range(3):
        other = ball.uniform(torch.arange(5) + 7 * trial) - x
        assert ((other * gradient).sum(dim=1) <= (reached * gradient).sum(dim=1) * (1 + 1e-4) + 1e-5).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_gradients_still_point(scale: float) -> None:
    g = torch.tensor([[3.0, 4.0]]) * scale
    move = cg.L2(1.0).around(torch.zeros(1, 2)).steepest(g)
    assert torch.allclose(move, torch.tensor([[0.6, 0.8]]), atol=1e-5)


def test_nan_gradients_do_not_move() -> None:
    g = torch.tensor([[math.nan, 1.0]])
    for budget in (cg.Linf(0.1), cg.L2(0.1), cg.L1(0.1), cg.L0(2, amplitude=0.1), cg.SNR(20, floor=1)):
        move = budget.around(torch.zeros(1, 2)).steepest(g)
        assert move[0, 0] == 0
        assert move[0, 1] > 0


def test_scaled_and_described() -> None:
    budget = cg.Linf(0.1, bounds=(0, 1)).scaled(2)
    assert budget == cg.Linf(0.2, bounds=(0, 1))
    assert budget.to_dict() == {"norm": "linf", "eps": 0.2, "bounds": [0, 1]}


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_leaves_the_ball_is_seen(budget: Budget) -> None:
    """A planted fault each: too far, out of bounds, masked entries touched, not a number."""
    x, _, _ = case((30,), 3, masked=False)
    ball = budget.around(x)
    far = x + torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * 9
    at = ball.project(far)
    assert budget.contains(at, x).all()
    if not torch.equal(budget.radius(x), budget.scaled(2).radius(x)):
        assert not budget.contains(budget.scaled(2).project(far, x), x).any()
    if budget.bounds is not None:
        assert not budget.contains(torch.where(torch.arange(30) == 0, budget.bounds[1] + 1e-3, x), x).any()
    hidden = torch.zeros(5, 30, dtype=torch.bool)
    assert torch.equal(budget.contains(at, x, hidden), (at == x).all(dim=1))
    assert not budget.contains(torch.where(torch.arange(30) == 0, math.nan, x), x).any()


@pytest.mark.parametrize("budget", BUDGETS)
def test_larger_budgets_hold_smaller_ones(budget: Budget) -> None:
    x, y, mask = case((4, 6), 5, masked=True)
    for scale in (0.3, 1.0):
        inside = budget.scaled(scale).project(y, x, mask)
        assert budget.scaled(1.7).contains(inside, x, mask).all()


@pytest.mark.parametrize("budget", BUDGETS)
def test_round_trip_through_json(budget: Budget) -> None:
    assert type(budget).from_dict(json.loads(json.dumps(budget.to_dict()))) == budget


def test_bounds_are_two() -> None:
    with pytest.raises(cg.ThreatError, match="bounds"):
        cg.Linf(0.1, bounds=(0, 1, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("budget", BUDGETS)
def test_no_samples_are_fine(budget: Budget, shape: tuple[int, ...]) -> None:
    x, mask = torch.zeros(0, *shape), torch.ones(0, *shape[:1], dtype=torch.bool)
    budget.check("rgb", x, mask)
    for real in (None, mask):
        ball = budget.around(x, real)
        start = ball.uniform(torch.zeros(0, dtype=torch.int64))
        for y in (start, ball.project(x), ball.steepest(x), ball.ascend(x, x, 0.5), ball.repair(x)):
            assert y.shape == x.shape
        assert budget.contains(x, x, real).shape == budget.distance(x, x, real).shape == (0,)


@pytest.mark.parametrize(
    "budget",
    [
        cg.Linf(0.3),
        cg.L2(0.7),
        cg.L2(0.7, bounds=(0, 8)),
        cg.L2(100.0, bounds=(0, 8)),  # more than the bounds' diagonal
        cg.L2(0.7, constraints=(cg.JointWeights((1.0, 0.5, 0.0, 2.0, 1.0, 1.0), axis=-1),)),
        cg.SNR(10),
        cg.SNR(-60, bounds=(0, 8)),
        cg.L1(1.5),
        cg.L1(1.5, bounds=(0, 8)),
        cg.L1(1000.0, bounds=(0, 8)),
        cg.L0(4, bounds=(0, 8)),
    ],
)
def test_a_random_start_does_not_depend_on_padding(budget: Budget) -> None:
    x = (case((4, 6), 0, masked=False)[0] * 8).round()  # whole numbers: the norm that SNR takes sums exactly
    keys = torch.arange(5)
    expected = budget.around(x).uniform(keys)
    for more in (1, 60):
        padded = torch.cat([x, torch.zeros(5, more, 6)], dim=1)
        mask = (torch.arange(4 + more) < 4).expand(5, -1)
        found = budget.around(padded, mask).uniform(keys)
        assert torch.equal(found[:, :4], expected)
        assert torch.equal(found[:, 4:], padded[:, 4:])


def test_bounds_hold_what_is_real() -> None:
    budget = cg.Linf(0.1, bounds=(0.5, 1))
    x = torch.tensor([[[0.6], [0.0]], [[0.0], [0.0]]])
    real = torch.tensor([[True, False], [False, False]])
    budget.check("audio", x, real)
    budget.check("audio", x, real.logical_and(torch.tensor(False)))
    with pytest.raises(cg.ThreatError, match=r"span \[0, 0.6\]"):
        budget.check("audio", x, torch.tensor([[True, True], [False, False]]))
    with pytest.raises(cg.ThreatError, match=r"span \[0, 0.6\]"):
        budget.check("audio", x)


@pytest.mark.parametrize("padding", [0.0, 0.7, 9.0, math.nan])
def test_the_span_that_is_told_is_that_of_what_is_real(padding: float) -> None:
    budget = cg.Linf(0.1, bounds=(0.5, 1), constraints=(cg.Codes(11, 0.5, 2.0),))
    x = torch.tensor([[[0.6], [padding]], [[1.9], [padding]]])
    real = torch.tensor([[True, False], [True, False]])
    with pytest.raises(cg.ThreatError, match=r"span \[0\.6, 1\.9\], the budget's bounds are \[0\.5, 1\]"):
        budget.check("audio", x, real)
    with pytest.raises(cg.ThreatError, match=r"found values in \[0\.6, 19\], its codes"):
        budget.check("audio", torch.where(x == 1.9, 19.0, x), real)
    budget.check("audio", torch.where(x == 1.9, math.nan, x), real)  # the check of what is finite names the sample
