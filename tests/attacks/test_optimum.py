"""On linear models the worst case within a budget is known: every attack by gradients must come within 5 % of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import crossguard as cg
from crossguard.attacks import apgd, apgd_t, cw, fgsm, mi_fgsm, pgd
from tests.models_for_tests import Linear

Box = tuple[float, float] | None


def _room(x: Tensor, w: Tensor, bounds: Box) -> Tensor:
    """(N, K) how far each entry may go in the direction that lowers the margin x.w."""
    if bounds is None:
        return torch.full_like(x, torch.inf)
    return torch.where(w > 0, x - bounds[0], bounds[1] - x)


def _linf(x: Tensor, w: Tensor, eps: float, bounds: Box) -> Tensor:
    return (_room(x, w, bounds).clamp(max=eps) * w.abs()).sum(dim=1)


def _l2(x: Tensor, w: Tensor, eps: float, bounds: Box) -> Tensor:
    """max |d w| over |d|_2 <= eps and the box: d = clip(t |w|, room), t by bisection (the KKT conditions)."""
    room, low, high = _room(x, w, bounds), torch.zeros(len(x), 1), torch.full((len(x), 1), 1e4)
    for _ in range(60):
        t = (low + high) / 2
        inside = torch.minimum(t * w.abs(), room).norm(dim=1, keepdim=True) <= eps
        low, high = torch.where(inside, t, low), torch.where(inside, high, t)
    return (torch.minimum(low * w.abs(), room) * w.abs()).sum(dim=1)


def _l1(x: Tensor, w: Tensor, eps: float, bounds: Box) -> Tensor:
    """Spend eps on the largest weights first, each as far as the box lets it."""
    size, order = w.abs().expand_as(x).sort(dim=1, descending=True)
    room = _room(x, w, bounds).gather(1, order).clamp(max=eps)
    spent = room.cumsum(dim=1)
    return (torch.minimum(room, (eps - spent + room).clamp_min(0)) * size).sum(dim=1)


def _l0(x: Tensor, w: Tensor, eps: float, bounds: Box) -> Tensor:
    gain = _room(x, w, bounds).clamp(max=1.0) * w.abs()
    return gain.topk(min(math.floor(eps), gain.shape[1]), dim=1).values.sum(dim=1)


Oracle = Callable[[Tensor, Tensor, float, Box], Tensor]
NORMS: dict[str, tuple[Callable[..., cg.Budget], float, Oracle]] = {
    "linf": (cg.Linf, 0.2, _linf),
    "l2": (cg.L2, 0.7, _l2),
    "l1": (cg.L1, 1.3, _l1),
    "l0": (lambda eps, bounds: cg.L0(eps, bounds=bounds, amplitude=1.0), 3, _l0),
}
SHAPES = {2: (12,), 3: (4, 3), 4: (3, 2, 2), 5: (3, 2, 2, 1)}


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)], ids=["free", "box"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [pgd, apgd, apgd_t, cw, mi_fgsm])
def test_attacks_by_gradients_find_the_optimum(rank: int, n: int, bounds: Box, norm: str, attack: Any) -> None:
    make, eps, oracle = NORMS[norm]
    shapes = {"a": SHAPES[rank], "b": (5,)}
    model = Linear(shapes)
    generator = torch.Generator().manual_seed(rank)
    inputs = {k: torch.rand(n, *s, generator=generator) for k, s in shapes.items()}
    targets = model(inputs).argmax(dim=1)
    threat = cg.ThreatModel({name: make(eps, bounds=bounds) for name in shapes})
    options: dict[str, Any] = {} if attack is cw else {"objective": "margin"}
    options |= {"objective": "targeted_margin"} if attack is apgd_t else {}
    if attack is not mi_fgsm:
        options["steps"] = 100
    elif bounds is not None and norm != "linf":
        pytest.skip("its moves add up to the budget exactly: what the box cuts off is spent")
    result = attack(model, inputs, targets, threat, stop="never", **options)
    sign = 2 * targets[:, None] - 1  # the margin is sign * (x . gap)
    fall = torch.zeros(n)
    for name in shapes:
        w = model.gap(name) * sign
        fall += torch.cat([oracle(inputs[name][i : i + 1].flatten(1), w[i], eps, bounds) for i in range(n)])
    clean = (sign[:, 0] * (model(inputs)[:, 1] - model(inputs)[:, 0])).detach()
    assert threat.contains(result.inputs, inputs).all()
    assert (result.margin >= clean - fall - 1e-4).all()
    assert (result.margin <= clean - 0.95 * fall + 1e-4).all()


def _moments(gain: Tensor, k: int, power: float) -> Tensor:
    """(N,) the most that `k` frames of (N, T, C) gains give: their sum, or under L2 the root of the sum of squares."""
    return gain.pow(power).sum(dim=2).topk(k, dim=1).values.sum(dim=1).pow(1 / power)


MOMENTS: dict[str, tuple[cg.Budget, int, float]] = {
    "linf": (cg.Linf(0.2), 5, 1.0),
    "linf in a region": (cg.Linf(0.2, constraints=(cg.Region(window=((0, 2),)),)), 2, 1.0),
    "l2": (cg.L2(0.7), 5, 2.0),
}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("kind", MOMENTS)
@pytest.mark.parametrize("attack", [fgsm, pgd, apgd, cw, mi_fgsm])
def test_where_frames_are_limited_the_whole_budget_goes_to_the_best_of_them(
    attack: Any, kind: str, aligned: bool
) -> None:
    budget, columns, power = MOMENTS[kind]
    model, generator = Linear({"a": (30, 5)}), torch.Generator().manual_seed(1)
    x = torch.rand(16, 30, 5, generator=generator)
    targets = model({"a": x}).argmax(dim=1)
    if aligned:
        threat = cg.ThreatModel(a=budget, frames=cg.AlignedFrames(2, {"a": 1}))
    else:
        threat = cg.ThreatModel(a=replace(budget, constraints=(*budget.constraints, cg.Frames(2, axis=1))))
    gap, clean = model.gap("a").detach().abs().view(1, 30, 5), model({"a": x}).detach().diff(dim=1).squeeze(1).abs()
    best = budget.eps * _moments(gap[..., :columns].expand(16, -1, -1), 2, power)
    found = attack(model, {"a": x}, targets, threat, stop="never", **({} if attack is cw else {"objective": "margin"}))
    assert torch.allclose(found.margin, clean - best, atol=0.02 * float(best.max()))


def test_few_entries_are_found_though_they_are_codes() -> None:
    """Of an L0 ball its own ascent must be used, whatever else holds."""
    model, generator = Linear({"a": (40,)}), torch.Generator().manual_seed(1)
    x = (255 * torch.rand(16, 40, generator=generator)).round() / 255
    targets = model({"a": x}).argmax(dim=1)
    found = [
        pgd(model, {"a": x}, targets, cg.ThreatModel(a=cg.L0(3, bounds=(0, 1), constraints=c)), stop="never").margin
        for c in ((), (cg.PIXELS8,))
    ]
    assert torch.allclose(*found, atol=1e-4)
