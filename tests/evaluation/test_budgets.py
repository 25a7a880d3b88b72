"""L1, L0 and SNR budgets through the whole of an evaluation and of worst_case, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import crossguard as cg
from crossguard.attacks import worst_case
from crossguard.evaluation import Protocol, evaluate
from tests.evaluation.models import Linear, Loader, linear, margins, samples

QUICK = Protocol("quick", steps=20, scales=(0.5, 1.0, 2.0), max_scale=4, curve_steps=10, noise_trials=2,
                 check_samples=8, clips=1)  # fmt: skip
BOX = (-4.0, 4.0)


def lost(budget: cg.Budget, w: Tensor, x: Tensor, sign: Tensor) -> Tensor:
    """(N,) what the margin `sign` x (w x) falls by at most within `budget`."""
    w = w.detach()
    if isinstance(budget, cg.SNR):
        return x.norm(dim=1) * 10 ** (-budget.eps / 20) * w.norm()
    if isinstance(budget, cg.L0):
        down = sign[:, None] * w
        reach = torch.where(down > 0, x - BOX[0], BOX[1] - x)
        gain = (down.abs() * reach).sort(dim=1, descending=True).values
        return gain[:, : int(budget.eps)].sum(dim=1)
    assert isinstance(budget, cg.L1)
    # The dearest entries first, each as far as the box allows, until the sum is spent.
    left = torch.full((len(x),), budget.eps)
    total = torch.zeros(len(x))
    down = sign[:, None] * w
    for d in w.abs().argsort(descending=True).tolist():
        reach = torch.where(down[:, d] > 0, x[:, d] - BOX[0], BOX[1] - x[:, d])
        spent = torch.minimum(reach, left)
        total, left = total + spent * w[d].abs(), left - spent
    return total


BUDGETS = {
    "l1": {"a": cg.L1(0.5, bounds=BOX), "b": cg.L1(0.7, bounds=BOX)},
    "l0": {"a": cg.L0(1, bounds=BOX), "b": cg.L0(1, bounds=BOX)},
    "snr": {"a": cg.SNR(14.0), "b": cg.SNR(12.0)},
    "mixed": {"a": cg.L1(0.5, bounds=BOX), "b": cg.SNR(12.0)},
}


def case(name: str) -> tuple[Linear, cg.Batch, cg.ThreatModel, dict[str, np.ndarray]]:
    """A linear model within the box, and by condition its exact worst margins."""
    model = linear(6, 5)
    batch = samples(model, 40, wrong=0.05)
    batch = replace(batch, inputs={m: x.clamp(*BOX) for m, x in batch.inputs.items()})
    with torch.no_grad():
        model.w["a"] *= 0.4 if name == "l0" else 1.0
        model.w["b"] *= 0.4 if name == "l0" else 1.0
        model.bias += 3.0 if name == "l0" else 0.0  # one value alone moves far
    margin, sign = margins(model, batch), 1 - 2.0 * batch.targets
    loss = {m: lost(b, model.w[m], batch.inputs[m], sign) for m, b in BUDGETS[name].items()}
    worst = {f"only:{m}": (margin - v).numpy() for m, v in loss.items()}
    worst["joint"] = (margin - loss["a"] - loss["b"]).numpy()
    return model, batch, cg.ThreatModel(BUDGETS[name]), worst


@pytest.mark.parametrize("name", list(BUDGETS))
def test_an_evaluation_finds_the_closed_form(name: str) -> None:
    model, batch, threat, worst = case(name)
    record = evaluate(model, Loader(batch, 20), threat, protocol=QUICK)
    for condition, expected in worst.items():
        # Within 5 % of what the margin may fall by, as attacks are held to elsewhere.
        slack = 0.05 * np.abs(margins(model, batch).numpy() - expected) + 1e-4
        right = record.right(condition)
        assert right[expected > 0].all(), "no success may lie outside the budget"
        assert not right[expected < -slack].any(), f"{condition}: {(right & (expected < -slack)).sum()} not found"
        assert (expected < -slack).any(), "the budget must break somebody"
    singles = np.min([worst["only:a"], worst["only:b"]], axis=0)
    assert record.right("any_one")[singles > 0].all()
    assert (record.right("joint") <= record.right("any_one")).all()
    assert (record.right("any_one") <= record.right("clean")).all()
    assert not {f.name for f in record.flags} & {"outside_budget", "larger_budget_helps", "joint_weaker_than_single"}
    assert cg.Record(record.meta, record.samples).meta["threat"] == threat.to_dict()


@pytest.mark.parametrize("name", list(BUDGETS))
def test_worst_case_finds_the_closed_form(name: str) -> None:
    model, batch, threat, worst = case(name)
    found = worst_case(model, batch.inputs, batch.targets, threat, ids=batch.ids, effort="standard")
    expected = worst["joint"]
    slack = 0.05 * np.abs(margins(model, batch).numpy() - expected) + 1e-4
    success = found.success.numpy()
    assert not success[expected > 0].any()
    assert success[expected < -slack].all()
    assert success.any()
    assert not success.all()
    assert threat.contains(found.inputs, batch.inputs).all()
    for m in "ab":  # what a sample that one modality alone breaks was broken by
        alone = worst[f"only:{m}"] < -slack
        assert success[alone].all()


@pytest.mark.parametrize("name", ["l1", "l0", "snr"])
def test_a_budget_of_nothing_changes_nothing(name: str) -> None:
    model, batch, _, _ = case(name)
    nothing = {"l1": cg.L1(0.0), "l0": cg.L0(0, bounds=BOX), "snr": cg.SNR(float("inf"))}[name]
    some = BUDGETS[name]["b"]
    found = worst_case(model, batch.inputs, batch.targets, cg.ThreatModel(a=nothing, b=some), effort="quick")
    alone = worst_case(model, batch.inputs, batch.targets, cg.ThreatModel(b=some), effort="quick")
    assert torch.equal(found.inputs["a"], batch.inputs["a"])
    assert torch.equal(found.success, alone.success)
    record = evaluate(model, Loader(batch, 20), cg.ThreatModel(a=nothing, b=some), protocol=QUICK)
    assert "only:a" not in record.conditions
