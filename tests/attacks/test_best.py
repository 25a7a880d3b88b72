"""The best point is the same however many points wait to be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import best, pgd
from tests.models_for_tests import Mixed

THREAT = cg.ThreatModel(a=cg.Linf(0.25), b=cg.L2(0.3))


class Noted(nn.Module):
    """Keeps what it was shown and said; `spoilt` answers NaN in its odd calls."""

    def __init__(self, spoilt: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.spoilt = Mixed().eval(), spoilt
        self.shown: list[tuple[Tensor, Tensor]] = []

    def forward(self, inputs: cg.Inputs) -> Tensor:
        logits = self.net(inputs)
        logits = logits * torch.nan if self.spoilt and len(self.shown) % 2 else logits
        self.shown.append((inputs["a"].detach(), logits.detach()))
        return logits


def _sample(model: Noted, n: int = 24) -> tuple[cg.Inputs, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = {"a": torch.randn(n, 6, generator=generator), "b": torch.randn(n, 4, generator=generator)}
    return inputs, model.net(inputs).argmax(dim=1)


@pytest.fixture(params=["one", "some", "all"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one point, for three, for as many as there are."""
    monkeypatch.setattr(best, "WAITING", {"one": 1, "some": 3 * 24 * 10 * 4, "all": 2**30}[request.param])


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("spoilt", [False, True])
def test_the_best_of_all_points_shown_is_returned(spoilt: bool) -> None:
    model = Noted(spoilt)
    inputs, targets = _sample(model)
    result = pgd(model, inputs, targets, THREAT, steps=11, step_size=1.0, stop="never")
    shown = model.shown[:-1]  # the last call confirms what is returned
    margins = torch.stack([cg.SingleLabel(3).margin(z, targets) for _, z in shown])
    assert len(shown) == 12
    low, first = margins.min(dim=0)
    assert torch.equal(result.inputs["a"], torch.stack([x for x, _ in shown])[first, torch.arange(24)])
    if not spoilt:  # the call that confirms it answers a number
        assert torch.allclose(result.margin, low, atol=1e-5)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("stop", ["success", "never"])
def test_how_much_waits_changes_nothing(
    stop: Literal["success", "never"], restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> cg.attacks.AttackResult:
        model = Noted()
        inputs, targets = _sample(model)
        return pgd(model, inputs, targets, THREAT, steps=15, restarts=restarts, stop=stop, ids=range(24))

    found = {}
    for room in (1, 3000, 2**30):
        monkeypatch.setattr(best, "WAITING", room)
        found[room] = run()
    assert 0 < found[1].success.sum() < 24
    for other in (found[3000], found[2**30]):
        assert torch.equal(other.margin, found[1].margin)
        assert torch.equal(other.steps, found[1].steps)
        assert all(torch.equal(other.inputs[n], found[1].inputs[n]) for n in other.inputs)
        assert (other.forwards, other.backwards) == (found[1].forwards, found[1].backwards)


class Unanswering(nn.Module):
    """Right by far wherever it answers; NaN once entries of a sample move up by half of the budget or more."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        away = inputs["a"].sum(dim=1, keepdim=True)
        logits = torch.cat([9 - away, 0 * away], dim=1)
        return torch.where(away < 0.5, logits, torch.nan)


@pytest.mark.parametrize("attack", [pgd, cg.attacks.apgd, cg.attacks.square, cg.attacks.worst_case, cg.attacks.fmn])
def test_who_answers_nan_within_the_budget_is_fooled(attack: Callable[..., cg.attacks.AttackResult]) -> None:
    inputs, threat = {"a": torch.zeros(4, 4)}, cg.ThreatModel(a=cg.Linf(0.25, bounds=(-1.0, 1.0)))
    targets = torch.zeros(4, dtype=torch.int64)
    assert attack(Unanswering(), inputs, targets, threat).success.all()
    assert not pgd(Unanswering(), inputs, targets + 1, threat, targeted=True).success.any(), "nor is a target reached"
    narrow = threat.scaled(0.4)
    assert attack is cg.attacks.fmn or not attack(Unanswering(), inputs, targets, narrow).success.any()


def test_nan_of_a_narrow_format_does_not_hide_what_float32_would_confirm() -> None:
    class Overflowing(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            x = inputs["a"].sum(dim=1, keepdim=True)
            narrow = x.mul(1).to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype)
            logits = torch.cat([1 - x, 0 * x], dim=1)
            return torch.where((x > 0.3) & (narrow.dtype != x.dtype), torch.nan, logits)

    inputs, threat = {"a": torch.zeros(4, 4)}, cg.ThreatModel(a=cg.Linf(0.1))
    targets = torch.zeros(4, dtype=torch.int64)
    options = {"stop": "never", "steps": 4, "step_size": 0.25, "precision": torch.bfloat16}
    found = pgd(Overflowing(), inputs, targets, threat, **options)
    assert torch.allclose(found.margin, torch.full((4,), 0.7), atol=0.05), "the last point it answered at"


@pytest.mark.parametrize("spoil", [lambda z: z * torch.nan, lambda z: z * 0.0])
def test_nothing_to_compare_returns_an_allowed_point(spoil: Callable[[Tensor], Tensor]) -> None:
    class Spoilt(Noted):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return spoil(super().forward(inputs))

    model = Spoilt()
    inputs, targets = _sample(model)
    result = pgd(model, inputs, targets, THREAT, steps=3, stop="never")
    assert THREAT.contains(result.inputs, inputs).all()


def test_a_score_of_its_own_is_no_reason_to_stop() -> None:
    from crossguard.attacks.plan import Plan
    from crossguard.attacks.search import search
    from crossguard.attacks.start import clean
    from crossguard.attacks.step import Steepest

    model = Noted()
    inputs, targets = _sample(model)
    plan = Plan("margin", Steepest(0.1), clean, 3, score=lambda shown, balls, gap: gap)
    with pytest.raises(cg.ThreatError, match="never"):
        search(plan, model, inputs, targets, THREAT)


def test_the_last_point_is_returned_for_every_sample_also_where_stopping_is_asked_for() -> None:
    model = Noted()
    inputs, targets = _sample(model)
    last = [
        pgd(model, inputs, targets, THREAT, steps=9, stop=s, select="last", ids=range(24)) for s in ("never", "success")
    ]
    assert torch.equal(last[0].inputs["a"], last[1].inputs["a"])
