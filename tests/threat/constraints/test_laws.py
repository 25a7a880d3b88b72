"""Laws of every constraint, beside every norm: what is repaired is allowed, rows do not depend on their batch."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crossguard as cg
from crossguard.core.batch import take
from crossguard.threat import CONSTRAINTS, Constraint
from crossguard.threat.budget import Budget
from tests.threat.cases import CHAIN, skeletons

# For (N, M, T, V, C) skeletons of five joints.
LISTS: list[tuple[Constraint, ...]] = [
    (cg.Region(((1, 4), None, (0, 2))),),
    (cg.Region(pattern=torch.eye(5, 3) > 0),),
    (cg.FixedJoints(),),
    (cg.JointWeights((1.0, 0.5, 0.0, 2.0, 7.0)),),
    (cg.Frames(2, axis=2),),
    (cg.BoneLengths(CHAIN, 0.03),),
    (cg.Acceleration(0.02, axis=2),),
    (cg.Acceleration(0.5, axis=2, relative=True),),
    (cg.Codes(4096, -4, 4),),
    (cg.Frames(2, axis=2), cg.FixedJoints((0, 4)), cg.Codes(2048, -4, 4)),
    (cg.BoneLengths(CHAIN, 0.03), cg.Acceleration(0.03, axis=2), cg.JointWeights((1.0, 0.5, 0.0, 2.0, 7.0))),
    (cg.BoneLengths(CHAIN, 0.1), cg.Frames(3, axis=2), cg.Codes(2048, -4, 4), cg.FixedJoints((1,))),
]
NORMS = [cg.Linf(0.1), cg.Linf(0.1, bounds=(-1, 3.1)), cg.L2(0.6), cg.L1(3.0, bounds=(-1, 3.1)), cg.SNR(24)]
COUNTS = cg.L0(12, bounds=(-1, 3.1), amplitude=0.2)
weighted = [c for c in LISTS if not any(isinstance(k, cg.JointWeights) for k in c)]


def budgets() -> st.SearchStrategy[Budget]:
    """Every norm beside every list that it takes."""
    plain = st.tuples(st.sampled_from(NORMS), st.sampled_from(LISTS))
    return st.one_of(plain, st.tuples(st.just(COUNTS), st.sampled_from(weighted))).map(
        lambda pair: type(pair[0])(**{**vars(pair[0]), "constraints": pair[1]})
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), budgets(), st.booleans(), st.floats(0.05, 1.0))
def test_what_is_repaired_is_allowed(seed: int, budget: Budget, masked: bool, size: float) -> None:
    x = skeletons(seed)
    generator = torch.Generator().manual_seed(seed)
    y = x + size * torch.randn(x.shape, generator=generator)
    mask = torch.rand(x.shape[:3], generator=generator) > 0.3 if masked else None
    budget.check("skeleton", x)
    ball = budget.around(x, mask)
    gradient = torch.randn(x.shape, generator=generator)
    points = (y, ball.project(y), ball.uniform(torch.arange(4)), ball.ascend(ball.project(y), gradient, 0.3), x)
    for point in points:
        repaired = ball.repair(point)
        assert budget.contains(repaired, x, mask).all()
        assert budget.contains(ball.shown(ball.project(point)), x, mask).all()
        assert torch.equal(ball.shown(repaired), repaired)
        assert torch.equal(ball.repair(repaired), repaired), "what is allowed stays"
    assert torch.equal(ball.project(x), x)
    assert torch.equal(ball.repair(x), x)
    rows = torch.tensor([2, 0])
    assert torch.equal(take(ball, rows).repair(y[rows]), ball.repair(y)[rows]), "independent of the batch"
    assert torch.equal(ball.repair(torch.full_like(x, torch.nan)), x)


@pytest.mark.parametrize("constraints", LISTS)
def test_repair_keeps_much_of_what_it_is_given(constraints: tuple[Constraint, ...]) -> None:
    """The clean sample would always be allowed; a repair that fell back to it would be worth nothing."""
    x = skeletons(1)
    budget = cg.Linf(0.02, constraints=constraints)
    ball = budget.around(x)
    y = ball.project(x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign())
    assert ((ball.repair(y) - x).flatten(1).norm(dim=1) > 0.4 * (y - x).flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("constraints", LISTS)
def test_round_trip_through_json(constraints: tuple[Constraint, ...]) -> None:
    budget = cg.L2(0.3, constraints=constraints)
    assert cg.L2.from_dict(json.loads(json.dumps(budget.to_dict()))) == budget
    threat = cg.ThreatModel(skeleton=budget)
    assert cg.ThreatModel.from_dict(threat.to_dict()) == threat


def test_a_budget_of_0_changes_nothing() -> None:
    x = skeletons(0)
    for constraints in LISTS:
        ball = cg.Linf(0.0, constraints=constraints).around(x)
        for y in (ball.project(x + 1), ball.repair(x + 1), ball.shown(x), ball.uniform(torch.arange(4))):
            assert torch.equal(y, x)


def test_all_are_listed_here() -> None:
    assert {c.kind for constraints in LISTS for c in constraints} == set(CONSTRAINTS)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (cg.Region(((0, 9), None)), "region's window"),
        (cg.Region(((0, 1),) * 5), "region's window"),
        (cg.Region(pattern=[[True, False]]), "region's pattern"),
        (cg.FixedJoints((5,)), "joint 5"),
        (cg.JointWeights((1.0, 2.0)), "2 weights"),
        (cg.Frames(1, axis=5), "axis 5"),
        (cg.Frames(1, axis=0), "axis 0"),
        (cg.Acceleration(1.0, axis=9), "axis 9"),
        (cg.BoneLengths("ntu-25"), "joint 24"),
    ],
)
def test_what_does_not_fit_the_modality_is_refused(constraint: Constraint, message: str) -> None:
    with pytest.raises(cg.ThreatError, match=rf"'skeleton'.*{message}"):
        cg.ThreatModel(skeleton=cg.Linf(0.1, constraints=(constraint,))).check({"skeleton": skeletons(0)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cg.Region, "either"),
        (lambda: cg.Region(((2, 2),)), "window"),
        (lambda: cg.Region(pattern=[[True], [True, False]]), "pattern"),
        (lambda: cg.Region(pattern=[1.0]), "pattern"),
        (lambda: cg.FixedJoints(()), "indices"),
        (lambda: cg.JointWeights((1.0, -1.0)), "expected finite numbers"),
        (lambda: cg.JointWeights((0.0,)), "not all"),
        (lambda: cg.JointWeights((1.0,), axis=2), "axis"),
        (lambda: cg.Frames(-1, axis=1), "k is -1"),
        (lambda: cg.Acceleration(float("nan"), axis=1), "limit"),
        (lambda: cg.BoneLengths("coco"), "unknown layout"),
        (lambda: cg.BoneLengths(((1, 1),)), "different joints"),
        (lambda: cg.BoneLengths(CHAIN, -0.1), "tolerance"),
        (lambda: cg.Codes(1), "levels"),
        (lambda: cg.Codes(256, 1.0, 0.0), "low < high"),
        (lambda: cg.Linf(0.1, constraints=("frames",)), "tuple of constraints"),
        (lambda: cg.Linf(0.1, constraints=(cg.PIXELS8, cg.AUDIO16)), "more than once"),
        (lambda: cg.Linf.from_dict({"eps": 1, "constraints": [{"kind": "bones"}]}), "unknown constraint"),
    ],
)
def test_impossible_constraints_are_refused(make: object, message: str) -> None:
    with pytest.raises(cg.ThreatError, match=message):
        make()  # type: ignore[operator]
