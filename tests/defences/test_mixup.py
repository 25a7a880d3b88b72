"""Mix-up: what is mixed with what, soft labels by hand, guided classes, and composition with attacks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import crossguard as cg
from crossguard import Batch, Estimate, ModelError, MultiLabel, Output, RecipeError, SingleLabel
from crossguard.core.batch import Feature
from crossguard.defences import Context, Mixup, MixupAdversarial, Standard
from crossguard.defences.guide import drawn_by, standardised
from crossguard.defences.mixing import Mixture, partners
from tests.training.toys import TASK, THREAT, TwoBranch, dataset


def batch_of(samples: int = 8) -> Batch:
    return dataset("toy", samples, 0).read(range(samples))


def context_of(**options: object) -> Context:
    return Context(**{"task": TASK, "threat": THREAT, "steps": 10, **options})  # type: ignore[arg-type]


def quiet(model: nn.Module) -> nn.Module:
    """Without chance or batch statistics, so that passes can be compared."""
    return model.eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Sum(nn.Module):
    """Logits that are linear in the inputs."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["a"][:, :2] + inputs["b"][:, :2]


def test_input_mixup_by_hand() -> None:
    batch, objective, context = batch_of(), Mixup(), context_of(step=3)
    mixture = objective.mixture(batch, context)
    t = mixture.share["a"]
    assert 0 < t < 1
    assert mixture.share["b"] == t
    assert not torch.equal(mixture.first, mixture.second)
    x = {n: t * v[mixture.first] + (1 - t) * v[mixture.second] for n, v in batch.inputs.items()}
    logits = Sum()(x)
    soft = t * F.one_hot(batch.targets[mixture.first], 2) + (1 - t) * F.one_hot(batch.targets[mixture.second], 2)
    expected = F.cross_entropy(logits, soft.float())
    found = objective.step(Sum(), batch, context)
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.parts["fused"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_several_labels_are_mixed_likewise() -> None:
    batch = replace(batch_of(), targets=(torch.rand(8, 2, generator=generator()) > 0.5).float())
    context = context_of(task=MultiLabel(2), step=5)
    objective = Mixup(partner="across")
    mixture = objective.mixture(batch, context)
    t = mixture.share["a"]
    x = {n: t * v[mixture.first] + (1 - t) * v[mixture.second] for n, v in batch.inputs.items()}
    soft = t * batch.targets[mixture.first] + (1 - t) * batch.targets[mixture.second]
    expected = F.binary_cross_entropy_with_logits(Sum()(x), soft)
    assert objective.step(Sum(), batch, context).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_separate_lambdas_give_each_head_its_own() -> None:
    model, batch, context = quiet(TwoBranch()), batch_of(), context_of(step=2)
    objective = Mixup(lambdas="separate", auxiliary_weight={"a": 2.0, "b": 0.5})
    mixture = objective.mixture(batch, context)
    share = mixture.share
    assert share["a"] != share["b"]
    x = {n: share[n] * v[mixture.first] + (1 - share[n]) * v[mixture.second] for n, v in batch.inputs.items()}
    output = model(x, need=("auxiliary",))
    own, other = batch.targets[mixture.first], batch.targets[mixture.second]

    def loss(logits: Tensor, t: float) -> Tensor:
        return t * F.cross_entropy(logits, own) + (1 - t) * F.cross_entropy(logits, other)

    expected = loss(output.logits, (share["a"] + share["b"]) / 2)
    expected = expected + 2.0 * loss(output.auxiliary["a"], share["a"]) + 0.5 * loss(output.auxiliary["b"], share["b"])
    assert objective.step(model, batch, context).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_bottleneck_is_mixed_where_branches_first_meet() -> None:
    model, batch, context = quiet(TwoBranch()), batch_of(), context_of(step=1)
    objective = Mixup(at="bottleneck", auxiliary_weight=0.0)
    mixture = objective.mixture(batch, context)
    t = mixture.share["a"]
    z = {n: model.encode(n, x).value for n, x in batch.inputs.items()}
    mixed = {n: Feature(t * v[mixture.first] + (1 - t) * v[mixture.second]) for n, v in z.items()}
    logits = model.fuse(mixed).logits
    own, other = batch.targets[mixture.first], batch.targets[mixture.second]
    expected = t * F.cross_entropy(logits, own) + (1 - t) * F.cross_entropy(logits, other)
    assert objective.step(model, batch, context).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_fusion_model_at_every_depth() -> None:
    torch.manual_seed(0)
    encoders = {n: cg.models.ENCODERS["series"](features=3, width=2) for n in ("a", "b")}
    x = {n: torch.randn(6, 8, 3) for n in ("a", "b")}
    mask = {"a": torch.rand(6, 8) > 0.3, "b": torch.tensor([True, False, True, True, False, True])}
    batch = Batch(x, torch.arange(6) % 2, mask)
    for name in ("concat", "mmtm"):
        model = cg.FusionModel(encoders, cg.fusion.FUSIONS[name](), 2)
        for at in ("input", "bottleneck"):
            model.zero_grad()
            losses = Mixup(at=at).step(model, batch, context_of())  # type: ignore[arg-type]
            losses.total.backward()
            assert all(p.grad is not None for p in model.parameters())
        encoders = {n: cg.models.ENCODERS["series"](features=3, width=2) for n in ("a", "b")}


def test_what_is_real_in_one_alone_stays_as_it_is() -> None:
    x = torch.tensor([[1.0, 2.0, 9.0], [5.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    batch = Batch({"a": x}, torch.tensor([0, 1]), {"a": mask})
    mixed, masks = Mixture(torch.tensor([0]), torch.tensor([1]), {"a": 0.25}).inputs(batch)
    assert mixed["a"][0, :2].tolist() == [0.25 * 1 + 0.75 * 5, 2.0]
    assert masks["a"].tolist() == [[True, True, False]]


def test_partners() -> None:
    targets = torch.arange(60) % 3
    for partner, holds in (("within", torch.equal), ("across", lambda a, b: bool((a != b).all()))):
        first, second = partners(targets, partner, None, generator())  # type: ignore[arg-type]
        assert holds(targets[first], targets[second])
        assert bool((first != second).all())
        assert first.tolist() == list(range(60))
    first, second = partners(torch.tensor([0, 1, 1]), "within", None, generator())
    assert second.tolist() == [0, 2, 1], "who is alone stays so"
    labels = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]])
    for seed in range(20):
        first, second = partners(labels, "within", None, generator(seed))
        assert all(bool((labels[a] * labels[b]).any()) or a == b for a, b in zip(first, second, strict=True))


def test_chances_are_kept_for_partners_and_within_classes_for_pairs() -> None:
    targets = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)
    chances = torch.tensor([0.1, 0.2, 0.7])
    for partner, picked in (("any", 1), ("within", 0)):
        counts = torch.zeros(3)
        for seed in range(60):
            rows = partners(targets, partner, chances, generator(seed))[picked]  # type: ignore[arg-type]
            counts += targets[rows].bincount(minlength=3)
        torch.testing.assert_close(counts / counts.sum(), chances, atol=0.03, rtol=0)


def test_the_draws_follow_seed_and_step_alone() -> None:
    batch, objective = batch_of(), Mixup()
    same = [objective.mixture(batch, context_of(step=4)).share["a"] for _ in range(2)]
    assert same[0] == same[1]
    shares = [objective.mixture(batch, context_of(step=s)).share["a"] for s in range(2000)]
    assert sum(shares) / 2000 == pytest.approx(0.5, abs=0.03)
    assert sum(s < 0.1 for s in shares) / 2000 == pytest.approx(0.1, abs=0.03)
    peaked = [Mixup(alpha=50.0).mixture(batch, context_of(step=s)).share["a"] for s in range(200)]
    assert 0.3 < min(peaked) < max(peaked) < 0.7


def test_standardised_leaves_undefined_classes_in_the_middle() -> None:
    values = [Estimate(v, v, v, 9) for v in (1.0, 3.0)] + [Estimate.undefined(1)]
    assert standardised(values).tolist() == [-1.0, 1.0, 0.0]
    assert standardised([Estimate(2.0, 2.0, 2.0, 9), Estimate.undefined()]).tolist() == [0.0, 0.0]
    assert standardised([Estimate.undefined()]).tolist() == [0.0]


class Passes(nn.Module):
    """Latents that are the inputs."""

    modalities = ("a",)

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        return Feature(x)

    def fuse(self, features: dict[str, Feature], need: tuple[str, ...] = ()) -> Output:
        x = features["a"].value
        return Output(torch.stack([-x.norm(dim=1), x.norm(dim=1) - 1], dim=1), latents={"fused": x})

    def forward(self, inputs: dict[str, Tensor], mask: Any = None, need: tuple[str, ...] = ()) -> Output:
        return self.fuse({"a": self.encode("a", inputs["a"])}, need)


def test_the_guide_draws_thin_and_hollow_classes() -> None:
    # Class 0 lies tightly around one direction, class 1 on a sphere, whose inside the head gives to class 0.
    data = dataset("toy", 200, 0)
    ring = F.normalize(torch.randn(200, 3, generator=generator()), dim=1)
    tight = torch.tensor([0.3, 0.0, 0.0]) + 0.01 * ring
    data.inputs["a"].copy_(torch.where(data.targets[:, None] == 1, ring, tight))
    context = context_of()
    for metric in ("density", "convexity"):
        chances = drawn_by(metric, 1.0, Passes(), data, 200, context)  # type: ignore[arg-type]
        expected = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]
        assert chances.tolist() == pytest.approx(expected, abs=1e-6)
    assert drawn_by("density", -1.0, Passes(), data, 200, context)[0] > 0.8
    assert context.work.forwards == 200 * 3 + 2 * 2000


def test_the_guide_is_asked_every_so_many_epochs() -> None:
    model, data, objective = TwoBranch(), dataset("toy", 60, 0), Mixup(guide="density", every=2)
    objective.epoch_start(model, data, context_of(epoch=0))
    (first,) = objective.chances
    nn.init.zeros_(model.branches["a"][0].weight)
    objective.epoch_start(model, data, context_of(epoch=1))
    assert objective.chances[0] is first
    objective.epoch_start(model, data, context_of(epoch=2))
    assert objective.chances[0] is not first, "two classes are always one deviation apart"
    assert "chances" not in objective.describe()
    twin = Mixup(guide="density", every=2)
    twin.load_state_dict(objective.state_dict())
    assert torch.equal(twin.chances[0], objective.chances[0])


def test_attacked_samples_are_mixed() -> None:
    model, batch, context = quiet(TwoBranch()), batch_of(), context_of(step=3)
    objective = MixupAdversarial(attacked="joint", steps=3)
    attacked = objective.perturb(model, batch, context)
    expected = Mixup().step(model, attacked, context).total
    assert objective.step(model, batch, context).total.item() == pytest.approx(expected.item(), rel=1e-6)
    clean = Mixup().step(model, batch, context).total
    half = replace(objective, clean_weight=0.5).step(model, batch, context).total
    assert half.item() == pytest.approx(((expected + clean) / 2).item(), rel=1e-6)
    assert expected > clean
    assert MixupAdversarial.robust
    assert not Mixup.robust


def test_it_is_another_training_than_without() -> None:
    model, batch = quiet(TwoBranch()), batch_of()
    assert Mixup().step(model, batch, context_of()).total != Standard().step(model, batch, context_of()).total


@pytest.mark.parametrize(
    "options",
    [{"alpha": 0.0}, {"at": "output"}, {"partner": "self"}, {"lambdas": "two"}, {"guide": "mood"}, {"every": 0},
     {"samples": 0}, {"tau": float("inf")}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        Mixup(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"at": "bottleneck"}, {"guide": "convexity"}])
def test_a_model_without_branches_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="branches"):
        Mixup(**options).check(Sum(), context_of(task=SingleLabel(2)))  # type: ignore[arg-type]


def test_a_share_that_rounds_to_all_is_no_error() -> None:
    torch.manual_seed(0)
    model, batch, objective = quiet(TwoBranch()), batch_of(), Mixup(lambdas="separate", alpha=0.1)
    whole = 0
    for step in range(60):
        context = context_of(step=step, steps=60)
        shares = objective.mixture(batch, context).share
        whole += any(s in (0.0, 1.0) for s in shares.values())
        losses = objective.step(model, batch, context)
        assert set(losses.parts) == {"fused", "auxiliary/a", "auxiliary/b"}
        assert losses.total.item() == pytest.approx(float(sum(losses.parts.values())), rel=1e-4)
    assert whole > 5
