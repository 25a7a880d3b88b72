"""What is found on one model, judged on another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import crossguard as cg
from crossguard.attacks import AttackResult, apgd, judge, mi_fgsm, noise, pgd, transfer
from tests.models_for_tests import Linear, Mixed

THREAT = cg.ThreatModel(a=cg.Linf(0.2, bounds=(0, 1)), b=cg.L2(0.5))


def _case(n: int = 64) -> tuple[Mixed, Mixed, cg.Inputs, torch.Tensor]:
    torch.manual_seed(0)
    model, surrogate = Mixed().double(), Mixed().double()
    inputs = {"a": torch.rand(n, 6).double(), "b": torch.randn(n, 4).double()}
    return model, surrogate, inputs, model.eval()(inputs).argmax(dim=1)


@pytest.mark.parametrize(
    ("attack", "options"), [(pgd, {"steps": 6, "restarts": 2}), (apgd, {"steps": 8}), (mi_fgsm, {})]
)
def test_from_the_model_itself_it_is_the_attack(attack: Callable[..., AttackResult], options: dict[str, Any]) -> None:
    model, _, inputs, targets = _case()
    ids = list(range(64))
    own = attack(model, inputs, targets, THREAT, ids=ids, seed=3, stop="never", **options)
    found = transfer(
        model, inputs, targets, THREAT, surrogate=model, attack=attack, ids=ids, seed=3, stop="never", **options
    )
    assert torch.equal(found.success, own.success)
    assert torch.allclose(found.margin, own.margin, atol=1e-12)
    for name in inputs:
        assert torch.allclose(found.inputs[name], own.inputs[name], atol=1e-9)
    assert found.backwards == own.backwards
    assert own.forwards < found.forwards <= own.forwards + 3 * 64


@pytest.mark.parametrize("at_most", [None, 1])
def test_it_stays_in_the_budgets_and_never_asks_the_model_for_gradients(at_most: int | None) -> None:
    _, surrogate, inputs, targets = _case()
    model = Linear({"a": (6,), "b": (4,)}, classes=3).double()
    targets = model(inputs).argmax(dim=1)
    threat = cg.ThreatModel(THREAT.declared, at_most=at_most)

    class Blind(torch.nn.Module):
        def forward(self, given: cg.Inputs) -> torch.Tensor:
            return model(given).detach()

    found = transfer(Blind(), inputs, targets, threat, surrogate=surrogate)
    assert threat.contains(found.inputs, inputs).all()
    assert torch.equal(found.success, model(found.inputs).argmax(dim=1) != targets)
    assert found.success.any()


def test_like_models_transfer_better_than_noise() -> None:
    torch.manual_seed(0)
    model = Linear({"a": (6,), "b": (4,)}, classes=3)
    surrogate = Linear({"a": (6,), "b": (4,)}, classes=3)
    for p in surrogate.parameters():
        p.data += 0.7 * torch.randn_like(p)
    inputs = {"a": torch.rand(256, 6), "b": torch.randn(256, 4)}
    targets = model(inputs).argmax(dim=1)
    found = transfer(model, inputs, targets, THREAT, surrogate=surrogate).success.float().mean()
    random = noise(model, inputs, targets, THREAT).success.float().mean()
    assert found > random + 0.1


def test_judged_inputs_are_pulled_into_the_budgets() -> None:
    model = Linear({"a": (4,)})
    x = {"a": torch.randn(8, 4)}
    y = model(x).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.1))
    far = judge(model, x, y, threat, found={"a": x["a"] + 7}, stop="never")
    assert torch.allclose(far.inputs["a"], x["a"] + 0.1)
    wrong = judge(model, x, 1 - y, threat, found={"a": x["a"] + 7})
    assert wrong.success.all()
    assert torch.equal(wrong.inputs["a"], x["a"])
