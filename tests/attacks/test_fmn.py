"""FMN against optima that are known, and against a search for the smallest budget that PGD needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import crossguard as cg
from crossguard.attacks import fmn, pgd
from crossguard.threat.budget import Budget
from tests.models_for_tests import Linear, Mixed

SHAPES = (3, 2, 2, 2)
BUDGETS: dict[str, Budget] = {
    "linf": cg.Linf(0.2),
    "linf box": cg.Linf(0.2, bounds=(0, 1)),
    "l2": cg.L2(0.4),
    "l2 box": cg.L2(0.4, bounds=(0, 1)),
    "l1": cg.L1(0.7),
    "l1 box": cg.L1(0.7, bounds=(0, 1)),
    "l0": cg.L0(2, bounds=(0, 1)),
}


def _fall(budget: Budget, x: Tensor, gap: Tensor, share: Tensor) -> Tensor:
    """(N,) by how much `share` budgets lower the margin <gap, x> of a linear model at most: the exact optimum."""
    x, radius = x.flatten(1), (share * budget.eps)[:, None]
    size = gap.abs().expand_as(x)
    room = torch.full_like(x, torch.inf)
    if budget.bounds is not None:  # the margin falls along -gap
        room = torch.where(gap > 0, x - budget.bounds[0], budget.bounds[1] - x)
    if isinstance(budget, cg.Linf):
        move = torch.minimum(room, radius)
    elif isinstance(budget, cg.L2):
        scale = radius / size.norm(dim=1, keepdim=True)
        for _ in range(12):  # min(room, scale |gap|) of length radius
            move = torch.minimum(room, scale * size)
            free = move < room
            spare = (radius.square() - (move * ~free).square().sum(dim=1, keepdim=True)).clamp_min(0)
            scale = (spare / (size * free).square().sum(dim=1, keepdim=True).clamp_min(1e-30)).sqrt()
        move = torch.minimum(room, scale * size)
    elif isinstance(budget, cg.L1):
        order = size.argsort(dim=1, descending=True)
        room = torch.minimum(room.gather(1, order), radius)
        spent = room.cumsum(dim=1) - room
        move = torch.minimum(room, (radius - spent).clamp_min(0))
        size = size.gather(1, order)
    else:
        gain, _ = (room * size).sort(dim=1, descending=True)
        return (gain * (torch.arange(gain.shape[1]) < (radius + 1e-6).floor())).sum(dim=1)
    return (move * size).sum(dim=1)


def _least(threat: cg.ThreatModel, model: Linear, inputs: cg.Inputs, margin: Tensor, sign: Tensor) -> Tensor:
    """(N,) the least share of all budgets at once that brings a linear model's margin to 0, by bisection."""
    low, high = torch.zeros_like(margin), torch.full_like(margin, 100.0)
    for _ in range(26):
        middle = (low + high) / 2
        fall = torch.zeros_like(margin)
        for name, budget in threat.budgets.items():
            for side in (-1, 1):
                part = _fall(budget, inputs[name], model.gap(name).detach() * side, middle)
                fall = torch.where(sign == side, fall + part, fall)
        low, high = torch.where(fall < margin, middle, low), torch.where(fall < margin, high, middle)
    return high


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("kind", BUDGETS)
def test_the_least_norm_on_linear_models(rank: int, n: int, kind: str) -> None:
    shapes = {"a": SHAPES[: rank - 1], "b": (5,)}
    model = Linear(shapes)
    generator = torch.Generator().manual_seed(rank)
    inputs = {k: torch.rand(n, *s, generator=generator) for k, s in shapes.items()}
    logits = model(inputs).detach()
    threat = cg.ThreatModel(a=BUDGETS[kind], b=BUDGETS[kind])
    result = fmn(model, inputs, logits.argmax(dim=1), threat, steps=60)
    margin = logits[:, 1] - logits[:, 0]
    least = _least(threat, model, inputs, margin.abs(), margin.sign())
    reached = least < 99  # within the bounds, some samples cannot be fooled at all
    assert torch.equal(result.success, reached)
    assert (result.size[reached] <= 1.05 * least[reached] + 1e-6).all()
    assert (result.size[reached] >= least[reached] * (1 - 1e-4)).all()
    assert result.size[~reached].isinf().all()
    for name, budget in threat.budgets.items():
        assert budget.bounds is None or ((result.inputs[name] >= 0) & (result.inputs[name] <= 1)).all()


def _case(n: int = 64, dtype: torch.dtype = torch.float32) -> tuple[Mixed, cg.Inputs, Tensor]:
    torch.manual_seed(1)
    model = Mixed().to(dtype).eval()
    inputs = {"a": torch.rand(n, 6, dtype=dtype), "b": torch.randn(n, 4, dtype=dtype)}
    return model, inputs, model(inputs).argmax(dim=1).detach()


MIXED = {
    "linf": cg.ThreatModel(a=cg.Linf(0.1, bounds=(0, 1)), b=cg.Linf(0.2)),
    "l2": cg.ThreatModel(a=cg.L2(0.2, bounds=(0, 1)), b=cg.L2(0.3)),
    "l1": cg.ThreatModel(a=cg.L1(0.4, bounds=(0, 1)), b=cg.L1(0.6)),
    "linf and snr": cg.ThreatModel(a=cg.Linf(0.1, bounds=(0, 1)), b=cg.SNR(15)),
    "at most one": cg.ThreatModel(a=cg.Linf(0.1, bounds=(0, 1)), b=cg.L2(0.3), at_most=1),
}


@pytest.mark.parametrize("name", MIXED)
def test_no_farther_than_the_smallest_budget_that_pgd_needs(name: str) -> None:
    model, inputs, targets = _case()
    threat = MIXED[name]
    found = fmn(model, inputs, targets, threat, steps=60)
    low, high = 0.0, 64.0
    for _ in range(12):  # the median's share, by bisection of all the budgets
        middle = (low + high) / 2
        hit = pgd(model, inputs, targets, threat.scaled(middle), steps=40, step_size=0.1, objective="margin").success
        low, high = (low, middle) if hit.float().mean() >= 0.5 else (middle, high)
    assert float(found.size.median()) <= high * 1.02


@pytest.mark.parametrize("name", MIXED)
def test_size_and_success_are_those_of_what_is_returned(name: str) -> None:
    model, inputs, targets = _case()
    result = fmn(model, inputs, targets, MIXED[name], steps=50)
    margin = cg.SingleLabel(3).margin(model(result.inputs), targets)
    assert torch.equal(result.success, margin <= 0)
    shares = [
        MIXED[name].budgets[m].distance(result.inputs[m], inputs[m]) / MIXED[name].budgets[m].radius(inputs[m])
        for m in inputs
    ]
    said = torch.where(result.success, torch.stack(shares).amax(dim=0), torch.inf)
    assert torch.allclose(result.size, said)
    assert result.threat is MIXED[name]
    if MIXED[name].at_most == 1:
        assert ((torch.stack(shares) > 0).sum(dim=0) <= 1).all()


def test_at_most_one_keeps_the_nearer_of_each_alone() -> None:
    model, inputs, targets = _case()
    threat = MIXED["at most one"]
    both = fmn(model, inputs, targets, threat, steps=50).size
    alone = [fmn(model, inputs, targets, threat.only(m), steps=50).size for m in inputs]
    assert torch.allclose(both, torch.minimum(*alone))


def test_the_scale_of_the_budgets_only_scales_the_size() -> None:
    model, inputs, targets = _case(dtype=torch.float64)
    one, two = (fmn(model, inputs, targets, MIXED["l2"].scaled(s), steps=50) for s in (1.0, 4.0))
    assert torch.allclose(one.size, 4 * two.size)
    assert torch.allclose(one.inputs["a"], two.inputs["a"])


def test_what_is_already_wrong_has_size_zero() -> None:
    model, inputs, targets = _case()
    for threat in MIXED.values():
        result = fmn(model, inputs, (targets + 1) % 3, threat, steps=5)
        assert result.success.all()
        assert (result.size == 0).all()
        assert all(torch.equal(result.inputs[m], x) for m, x in inputs.items())


def test_what_cannot_be_fooled_is_infinitely_far() -> None:
    model, inputs, targets = _case(8)
    inputs["a"].zero_()
    with torch.no_grad():
        model.a.weight.mul_(1e-6)
    targets = model(inputs).argmax(dim=1)
    result = fmn(model, inputs, targets, cg.ThreatModel(a=cg.Linf(0.1, bounds=(0, 1))), steps=20)
    assert not result.success.any()
    assert result.size.isinf().all()
    assert ((result.inputs["a"] >= 0) & (result.inputs["a"] <= 1)).all()


def test_targets_are_reached() -> None:
    model, inputs, targets = _case()
    wanted = (targets + 1) % 3
    result = fmn(model, inputs, wanted, cg.ThreatModel(a=cg.L2(0.2), b=cg.L2(0.3)), steps=100, targeted=True)
    assert torch.equal(result.success, model(result.inputs).argmax(dim=1) == wanted)
    assert result.success.float().mean() > 0.95


def test_masked_parts_never_move() -> None:
    model, inputs, targets = _case()
    generator = torch.Generator().manual_seed(0)
    mask = {"a": torch.rand(64, 6, generator=generator) > 0.5, "b": torch.arange(64) % 2 == 0}
    for threat in MIXED.values():
        moved = fmn(model, inputs, targets, threat, mask=mask, steps=20).inputs
        assert torch.equal(moved["a"][~mask["a"]], inputs["a"][~mask["a"]])
        assert torch.equal(moved["b"][~mask["b"]], inputs["b"][~mask["b"]])


@pytest.mark.parametrize("name", MIXED)
def test_order_and_split_of_the_batch_do_not_matter(name: str) -> None:
    model, inputs, targets = _case(dtype=torch.float64)
    whole = fmn(model, inputs, targets, MIXED[name], steps=30)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    for rows in (order, order[:1], order[3:10]):
        part = fmn(model, {k: v[rows] for k, v in inputs.items()}, targets[rows], MIXED[name], steps=30)
        assert torch.allclose(part.size, whole.size[rows], rtol=1e-6)


def test_the_model_comes_back_as_it_was() -> None:
    model, inputs, targets = _case()
    model.train()
    model.norm.eval()
    model.a.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    result = fmn(model, inputs, targets, MIXED["linf"], steps=5)
    assert model.training
    assert not model.norm.training
    assert not model.a.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert result.backwards == 5 * 64


def test_constraints_hold_outside_the_budgets_too() -> None:
    model, inputs, targets = _case()
    inputs["a"] = (inputs["a"] * 255).round() / 255
    targets = model(inputs).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(4 / 255, bounds=(0, 1), constraints=(cg.PIXELS8,)), b=cg.L2(0.3))
    result = fmn(model, inputs, targets, threat, steps=50)
    assert torch.allclose((result.inputs["a"] * 255).round() / 255, result.inputs["a"], atol=1e-6)
    free = fmn(model, inputs, targets, cg.ThreatModel(a=cg.Linf(4 / 255, bounds=(0, 1)), b=cg.L2(0.3)), steps=50)
    assert float(result.size.median()) < 1.2 * float(free.size.median())


@pytest.mark.parametrize("kind", BUDGETS)
def test_a_resized_ball_is_the_ball_of_that_budget(kind: str) -> None:
    x = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0))
    y = x + torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(1))
    wide: Any = BUDGETS[kind].scaled(10).around(x)
    for share in (0.0, 0.5, 1.0, 2.5):
        budget = BUDGETS[kind].scaled(share)
        ball = wide.resized(torch.full((6,), budget.eps))
        assert torch.allclose(ball.project(y), budget.project(y, x), atol=1e-6)
        assert torch.allclose(ball.steepest(y), budget.around(x).steepest(y), atol=1e-6)


def test_modalities_may_differ_in_their_floating_point() -> None:
    model, inputs, targets = _case()
    inputs["a"] = inputs["a"].double()

    class Narrow(Mixed):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return model({n: x.float() for n, x in inputs.items()})

    for name in ("linf", "l2", "l1"):
        found = fmn(Narrow().eval(), inputs, targets, MIXED[name], steps=30)
        assert found.success.float().mean() > 0.9
        assert {n: x.dtype for n, x in found.inputs.items()} == {"a": torch.float64, "b": torch.float32}


def test_an_absent_modality_takes_no_share_of_its_budget() -> None:
    model, inputs, targets = _case()
    inputs["b"][::2] = 0
    targets = model(inputs).argmax(dim=1)
    mask = {"b": torch.arange(64) % 2 == 1}
    found = fmn(model, inputs, targets, MIXED["linf and snr"], mask=mask, steps=60)
    assert not found.size.isnan().any()
    assert found.success[::2].any()
    shares = (found.distance["a"] / 0.1).where(found.success, torch.inf)
    assert torch.allclose(found.size[::2], shares[::2])
