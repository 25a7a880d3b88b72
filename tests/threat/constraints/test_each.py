"""Each constraint: closed forms and oracles, and planted breaches that must be seen."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import crossguard as cg
from crossguard.core.skeleton import LAYOUTS
from crossguard.threat.budget import Budget
from tests.threat.cases import CHAIN, skeletons


def noise(x: torch.Tensor, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))


def test_a_region_is_a_window_of_the_last_axes() -> None:
    x = torch.rand(2, 3, 4, 8, 8)
    budget = cg.Linf(0.5, constraints=(cg.Region(((2, 4), (0, 3))),))
    moved = budget.project(x + 9, x) != x
    assert moved[..., 2:4, 0:3].all()
    assert int(moved.sum()) == 2 * 3 * 4 * 2 * 3
    pattern = torch.zeros(8, 8, dtype=torch.bool)
    pattern[2:4, 0:3] = True
    same = cg.Linf(0.5, constraints=(cg.Region(pattern=pattern),))
    assert torch.equal(same.project(x + 9, x), budget.project(x + 9, x))
    breach = x.clone()
    breach[1, 0, 0, 0, 0] += 0.1
    assert budget.contains(breach, x).tolist() == [True, False]


def test_the_root_stays() -> None:
    x = skeletons(0)
    y = cg.L2(1.0, constraints=(cg.FixedJoints(),)).project(x + noise(x), x)
    assert torch.equal(y[..., 0, :], x[..., 0, :])
    assert (y[..., 1:, :] != x[..., 1:, :]).all()
    assert torch.allclose((y - x).flatten(1).norm(dim=1), torch.tensor(1.0)), "the others have the whole budget"


def test_weights_are_shares_of_eps_under_linf() -> None:
    x = skeletons(0)
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, 7.0])
    budget = cg.Linf(0.1, constraints=(cg.JointWeights(tuple(weights.tolist())),))
    y = budget.project(x + 99, x)
    assert torch.allclose(y - x, (0.1 * weights[:, None]).expand_as(x), atol=1e-6)
    assert torch.allclose(budget.distance(y, x), torch.tensor(0.1), rtol=1e-5)


def test_the_weighted_steepest_move_is_the_best_of_the_ellipsoid() -> None:
    """max <g, d> with |d / w| <= r is r |w g|."""
    x = torch.zeros(3, 4)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
    g = noise(x)
    move = cg.L2(0.3, constraints=(cg.JointWeights(tuple(weights.tolist()), axis=-1),)).around(x).steepest(g)
    assert torch.allclose((move * g).sum(dim=1), 0.3 * (weights * g).norm(dim=1))
    assert torch.allclose((move[:, :3] / weights[:3]).norm(dim=1), torch.tensor(0.3))


@pytest.mark.parametrize("norm", [cg.Linf(0.2), cg.L2(0.5)])
def test_the_best_frames_stay(norm: cg.Linf | cg.L2) -> None:
    """Near the sample every choice of frames can be compared; the projection is the nearest of them."""
    x = torch.zeros(3, 2, 5, 4)
    y = noise(x, 0.05)
    budget = type(norm)(norm.eps, constraints=(cg.Frames(2, axis=2),))
    found = budget.project(y, x)
    for chosen in combinations(range(5), 2):
        other = torch.zeros_like(y)
        other[:, :, list(chosen)] = norm.project(y, x)[:, :, list(chosen)]
        assert ((found - y).flatten(1).norm(dim=1) <= (other - y).flatten(1).norm(dim=1) + 1e-6).all()
    move = budget.around(x).steepest(y)
    assert torch.equal((move != 0).any(dim=1).any(dim=2).sum(dim=1), torch.full((3,), 2)), (
        "the steepest move is on two frames"
    )
    for chosen in combinations(range(5), 2):
        part = torch.zeros_like(y)
        part[:, :, list(chosen)] = y[:, :, list(chosen)]
        gain = (norm.around(x).steepest(part) * y).flatten(1).sum(dim=1)
        assert ((move * y).flatten(1).sum(dim=1) >= gain - 1e-6).all()


def test_frames_of_a_random_start_can_be_left() -> None:
    x = torch.zeros(2, 30, 4)
    gradient = torch.zeros_like(x)
    gradient[:, 7:9] = 1.0
    ball = cg.Linf(0.1, constraints=(cg.Frames(2, axis=1),)).around(x)
    y = ball.uniform(torch.arange(2))
    for _ in range(20):
        y = ball.ascend(y, gradient, 0.125)
    assert torch.allclose(y, 0.1 * gradient)


def test_bones_keep_their_lengths() -> None:
    x = skeletons(2)
    first, second = (list(ends) for ends in zip(*CHAIN, strict=True))
    budget = cg.Linf(0.1, constraints=(cg.BoneLengths(CHAIN, 0.02),))
    y = budget.around(x).repair(x + noise(x, 0.1))
    lengths = [(z[..., second, :] - z[..., first, :]).norm(dim=-1) for z in (y, x)]
    assert ((lengths[0] / lengths[1] - 1).abs() <= 0.02 * (1 + 1e-4)).all()
    assert not budget.contains(x + noise(x, 0.05), x).any()
    stretched = x.clone()
    stretched[1, 0, 0, 4] += 0.021 * (x[1, 0, 0, 4] - x[1, 0, 0, 0])
    assert budget.contains(stretched, x).tolist() == [True, False, True, True]


def test_one_bad_frame_costs_that_frame_alone() -> None:
    x = skeletons(2)
    budget = cg.Linf(0.5, constraints=(cg.BoneLengths(CHAIN, 0.0),))
    y = x + torch.tensor([0.1, 0.0, 0.0])  # all bodies moved as they are, which no bone minds
    y[0, 0, 3, 2, 1] += 0.4
    repaired = budget.around(x).repair(y)
    intact = torch.ones(x.shape[:3], dtype=torch.bool)
    intact[0, 0, 3] = False
    assert torch.allclose((repaired - x)[intact], (y - x)[intact], atol=2e-3)


def test_layouts_are_trees() -> None:
    for name, joints in (("ntu-25", 25), ("utd-mhad-20", 20)):
        reached = {0}
        for _ in range(joints):
            reached |= {b for bone in LAYOUTS[name] for b in bone if set(bone) & reached}
        assert reached == set(range(joints))
        assert len(LAYOUTS[name]) == joints - 1


def test_acceleration_counts_the_change_not_the_motion() -> None:
    x = skeletons(4) * 10
    limit = cg.Acceleration(0.01, axis=2)
    time = torch.arange(6).view(1, 1, -1, 1, 1)
    smooth, jerk = x + 0.3 * time, x.clone()
    jerk[0, 0, 2, 0] += torch.tensor([0.006, 0.008, 0.0]) / 2 * 1.01
    assert cg.Linf(9, constraints=(limit,)).contains(smooth, x).all()
    assert cg.Linf(9, constraints=(limit,)).contains(jerk, x).tolist() == [False, True, True, True]
    real = torch.ones(4, 2, 6, dtype=torch.bool)
    real[0, 0, 4:] = False
    assert not limit.contains(jerk, x, real)[0]
    assert limit.contains(jerk, x, torch.arange(6).expand(4, 2, 6) < 3).all(), "steps into masked frames do not count"


def test_relative_acceleration_is_in_shares_of_the_clean_one() -> None:
    x = torch.zeros(1, 5, 1, 1)
    x[0, 2] = 0.1  # second differences 0.1, -0.2, 0.1
    y = x.clone()
    y[0, 2] += 0.05  # adds at most 0.1: half of the largest
    assert cg.Acceleration(0.501, axis=1, relative=True).contains(y, x, None).all()
    assert not cg.Acceleration(0.499, axis=1, relative=True).contains(y, x, None).any()


def test_acceleration_of_series_and_of_short_ones() -> None:
    x = torch.zeros(2, 50)
    budget = cg.Linf(1.0, constraints=(cg.Acceleration(0.1, axis=1),))
    y = budget.around(x).repair(noise(x))
    assert float(y.diff(n=2, dim=1).abs().max()) <= 0.1 * (1 + 1e-5)
    assert float(y.abs().max()) > 0.03
    assert torch.equal(budget.project(x[:, :2] + 9, x[:, :2]), x[:, :2] + 1)


MASKS = {
    "none": None,
    "samples": torch.tensor([True, False, True, True]),
    "joints": torch.tensor([[1, 1, 0, 1, 1], [1] * 5, [0] * 5, [1, 0, 1, 1, 0]]).bool(),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize("norm", [cg.Linf(0.2), cg.L2(0.5), cg.Linf(0.2, bounds=(-1, 3.1))])
def test_bones_of_single_poses_are_those_of_a_film_of_one_frame(norm: Budget, mask: torch.Tensor | None) -> None:
    """(N, J, 3), joints without persons and frames."""
    film = skeletons(2, frames=1)[:, :1]
    x = film[:, 0, 0]
    real = None if mask is None else mask.view(4, 1, 1, -1)
    budget = type(norm)(norm.eps, norm.bounds, (cg.BoneLengths(CHAIN, 0.02),))
    budget.check("pose", x)
    pose, frame = budget.around(x, mask), budget.around(film, real)
    y, gradient = x + noise(x, 0.1), noise(x).flip(0)
    pairs = [
        (pose.project(y), frame.project(y[:, None, None])),
        (pose.repair(y), frame.repair(y[:, None, None])),
        (pose.ascend(x, gradient, 0.5), frame.ascend(film, gradient[:, None, None], 0.5)),
        (pose.steepest(gradient), frame.steepest(gradient[:, None, None])),
        (pose.uniform(torch.arange(4)), frame.uniform(torch.arange(4))),
    ]
    for single, among in pairs:
        torch.testing.assert_close(single, among[:, 0, 0], rtol=0, atol=1e-6)
    repaired = pose.repair(y)
    assert budget.contains(repaired, x, mask).all()
    free = torch.ones(4, 5).bool() if mask is None else mask.view(4, -1).expand(4, 5)
    assert torch.equal((repaired != x).any(dim=2), free & free.any(dim=1, keepdim=True))
    assert budget.contains(y, x, mask).tolist() == budget.contains(y[:, None, None], film, real).tolist()
    assert not budget.contains(y, x, mask)[0]
    assert budget.constraints[0].contains(y[:0], x[:0], None).shape == (0,)
