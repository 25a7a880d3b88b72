"""Objectives: hand-checked parts, exact work, and what the inner attack may touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard import (
    Batch,
    Inputs,
    Linf,
    ModelError,
    MultiLabel,
    Output,
    RecipeError,
    SingleLabel,
    ThreatError,
    ThreatModel,
)
from crossguard.attacks import ATTACKS, BPDA
from crossguard.defences import OBJECTIVES, Adversarial, Context, Objective, Standard, supervised_losses
from crossguard.defences.stacked import Stacked, StackedTask
from tests.training.toys import TASK, THREAT, TwoBranch, dataset


def batch_of(samples: int = 8) -> Batch:
    data = dataset("toy", samples, 0)
    return data.read(range(samples))


def context_of(**options: object) -> Context:
    return Context(**{"task": TASK, "threat": THREAT, "steps": 10, **options})  # type: ignore[arg-type]


class Plain(nn.Module):
    """Anyone's model: bare logits, no `need`, no auxiliary heads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.linear(inputs["a"] + inputs["b"])


def test_loss_parts_by_hand() -> None:
    # -log softmax of (0, log 3) at class 1 is log(4/3); of (0, 0) is log 2.
    output = Output(torch.tensor([[0.0, 1.0986123]]), {"a": torch.zeros(1, 2), "b": torch.tensor([[0.0, 1.0986123]])})
    losses = supervised_losses(output, torch.tensor([1]), {}, SingleLabel(2), {"a": 2.0, "b": 0.5})
    third, half = torch.tensor(4 / 3).log(), torch.tensor(2.0).log()
    assert losses.parts["fused"].item() == pytest.approx(third.item(), abs=1e-6)
    assert losses.parts["auxiliary/a"].item() == pytest.approx(half.item(), abs=1e-6)
    assert losses.total.item() == pytest.approx((third + 2 * half + 0.5 * third).item(), abs=1e-6)


@pytest.mark.parametrize("weight", [0.0, {"a": 0.0}, {"c": 3.0}])
def test_weight_zero_leaves_the_fused_loss(weight: float | dict[str, float]) -> None:
    output = Output(torch.randn(4, 2), {"a": torch.randn(4, 2)})
    losses = supervised_losses(output, torch.tensor([0, 1, 0, 1]), {}, TASK, weight)
    assert list(losses.parts) == ["fused"]
    assert losses.total == losses.parts["fused"]


def test_absent_samples_do_not_count_towards_their_branch() -> None:
    guess = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    targets, mask = torch.tensor([0, 0]), {"a": torch.tensor([True, False])}
    losses = supervised_losses(Output(torch.zeros(2, 2), {"a": guess}), targets, mask, TASK, 1.0)
    assert losses.parts["auxiliary/a"] == F.cross_entropy(guess[:1], targets[:1])
    nobody = {"a": torch.tensor([False, False])}
    assert supervised_losses(Output(guess, {"a": guess}), targets, nobody, TASK, 1.0).parts["auxiliary/a"] == 0


def test_multi_label_loss() -> None:
    logits, targets = torch.randn(5, 3), (torch.rand(5, 3) > 0.5).float()
    losses = supervised_losses(Output(logits), targets, {}, MultiLabel(3), 1.0)
    assert losses.total == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item(), abs=1e-6)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("model", [TwoBranch(), Plain()], ids=["branched", "plain"])
def test_every_objective_trains_every_model(name: str, model: nn.Module) -> None:
    model.train()
    # Neither model has attention; without the terms on it, it trains any.
    objective = OBJECTIVES[name](**({"beta": 0.0} if name == "attention_regularization" else {}))
    objective.check(model, context_of())
    model.zero_grad()
    losses = objective.step(model, batch_of(), context_of())
    losses.total.backward()
    assert losses.total.dim() == 0
    assert not losses.logits.requires_grad
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    assert all(m.training for m in model.modules())
    objective.load_state_dict(objective.state_dict())
    assert objective.describe()["name"] == type(objective).__name__


@pytest.mark.parametrize(
    ("objective", "forwards", "backwards"),
    [
        (Standard(), 1, 1),
        (Adversarial(steps=4, attacked="joint"), 5, 5),
        (Adversarial(steps=4, attacked="a"), 5, 5),
        (Adversarial(steps=3, attacked="random"), 4, 4),
        (Adversarial(steps=3, inner="total"), 4, 4),
        (Adversarial(steps=3, clean_weight=0.5), 5, 5),
        (Adversarial(attack="fgsm"), 2, 2),
    ],
)
def test_work_is_counted_exactly(objective: Objective, forwards: int, backwards: int) -> None:
    context = context_of()
    objective.step(TwoBranch(), batch_of(8), context)
    assert (context.work.forwards, context.work.backwards) == (8 * forwards, 8 * backwards)


@pytest.mark.parametrize("name", ["adversarial", "fast", "trades", "attention_regularization", "mixup_adversarial"])
def test_a_clean_start_attacks_nothing_before_its_end(name: str) -> None:
    begun: dict[float, list[int]] = {}
    for share in (0.0, 0.3):
        objective = OBJECTIVES[name](clean_start=share, **({"beta": 0.0} if name == "attention_regularization" else {}))
        begun[share] = []
        for step in range(2, 5):  # of 10
            context = context_of(step=step)
            torch.manual_seed(0)
            losses = objective.step(TwoBranch(), batch_of(8), context)
            begun[share].append(context.work.backwards)
            if share and step < 3:
                clean = OBJECTIVES["mixup" if "mixup" in name else "standard"]()
                torch.manual_seed(0)
                torch.testing.assert_close(losses.total, clean.step(TwoBranch(), batch_of(8), context).total)
    assert begun[0.3] == [8, *begun[0.0][1:]]
    assert begun[0.0][0] > 8


@pytest.mark.parametrize("inner", ["fused", "total"])
@pytest.mark.parametrize(("attacked", "touched"), [("joint", {"a", "b"}), ("a", {"a"}), ("b", {"b"})])
def test_attacks_what_it_says_within_the_budget(attacked: str, touched: set[str], inner: str) -> None:
    objective = Adversarial(attacked=attacked, inner=inner)  # type: ignore[arg-type]
    batch = batch_of()
    found = objective.perturb(TwoBranch(), batch, context_of()).inputs
    assert {n for n in batch.inputs if not torch.equal(found[n], batch.inputs[n])} == touched
    assert bool(THREAT.contains(found, batch.inputs).all())


class Rounding(nn.Module):
    """Tells the classes apart by the first columns, rounded, whose gradient is 0."""

    def __init__(self, layer: Callable[[Tensor], Tensor] = torch.round) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Inputs, need: Sequence[str] = ()) -> Output:
        heads = {n: self.layer(x[:, :1]) * torch.tensor([-1.0, 1.0]) for n, x in inputs.items()}
        return Output(heads["a"] + heads["b"], heads)

    def attack_view(self) -> nn.Module:
        return Rounding(BPDA(torch.round))


@pytest.mark.parametrize("inner", ["fused", "total"])
def test_a_model_that_hides_its_gradient_is_attacked_through_its_view(inner: str) -> None:
    model, batch, context = Rounding(), batch_of(64), context_of(threat=ThreatModel(a=Linf(1.6), b=Linf(1.6)))
    found = Adversarial(attacked="joint", inner=inner).perturb(model, batch, context)  # type: ignore[arg-type]
    fooled = TASK.margin(model(found.inputs).logits, batch.targets) <= 0
    assert fooled.float().mean() > 0.9
    assert (context.work.forwards, context.work.backwards) == (64 * 5, 64 * 5)


def test_random_draws_every_allowed_set_and_the_same_one_again() -> None:
    objective = Adversarial(attacked="random")
    drawn = [objective.chosen(context_of(step=step)).names for step in range(300)]
    counts = {names: drawn.count(names) for names in set(drawn)}
    assert set(counts) == {("a",), ("b",), ("a", "b")}
    assert min(counts.values()) > 70
    assert drawn == [objective.chosen(context_of(step=step)).names for step in range(300)]
    assert drawn != [objective.chosen(context_of(step=step, seed=1)).names for step in range(300)]


def test_random_keeps_to_at_most() -> None:
    threat = ThreatModel(a=Linf(0.1), b=Linf(0.1), at_most=1)
    sets = {Adversarial().chosen(context_of(step=s, threat=threat)).names for s in range(50)}
    assert sets == {("a",), ("b",)}


def test_inner_total_climbs_the_whole_loss_higher() -> None:
    model, batch = TwoBranch(), batch_of(64)
    whole = {}
    for inner in ("fused", "total"):
        attack = Adversarial(inner=inner, attacked="joint", steps=10, auxiliary_weight=5.0)  # type: ignore[arg-type]
        moved = attack.perturb(model, batch, context_of())
        model.eval()
        output = model(moved.inputs, need=("auxiliary",))
        whole[inner] = supervised_losses(output, batch.targets, {}, TASK, 5.0).total.item()
    assert whole["total"] > whole["fused"]


def test_inner_total_is_the_fused_attack_where_auxiliary_weights_are_zero() -> None:
    model, batch = TwoBranch(), batch_of()
    found = [
        Adversarial(inner=inner, attacked="joint", auxiliary_weight=0.0).perturb(model, batch, context_of()).inputs
        for inner in ("fused", "total")  # type: ignore[arg-type]
    ]
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


def test_inner_total_for_several_labels() -> None:
    model = TwoBranch(classes=3)
    batch = replace(batch_of(), targets=(torch.rand(8, 3) > 0.5).float())
    context = context_of(task=MultiLabel(3))
    assert Adversarial(inner="total").step(model, batch, context).total.isfinite()


def test_inner_total_needs_auxiliary_heads() -> None:
    with pytest.raises(ModelError, match="auxiliary heads"):
        Adversarial(inner="total").step(Plain(), batch_of(), context_of())


def test_clean_weight_mixes_both_losses() -> None:
    model = TwoBranch()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.BatchNorm1d):
            module.eval()  # so that both passes are the same function
    mixed = Adversarial(attacked="joint", clean_weight=0.25).step(model, batch_of(), context_of()).total
    attacked = Adversarial(attacked="joint").step(model, batch_of(), context_of()).total
    clean = Standard().step(model, batch_of(), context_of()).total
    assert mixed.item() == pytest.approx((0.75 * attacked + 0.25 * clean).item(), rel=1e-6)
    assert attacked > clean


def test_mixed_precision_still_trains_every_parameter() -> None:
    """Casts that the attack makes without gradients must not be what the training pass runs on."""
    model, context = TwoBranch(), context_of(amp=torch.bfloat16)
    for attacked in ("a", "joint"):
        model.zero_grad()
        losses = Adversarial(attacked=attacked).step(model, batch_of(), context)
        assert losses.total.dtype == torch.float32
        losses.total.backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_mixed_precision_holds_where_it_may() -> None:
    model, seen = TwoBranch(), []
    model.head.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    Adversarial(steps=3).step(model, batch_of(), context_of(amp=torch.bfloat16))
    assert seen == [torch.bfloat16] * 3 + [torch.float32]  # on the CPU weight gradients stay exact


@pytest.mark.parametrize(
    "options",
    [
        {"attack": "pdg"},
        {"attack": "square"},
        {"steps": 0},
        {"step_size": 0.0},
        {"step_size": float("nan")},
        {"inner": "both"},
        {"clean_weight": 1.5},
        {"clean_start": 1.0},
        {"auxiliary_weight": -1.0},
        {"auxiliary_weight": {"a": float("nan")}},
    ],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"known|expected"):
        Adversarial(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attacked", "threat", "message"),
    [
        ("joint", None, "needs a threat model"),
        ("joint", ThreatModel(a=Linf(0.0)), "needs a threat model"),
        ("depth", THREAT, "depth"),
        ("joint", ThreatModel(a=Linf(0.1), b=Linf(0.1), at_most=1), "random"),
    ],
)
def test_what_cannot_be_attacked_is_refused(attacked: str, threat: ThreatModel | None, message: str) -> None:
    with pytest.raises(ThreatError, match=message):
        Adversarial(attacked=attacked).check(TwoBranch(), context_of(threat=threat))


def test_a_recipe_can_validate_the_options() -> None:
    adapter = TypeAdapter(Adversarial)
    made = adapter.validate_python({"steps": 3, "attacked": "random", "auxiliary_weight": {"a": 1}})
    assert made == Adversarial(steps=3, attacked="random", auxiliary_weight={"a": 1.0})
    with pytest.raises(ValidationError, match="steps"):
        adapter.validate_python({"steps": "many"})


@pytest.mark.parametrize("kind", [Standard, Adversarial])
def test_a_weight_of_a_modality_that_the_model_does_not_read(kind: type[Standard] | type[Adversarial]) -> None:
    kind(auxiliary_weight={"a": 1.0}).check(TwoBranch(), context_of())
    with pytest.raises(RecipeError, match="auxiliary_weight names 'aa'"):
        kind(auxiliary_weight={"aa": 1.0}).check(TwoBranch(), context_of())


def test_the_slope_of_the_whole_loss_is_its_gradient() -> None:
    net = Stacked(torch.nn.Identity())
    net.heads = ("a", "b")
    task = StackedTask(SingleLabel(3), {"a": 0.5, "b": 2.0}, net)
    logits = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([0, 1, 2, 1])
    (wanted,) = torch.autograd.grad(task.loss(logits, targets).sum(), logits)
    assert torch.allclose(task.slope(logits.detach(), targets), wanted)


@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - {"square"}))
def test_any_attack_of_few_steps_may_climb_the_whole_loss(attack: str) -> None:
    losses = Adversarial(attack=attack, inner="total", steps=2).step(TwoBranch(), batch_of(), context_of())
    assert losses.total.isfinite()
