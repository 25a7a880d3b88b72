"""A randomised model, attacked through the mean of its draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import Expectation, apgd, pgd
from crossguard.core import Branched, takes_mask
from tests.models_for_tests import Linear, Mixed


class Noisy(nn.Module):
    """A linear model whose weights are shaken at every draw; its expectation is the linear model."""

    def __init__(self, inner: Linear, sigma: float, once: bool = False) -> None:
        super().__init__()
        self.inner, self.sigma, self.once = inner, sigma, once
        self.calls = 0

    def forward(self, inputs: cg.Inputs) -> Tensor:
        self.calls += 1
        x = inputs["a"]
        noise = torch.randn_like(x[:1] if self.once else x)
        return self.inner({"a": x * (1 + self.sigma * noise)})


@pytest.mark.parametrize("once", [False, True])
def test_it_finds_what_noise_hides_from_pgd(once: bool) -> None:
    inner = Linear({"a": (40,)})
    x = {"a": torch.ones(64, 40) + 0.1 * torch.randn(64, 40, generator=torch.Generator().manual_seed(0))}
    y = inner(x).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.2))
    model = Noisy(inner, 4.0, once)
    view = Expectation(model, 64, at_once=1 if once else None)
    clean = inner.eval()(x)
    optimum = 0.2 * inner.gap("a").norm(p=1)

    def gained(attacked: nn.Module) -> float:
        found = pgd(attacked, x, y, threat, steps=24, objective="margin", stop="never", select="last").inputs
        fall = cg.SingleLabel(2).margin(clean, y) - cg.SingleLabel(2).margin(inner(found), y)
        return (fall.mean() / optimum).item()

    assert gained(view) > 0.9
    assert gained(model) < 0.8


@pytest.mark.parametrize("attack", [pgd, apgd])
@pytest.mark.parametrize(("draws", "at_once"), [(1, None), (6, None), (7, 3), (3, 1)])
def test_of_a_deterministic_model_it_is_the_model(attack: object, draws: int, at_once: int | None) -> None:
    torch.manual_seed(0)
    model = Mixed().double()
    inputs = {"a": torch.rand(16, 6).double(), "b": torch.randn(16, 4).double()}
    targets = model.eval()(inputs).argmax(dim=1)
    model.train()
    threat = cg.ThreatModel(a=cg.Linf(0.2, bounds=(0, 1)), b=cg.L2(0.4))
    view = Expectation(model, draws, at_once=at_once)
    assert callable(attack)
    one = attack(model, inputs, targets, threat, steps=6)
    two = attack(view, inputs, targets, threat, steps=6)
    assert torch.equal(one.success, two.success)
    assert torch.allclose(one.margin, two.margin, atol=1e-9)
    assert model.training
    assert view.training
    assert all(p.grad is None for p in model.parameters())


def test_draws_are_rows_of_one_call_and_fresh_at_each() -> None:
    model = Noisy(Linear({"a": (4,)}), 1.0)
    x = {"a": torch.ones(2, 4)}
    for draws, at_once, calls in ((8, None, 1), (8, 3, 3), (8, 99, 1)):
        model.calls = 0
        Expectation(model, draws, at_once=at_once)(x)
        assert model.calls == calls
    view = Expectation(model, 4)
    assert not torch.equal(view(x).logits, view(x).logits)
    assert not torch.equal(view(x).logits[0], view(x).logits[1])
    mean = Expectation(model, 20000)(x).logits[0]
    assert torch.allclose(mean, model.inner(x)[0], atol=0.1)


def test_luck_in_the_search_is_not_counted() -> None:
    """A coin decides; the search meets a fooling draw at once, the confirming draws say what the chance is."""

    class Coin(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            lead = torch.where(torch.rand(len(inputs["a"])) < 0.75, 1.0, -1.0) + 0 * inputs["a"].sum(dim=1)
            return torch.stack([lead, -lead], dim=1)

    x, y = {"a": torch.zeros(400, 1)}, torch.zeros(400, dtype=torch.long)
    result = pgd(Expectation(Coin(), 1), x, y, cg.ThreatModel(a=cg.Linf(0.1)), steps=20)
    assert 0.15 < result.success.float().mean() < 0.45


def test_masks_pass_through_where_the_model_takes_them() -> None:
    class Masked(nn.Module):
        def forward(self, inputs: cg.Inputs, mask: dict[str, Tensor] | None = None) -> Tensor:
            assert mask is not None
            assert mask["a"].shape[0] == inputs["a"].shape[0]
            return torch.stack([inputs["a"].sum(dim=1) * mask["a"], mask["a"].float()], dim=1)

    view = Expectation(Masked(), 3)
    assert takes_mask(view)
    assert not takes_mask(Expectation(Linear({"a": (2,)})))
    logits = view({"a": torch.ones(2, 2)}, {"a": torch.tensor([True, False])}).logits
    assert logits.tolist() == [[2.0, 1.0], [0.0, 0.0]]


def test_no_branch_is_computed_only_once() -> None:
    model = cg.FusionModel({"s": cg.models.SeriesNet(features=3, width=4)}, cg.fusion.Mean(), 2)
    assert isinstance(model, Branched)
    assert not isinstance(Expectation(model), Branched)


@pytest.mark.parametrize("options", [{"draws": 0}, {"draws": 4, "at_once": 0}])
def test_no_draws_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(cg.ModelError, match="draws >= 1"):
        Expectation(Linear({"a": (2,)}), **options)
