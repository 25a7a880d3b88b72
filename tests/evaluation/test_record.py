"""A Record's hits, also of samples that no answer gets right, or none wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import crossguard as cg
from crossguard.core.task import hits
from crossguard.defences import Context, Fast
from crossguard.diagnostics import shapley
from crossguard.evaluation import Protocol, evaluate, metrics
from crossguard.evaluation.universal import judged

PROTOCOL = Protocol(
    "quick", steps=2, scales=(1.0,), max_scale=1.0, curve_steps=1, noise_trials=1, check_samples=0, clips=0
)


class Shifted(nn.Module):
    """Logits that are all on one side of 0."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.map, self.shift = nn.Linear(4, 3), shift

    def forward(self, inputs: cg.Inputs) -> torch.Tensor:
        return self.map(inputs["x"]) + self.shift


@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_hits_are_those_of_the_metric_where_no_label_is_true_or_every_one(shift: float) -> None:
    torch.manual_seed(0)
    model = Shifted(shift).eval()
    x, targets = torch.rand(20, 4), torch.zeros(20, 3)
    targets[:5, 0], targets[5:8] = 1, 1
    batch = cg.Batch({"x": x}, targets, ids=tuple(map(str, range(20))))
    record = evaluate(model, [batch], cg.ThreatModel(x=cg.Linf(0.5)), task=cg.MultiLabel(3), protocol=PROTOCOL)
    logits = model({"x": x}).detach()
    assert record.figure("clean", "hit@1").value == metrics.hit(logits, targets)
    for condition in record.conditions:
        right = record.right(condition)
        assert right[5:8].all(), condition
        assert not right[8:].any(), condition
    for condition in ("only:x", "any_one", "joint"):
        assert [e.value for _, e in record.curve(condition)] == [
            record.figure(c, "hit@1").value for c in ("clean", condition)
        ]
        assert (record.broken_at(condition)[8:] == 0).all()
        assert np.isinf(record.broken_at(condition)[5:8]).all()


def tagged(rng: np.random.Generator, n: int, classes: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets of many rare classes."""
    truth = (rng.random((n, classes)) < 2 / classes).astype(int)
    truth[np.arange(n), rng.integers(0, classes, n)] = 1
    return rng.normal(0, 1, (n, classes)) + 1.5 * truth, truth


def test_the_interval_of_map_covers_that_of_the_population() -> None:
    rng = np.random.default_rng(1)
    whole = metrics.mean_average_precision(*tagged(rng, 20000))
    covered = 0
    for _ in range(12):
        scores, truth = tagged(rng, 200)
        meta = {"conditions": ["clean"], "task": {"kind": "multi_label", "classes": 50}}
        record = cg.Record(meta, {"scores/clean": scores, "targets": truth})
        found = record.figure("clean", "map")
        assert 0 <= found.low <= found.value <= found.high <= 1
        covered += found.low <= whole <= found.high
    # Draws with repeats make average precision of rare classes too good: without care the interval lies above.
    assert covered >= 9


def test_all_that_count_hits_count_alike_where_no_label_is_true_or_every_one() -> None:
    logits = torch.tensor([[-5.0, -4.0, -6.0], [-5.0, -4.0, -6.0], [-3.0, -4.0, -6.0], [1.0, -1.0, 0.0]])
    targets = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]])

    class Given(nn.Module):
        def forward(self, inputs: cg.Inputs) -> torch.Tensor:
            return inputs["x"]

    task = cg.MultiLabel(3)
    found = hits(task.margin(logits, targets), targets)
    assert found.tolist() == [False, True, False, True]
    assert hits(torch.tensor([1.0, 0.0]), torch.tensor([1, 0])).tolist() == [True, False]
    batch = cg.Batch({"x": logits}, targets, ids=tuple("abcd"))
    record = evaluate(Given(), [batch], cg.ThreatModel(), task=task, protocol=PROTOCOL)
    assert record.right("clean").tolist() == found.tolist()
    assert judged(Given(), {"clean": None}, [batch], task=task)["clean"].value == 0.5
    shares = shapley(Given(), batch.inputs, targets, task=task, fill="zeros")
    # Without x all logits are 0: a tie is no hit, but where every label is true any answer is one.
    assert shares["x"].tolist() == [0.0, 0.0, 0.0, 1.0]
    fast = Fast(attacked="x", probe_every=1)
    context = Context(task, cg.ThreatModel(x=cg.Linf(1e-6)))
    assert fast.probe(Given(), batch, context)["one_step"] == 0.5
