"""The attack that drags attention away, alone and within an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import attention_drift, pgd
from crossguard.attacks.objective import OBJECTIVES, RANKED, Goal, ranking
from crossguard.core import ModelError, ThreatError
from crossguard.data import Loader
from crossguard.data.base import TensorDataset
from crossguard.evaluation.attack import Case, rank
from crossguard.models import FrameTransformer, FusionModel
from crossguard.models.fusion import JointTransformer
from crossguard.models.maps import drift
from tests.models_for_tests import Linear

THREAT = cg.ThreatModel(rgb=cg.Linf(0.4), audio=cg.Linf(0.2))


def model_of(classes: int = 4) -> FusionModel:
    torch.manual_seed(0)
    parts = {"width": 8, "heads": 2, "dropout": 0.0, "layers": 0, "pool": "mean"}
    encoders = {n: FrameTransformer(features=d, **parts) for n, d in (("rgb", 5), ("audio", 3))}
    return FusionModel(encoders, JointTransformer(width=8, heads=2, dropout=0.0), classes, auxiliary=False).eval()


def samples(n: int = 12) -> tuple[cg.Inputs, cg.core.Mask]:
    g = torch.Generator().manual_seed(3)
    inputs = {m: 2 * torch.randn(n, 6, d, generator=g) for m, d in (("rgb", 5), ("audio", 3))}
    return inputs, {"rgb": torch.arange(6) < torch.randint(1, 7, (n, 1), generator=g)}


def moved(model: nn.Module, before: cg.Inputs, after: cg.Inputs, mask: Any) -> Tensor:
    maps = [model(x, mask, need=("attention",)).attention for x in (before, after)]
    return torch.stack([drift(a, b).mean(dim=1) for a, b in zip(*maps, strict=True)]).mean(dim=0)


def test_without_weight_it_is_pgd_to_the_bit() -> None:
    model, (x, mask) = model_of(), samples()
    targets = model(x, mask).logits.argmax(dim=1)
    options: dict[str, Any] = {"mask": mask, "steps": 5, "ids": list(range(12)), "objective": "margin"}
    plain = pgd(model, x, targets, THREAT, **options)
    found = attention_drift(model, x, targets, THREAT, weight=0.0, **options)
    assert set(found.inputs) == set(found.clean) == {"rgb", "audio"}
    assert torch.equal(found.inputs["rgb"], plain.inputs["rgb"])
    assert torch.equal(found.success, plain.success)
    assert found.forwards == 2 * plain.forwards


@pytest.mark.parametrize("stop", ["never", "success"])
def test_it_drags_attention_further_than_pgd_within_the_budgets(stop: Any) -> None:
    model, (x, mask) = model_of(), samples()
    targets = model(x, mask).logits.argmax(dim=1)
    options: dict[str, Any] = {"mask": mask, "steps": 8, "objective": "margin", "select": "last", "stop": "never"}
    far = {w: attention_drift(model, x, targets, THREAT, weight=w, **options).inputs for w in (0.0, 1e4)}
    assert moved(model, x, far[1e4], mask).mean() > 1.2 * moved(model, x, far[0.0], mask).mean()
    assert bool(THREAT.contains(far[1e4], x, mask).all())
    # Rows that leave must not be compared with what others were before.
    found = attention_drift(model, x, targets, THREAT, mask=mask, steps=8, stop=stop)
    margin = cg.SingleLabel(4).margin(model(found.inputs, mask).logits, targets)
    torch.testing.assert_close(found.margin, margin, rtol=1e-4, atol=1e-5)


def test_one_step_follows_the_gradient_of_the_sum() -> None:
    """From a given start, the step's sign is that of d(margin + w R)/dx, worked out apart."""
    model, (x, _) = model_of(), samples(3)
    targets = torch.tensor([0, 1, 2])
    threat, start = cg.ThreatModel(rgb=cg.Linf(0.4)), {"rgb": x["rgb"] + 0.1}
    leaf = start["rgb"].clone().requires_grad_()
    now = {**x, "rgb": leaf}
    loss = 7.0 * moved(model, x, now, None) - cg.SingleLabel(4).margin(model(now).logits, targets)
    sign = torch.autograd.grad(loss.sum(), leaf)[0].sign()
    found = attention_drift(
        model, x, targets, threat, weight=7.0, steps=1, step_size=0.25, start=start, stop="never", select="last"
    )
    torch.testing.assert_close(found.inputs["rgb"], start["rgb"] + 0.25 * 0.4 * sign)


def test_what_cannot_be_meant_is_refused() -> None:
    x, targets = {"a": torch.randn(4, 3)}, torch.tensor([0, 1, 0, 1])
    threat = cg.ThreatModel(a=cg.Linf(0.1))
    with pytest.raises(ModelError, match="attention maps"):
        attention_drift(Linear({"a": (3,)}), x, targets, threat)
    with pytest.raises(ThreatError, match="weight"):
        attention_drift(Linear({"a": (3,)}), x, targets, threat, weight=-1.0)
    with pytest.raises(ThreatError, match="objective"):
        attention_drift(Linear({"a": (3,)}), x, targets, threat, objective="harm")


def test_ranking_of_one_label_is_that_of_its_one_hot() -> None:
    logits, targets = torch.randn(5, 4), torch.tensor([0, 3, 1, 2, 0])
    one = ranking(logits, Goal(targets, cg.SingleLabel(4)))
    hot = nn.functional.one_hot(targets, 4).float()
    torch.testing.assert_close(one, ranking(logits, Goal(hot, cg.MultiLabel(4))))


def test_an_evaluation_takes_it_last() -> None:
    model, (x, mask) = model_of(), samples()
    targets = model(x, mask).logits.argmax(dim=1)
    modalities = {n: cg.Modality(n, "NTD", "unit") for n in x}
    data = TensorDataset("toy", modalities, tuple("abcd"), x, targets, mask)
    found: dict[float, cg.Record] = {}
    for weight in (0.0, 50.0):
        protocol = cg.Protocol("quick", scales=(1.0,), steps=3, clips=0, check_samples=0, max_scale=1.0)
        protocol = protocol.with_options(attention_weight=weight)
        found[weight] = cg.evaluate(model, Loader(data, 6), THREAT, protocol=protocol)
    names = {w: [stage["name"] for stage in r.meta["stages"]] for w, r in found.items()}
    assert names[50.0] == [*names[0.0], "attention drift"]
    for condition in ("only:rgb", "joint"):
        assert found[50.0].right(condition).sum() <= found[0.0].right(condition).sum()


@pytest.mark.parametrize("name", [*RANKED, "ranking"])
def test_rankings_are_never_weaker_for_it(name: str) -> None:
    model, (x, mask) = model_of(), samples()
    logits = model(x, mask).logits.detach()
    batch = cg.Batch(x, (logits > logits.median()).float(), mask, tuple(map(str, range(12))))
    goal = Goal(batch.targets, cg.MultiLabel(4))
    losses: dict[float, Tensor] = {}
    for weight in (0.0, 1e3):
        protocol = cg.Protocol("quick", steps=3, attention_weight=weight)
        case = Case(model, batch, THREAT, cg.MultiLabel(4), protocol, 0)
        point, losses[weight] = rank(case, "joint", THREAT, [x], name)
        torch.testing.assert_close(losses[weight], OBJECTIVES[name](model(point, mask).logits, goal))
    assert bool((losses[1e3] >= losses[0.0] - 1e-6).all())
    assert bool((losses[0.0] > OBJECTIVES[name](logits, goal)).all())


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(cg.RecipeError, match="attention_weight"):
        cg.Protocol("quick", attention_weight=-1.0)
