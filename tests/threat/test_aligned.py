"""Aligned frames: at most k moments, the same in every modality."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import crossguard as cg

G = torch.Generator().manual_seed(0)
X = {"rgb": torch.rand(3, 2, 4, 5, 5, generator=G), "skeleton": torch.rand(3, 1, 8, 6, 3, generator=G)}
FRAMES = cg.AlignedFrames(2, {"rgb": 2, "skeleton": 2})
THREAT = cg.ThreatModel(rgb=cg.Linf(0.1, bounds=(0, 1)), skeleton=cg.L2(0.3), frames=FRAMES)


def steps(changed: torch.Tensor, axis: int) -> list[set[int]]:
    """By sample, the quarters of the clip that changed."""
    moved = changed.movedim(axis, 1).flatten(2).any(dim=2)
    return [{int(t) * 4 // moved.shape[1] for t in row.nonzero()} for row in moved]


def moved() -> dict[str, torch.Tensor]:
    balls = THREAT.balls(X)
    return {n: b.project(X[n] + torch.randn(X[n].shape, generator=G)) for n, b in balls.items()}


def test_the_same_moments_in_all_modalities() -> None:
    point = moved()
    assert not THREAT.contains(point, X).any()
    for gradient in (None, {n: torch.randn(x.shape, generator=G) for n, x in X.items()}):
        found = THREAT.couple(point, THREAT.balls(X), gradient)
        assert THREAT.contains(found, X).all()
        times = {n: steps(found[n] != X[n], 2) for n in X}
        assert times["rgb"] == times["skeleton"]
        assert all(len(t) == 2 for t in times["rgb"])
        again = THREAT.couple(found, THREAT.balls(X))
        assert all(torch.equal(again[n], found[n]) for n in X)


def test_the_moments_that_gain_most_stay() -> None:
    balls = THREAT.balls(X)
    gradient = {n: torch.randn(x.shape, generator=G) for n, x in X.items()}
    point = {n: balls[n].ascend(X[n], g, 1.0) for n, g in gradient.items()}
    found = THREAT.couple(point, balls, gradient)
    led = THREAT.led(X, balls, gradient)
    assert all(torch.equal(led[n] != 0, (found[n] != X[n]) & (gradient[n] != 0)) for n in X)

    def gain(kept: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(((kept[n] - X[n]) * gradient[n]).flatten(1).sum(dim=1) for n in X)  # type: ignore[return-value]

    for chosen in combinations(range(4), 2):
        other = {n: x.clone() for n, x in X.items()}
        for t in chosen:
            other["rgb"][:, :, t] = point["rgb"][:, :, t]
            other["skeleton"][:, :, 2 * t : 2 * t + 2] = point["skeleton"][:, :, 2 * t : 2 * t + 2]
        assert (gain(other) <= gain(found) + 1e-5).all()


def test_a_moment_too_many_is_seen() -> None:
    point = {n: x.clone() for n, x in X.items()}
    for t in (0, 2):
        point["rgb"][:, 0, t, 0, 0] = 0.999 * point["rgb"][:, 0, t, 0, 0]
    assert THREAT.contains(point, X).all()
    point["skeleton"][1, 0, 5, 0, 0] += 0.01  # within the third quarter
    assert THREAT.contains(point, X).all()
    point["skeleton"][2, 0, 2, 0, 0] += 0.01
    assert THREAT.contains(point, X).tolist() == [True, True, False]


def test_rows_do_not_depend_on_their_batch() -> None:
    point = moved()
    whole = THREAT.couple(point, THREAT.balls(X))
    some = {n: x[1:2] for n, x in X.items()}
    alone = THREAT.couple({n: p[1:2] for n, p in point.items()}, THREAT.balls(some))
    assert all(torch.equal(alone[n], whole[n][1:2]) for n in X)


def test_repair_after_coupling_keeps_the_moments() -> None:
    limit = (cg.Acceleration(0.05, axis=2),)
    threat = cg.ThreatModel(rgb=THREAT.declared["rgb"], skeleton=cg.Linf(0.1, constraints=limit), frames=FRAMES)
    balls = threat.balls(X)
    point = threat.couple({n: balls[n].project(X[n] + 1) for n in X}, balls)
    repaired = {n: balls[n].repair(p) for n, p in point.items()}
    assert threat.contains(repaired, X).all()
    assert any(not torch.equal(repaired[n], X[n]) for n in X)


def test_it_travels_with_the_threat_model() -> None:
    assert cg.ThreatModel.from_dict(THREAT.to_dict()) == THREAT
    assert cg.ThreatModel.from_dict(THREAT.to_dict()).frames == FRAMES
    assert THREAT.scaled(0.5).frames == FRAMES
    assert THREAT.subsets()[0].frames == FRAMES
    assert THREAT.only("rgb").frames == cg.AlignedFrames(2, {"rgb": 2})
    assert cg.ThreatModel(a=cg.Linf(1)).couple(X, {}) is X
    assert "AlignedFrames" in repr(THREAT)
    assert hash(THREAT) == hash(cg.ThreatModel.from_dict(THREAT.to_dict()))


def test_given_steps_hold_for_a_single_modality() -> None:
    frames = cg.AlignedFrames(1, {"rgb": 2, "skeleton": 2}, steps=4)
    threat = cg.ThreatModel(THREAT.declared, frames=frames).only("skeleton")
    found = threat.couple({"skeleton": X["skeleton"] + 1}, threat.balls(X))
    assert (found["skeleton"] != X["skeleton"]).movedim(2, 1).flatten(2).any(dim=2).sum(dim=1).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cg.AlignedFrames(-1, {"rgb": 2}), "k=-1"),
        (lambda: cg.AlignedFrames(1, {}), "axes"),
        (lambda: cg.AlignedFrames(1, {"rgb": 2}, steps=0), "steps"),
        (lambda: cg.ThreatModel(rgb=cg.Linf(1), frames=cg.AlignedFrames(1, {"depth": 2})), "'depth'"),
        (lambda: cg.ThreatModel(rgb=cg.Linf(1), frames=cg.AlignedFrames(1, {"rgb": 7})).check(X), "axis 7"),
    ],
)
def test_impossible_ones_are_refused(make: object, message: str) -> None:
    with pytest.raises(cg.ThreatError, match=message):
        make()  # type: ignore[operator]


def test_moments_are_counted_over_all_modalities_though_one_alone_is_attacked() -> None:
    """A quarter of rgb's time is two frames of the skeleton, whoever is attacked."""
    threat = cg.ThreatModel(rgb=cg.Linf(0.1), skeleton=cg.Linf(0.1), at_most=1, frames=cg.AlignedFrames(1, FRAMES.axes))
    assert threat.settled(X).only("skeleton").frames == cg.AlignedFrames(1, {"skeleton": 2}, steps=4)
    w = torch.randn(1, 8, 6, 3, generator=G)

    class Sum(torch.nn.Module):
        def forward(self, inputs: cg.Inputs) -> torch.Tensor:
            s = (inputs["skeleton"] * w).flatten(1).sum(dim=1)
            return torch.stack([s, 0 * inputs["rgb"].flatten(1).sum(dim=1)], dim=1)

    targets = (Sum()(X).argmax(dim=1)).long()
    best = 0.1 * w.abs().sum(dim=(0, 2, 3)).view(4, 2).sum(dim=1).max()
    margin = Sum()(X).diff(dim=1).squeeze(1).abs()
    options = {"stop": "never", "objective": "margin", "ids": range(3)}
    found = cg.attacks.apgd(Sum(), X, targets, threat.only("skeleton").settled(X), **options)
    assert (found.margin > margin - best + 1e-4).all(), "cut off from rgb, a moment is a single frame"
    for attack in (cg.attacks.apgd, cg.attacks.pgd):
        found = attack(Sum(), X, targets, threat, **options)
        assert torch.allclose(found.margin, margin - best, atol=1e-4)
        assert threat.contains(found.inputs, X).all()
    worst = cg.attacks.worst_case(Sum(), X, targets, threat, effort="quick")
    assert torch.equal(worst.success, margin <= best)
