"""TRADES: the divergence by hand, one clean pass a batch, and the attack that climbs it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from crossguard import Batch, Inputs, Linf, MultiLabel, RecipeError, SingleLabel, ThreatModel
from crossguard.attacks import pgd
from crossguard.core.task import Task
from crossguard.defences import Adversarial, Context, Standard, Trades
from crossguard.defences.trades import away_from, divergence
from tests.training.toys import TASK, THREAT, TwoBranch, dataset


def test_divergence_by_hand() -> None:
    # p = (1/4, 3/4), q = (1/2, 1/2): 1/4 log 1/2 + 3/4 log 3/2.
    clean, attacked = torch.tensor([[0.0, math.log(3.0)]]), torch.zeros(1, 2)
    wanted = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert divergence(clean, attacked, SingleLabel(2)).item() == pytest.approx(wanted, abs=1e-6)
    # Of two labels the first agrees, and the second is that same pair of beliefs.
    clean, attacked = torch.tensor([[1.0, math.log(3.0)]]), torch.tensor([[1.0, 0.0]])
    assert divergence(clean, attacked, MultiLabel(2)).item() == pytest.approx(wanted / 2, abs=1e-6)


@pytest.mark.parametrize("task", [SingleLabel(5), MultiLabel(5)])
def test_divergence_is_zero_only_where_beliefs_agree_and_holds_for_large_logits(task: Task) -> None:
    a, b = torch.randn(2, 40, 5, dtype=torch.float64) * 3
    assert divergence(a, a, task).abs().max() < 1e-12
    assert bool((divergence(a, b, task) > 0).all())
    far = divergence(torch.full((1, 5), 90.0), torch.linspace(-90, 90, 5)[None], task).requires_grad_()
    assert bool(far.isfinite().all())


def test_gradients_flow_through_both_answers() -> None:
    clean, attacked = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    gradients = torch.autograd.grad(divergence(clean, attacked, SingleLabel(4)).sum(), (clean, attacked))
    assert all(bool((g.abs().sum(dim=1) > 1e-3).all()) for g in gradients)
    # d KL / d attacked = q - p.
    torch.testing.assert_close(gradients[1], attacked.softmax(1) - clean.softmax(1))


class Once(nn.Module):
    """Counts passes in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.passes = TwoBranch(), 0

    def forward(self, inputs: Inputs) -> Tensor:
        self.passes += self.training
        return self.net(inputs).logits


def batch_of(samples: int = 8) -> Batch:
    return dataset("toy", samples, 0).read(range(samples))


@pytest.mark.parametrize("climb", ["divergence", "loss"])
def test_one_clean_pass_a_batch_and_work_exactly_counted(climb: str) -> None:
    model, context = Once(), Context(TASK, THREAT, steps=10)
    Trades(attacked="joint", steps=4, climb=climb).step(model, batch_of(), context)  # type: ignore[arg-type]
    assert model.passes == 2  # x and x + r
    assert (context.work.forwards, context.work.backwards) == (8 * 6, 8 * 6)


def test_the_total_is_its_parts_and_without_beta_it_is_standard_training() -> None:
    model, batch = TwoBranch().eval(), batch_of()
    losses = Trades(attacked="joint", beta=3.0).step(model, batch, Context(TASK, THREAT))
    parts = dict(losses.parts)
    apart = parts.pop("divergence")
    assert apart > 0
    assert losses.total.item() == pytest.approx((sum(parts.values()) + 3 * apart).item(), rel=1e-6)
    nothing = Trades(attacked="joint", beta=0.0).step(model, batch, Context(TASK, THREAT))
    standard = Standard().step(model, batch, Context(TASK, THREAT))
    assert nothing.total.item() == pytest.approx(standard.total.item(), rel=1e-6)


@pytest.mark.parametrize("task", [SingleLabel(3), MultiLabel(3)])
def test_climbing_the_divergence_moves_answers_further_than_climbing_the_loss(task: Task) -> None:
    torch.manual_seed(0)
    model, batch = TwoBranch(classes=3).eval(), batch_of(64)
    targets = torch.arange(64) % 3 if isinstance(task, SingleLabel) else (torch.rand(64, 3) > 0.5).float()
    clean = model(batch.inputs).logits.detach()
    options = {"steps": 10, "task": task, "stop": "never", "select": "last"}
    moved = {}
    for name, objective in (("loss", "cross_entropy"), ("divergence", away_from(clean))):
        found = pgd(model, batch.inputs, targets, THREAT, objective=objective, **options)  # type: ignore[arg-type]
        moved[name] = divergence(clean, model(found.inputs).logits, task).mean().item()
    assert moved["divergence"] > moved["loss"] > 0


def test_it_keeps_answers_in_place_where_adversarial_training_need_not() -> None:
    """A few hundred steps: the divergence under attack ends far below that of standard training."""
    ends = {}
    for name, objective in (("standard", Standard()), ("trades", Trades(attacked="joint", beta=6.0))):
        model, threat = TwoBranch(seed=1), ThreatModel(a=Linf(0.4), b=Linf(0.4))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(60):
            optimizer.zero_grad()
            objective.step(model, batch_of(64), Context(TASK, threat, step=step)).total.backward()
            optimizer.step()
        model.eval()
        batch = batch_of(64)
        clean = model(batch.inputs).logits.detach()
        found = pgd(model, batch.inputs, batch.targets, threat, objective=away_from(clean), stop="never")
        ends[name] = divergence(clean, model(found.inputs).logits, TASK).mean().item()
    assert ends["trades"] < 0.3 * ends["standard"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"beta": -1.0}, "beta"),
        ({"climb": "up"}, "climb"),
        ({"attack": "fgsm"}, "gradient is 0"),
        ({"attack": "mi_fgsm"}, "gradient is 0"),
        ({"attack": "noise"}, "goal of its own"),
        ({"clean_weight": 0.5}, "clean_weight"),
        ({"inner": "total"}, "inner: total"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Trades(**options)  # type: ignore[arg-type]
    for attack in ("fgsm", "mi_fgsm"):
        Trades(climb="loss", attack=attack)
    for attack in ("pgd", "apgd"):
        Trades(attack=attack)
    Trades(climb="loss", inner="total")
    assert issubclass(Trades, Adversarial)
