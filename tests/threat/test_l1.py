"""L1 with a box: the nearest point, the best move."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import crossguard as cg
from tests.threat.cases import case


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 8.0), st.booleans())
def test_the_projection_is_the_nearest_point(seed: int, eps: float, ties: bool) -> None:
    x, y, _ = case((40,), seed, masked=False)
    x, y = x.double(), y.double()
    if ties:
        x, y = (x * 4).round() / 4, (y * 4).round() / 4
    found = cg.L1(eps, bounds=(0, 1)).project(y, x)
    d = y - x
    size, room = d.abs(), torch.where(d < 0, x, 1 - x)
    low, high = torch.zeros(5, 1).double(), size.amax(dim=1, keepdim=True)
    for _ in range(200):  # oracle: bisection on the dual variable
        middle = (low + high) / 2
        over = torch.minimum((size - middle).clamp_min(0), room).sum(dim=1, keepdim=True) > eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    high = torch.where(torch.minimum(size, room).sum(dim=1, keepdim=True) <= eps, 0.0, high)
    best = torch.minimum((size - high).clamp_min(0), room) * d.sign()
    assert torch.allclose(found - x, best, atol=1e-5 * eps)
    assert ((found - y).norm(dim=1) <= (x + best - y).norm(dim=1) + 1e-5 * eps).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 8.0))
def test_the_steepest_move_solves_the_linear_programme(seed: int, eps: float) -> None:
    x, y, _ = case((12,), seed, masked=False)
    gradient = y - x
    move = cg.L1(eps, bounds=(0, 1)).around(x).steepest(gradient)
    assert cg.L1(eps, bounds=(0, 1)).contains(x + move, x).all()
    for i in range(2):
        g, clean = gradient[i].double().numpy(), x[i].double().numpy()
        best = linprog(  # change = up - down
            np.concatenate([-g, g]),
            A_ub=np.ones((1, 24)),
            b_ub=[eps],
            bounds=[(0, 1 - v) for v in clean] + [(0, v) for v in clean],
        )
        assert float((move[i] * gradient[i]).sum()) >= -best.fun * (1 - 1e-4) - 1e-6
