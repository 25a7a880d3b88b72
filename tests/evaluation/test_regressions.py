"""What once made robustness look better than it is, mixed different things, or broke on plausible input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import crossguard as cg
from crossguard.attacks.objective import RANKED, Goal, ranking
from crossguard.evaluation import Protocol, evaluate
from tests.evaluation.models import Linear, Loader, Masked, linear, samples

QUICK = Protocol("quick", steps=5, scales=(0.5, 1.0, 2.0), curve_steps=4, noise_trials=4, check_samples=16, clips=0)
THREAT = cg.ThreatModel(a=cg.Linf(0.12), b=cg.Linf(0.2))


def test_a_modality_that_the_first_batch_lacks_is_attacked_where_it_is() -> None:
    model = linear(6, 4, kind=Masked)
    batch = samples(model, 40, wrong=0.0)
    batch = cg.Batch(batch.inputs, batch.targets, mask={"a": torch.arange(40) >= 10}, ids=batch.ids)
    whole = evaluate(model, Loader(batch, 40), THREAT, protocol=QUICK)
    split = evaluate(model, Loader(batch, 10), THREAT, protocol=QUICK)
    for condition in ("only:a", "any_one", "joint"):
        assert np.array_equal(split.right(condition), whole.right(condition)), condition
    assert split.right("joint").sum() < split.right("only:b").sum()


class Shuffled(Loader):
    def __iter__(self) -> Iterator[cg.Batch]:
        yield self.batch.take(torch.randperm(len(self.batch)).tolist())


def test_a_loader_that_shuffles_is_refused() -> None:
    model = linear(6, 4)
    with pytest.raises(cg.InputError, match="shuffling"):
        evaluate(model, Shuffled(samples(model, 40), 40), THREAT, protocol=QUICK)


@pytest.mark.parametrize(("n", "seed"), [(20, 5), (30, 0)])
def test_a_finished_folder_is_not_given_for_other_data(tmp_path: Path, n: int, seed: int) -> None:
    model = linear(6, 4)
    evaluate(model, Loader(samples(model, 20), 20), THREAT, protocol=QUICK, out=tmp_path)
    with pytest.raises(cg.RunError, match=r"another data|other ids"):
        evaluate(model, Loader(samples(model, n, seed=seed), n), THREAT, protocol=QUICK, out=tmp_path)


class Wobbly(Linear):
    """Answers a hair differently in full batches, as kernels that round by batch size do."""

    def forward(self, inputs: cg.Inputs) -> torch.Tensor:
        logits = super().forward(inputs)
        return logits + torch.tensor([0.1 if len(logits) == 30 else -0.1, 0.0])


@pytest.mark.parametrize("seed", range(4))
def test_rounding_by_batch_size_leaves_one_verdict(seed: int) -> None:
    model = linear(6, 4, kind=Wobbly)
    record = evaluate(model, Loader(samples(model, 60, seed=seed), 30), THREAT, protocol=QUICK)
    for condition in ("only:a", "only:b", "any_one", "joint"):
        assert np.array_equal(record.right(condition), record.broken_at(condition) > 1), condition
    assert np.array_equal(record.right("any_one"), record.right("only:a") & record.right("only:b"))


def test_a_threat_without_budgets_still_makes_a_page(tmp_path: Path) -> None:
    model = linear(6, 4)
    record = evaluate(model, Loader(samples(model), 16), cg.ThreatModel(a=cg.Linf(0.0)), protocol=QUICK)
    assert [e.value for _, e in record.curve("any_one")] == [e.value for _, e in record.curve("joint")]
    cg.report([record], tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 0


def test_samples_without_any_label_have_something_to_climb() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]])
    loss = ranking(logits, Goal(targets, cg.MultiLabel(3)))
    gradient = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient[0] > 0).all(), "absent classes must rise"
    assert (gradient[1] < 0).all(), "present classes must fall"
    expected = torch.log1p(torch.exp(torch.tensor(1.0)) + torch.exp(torch.tensor(-1.0)))
    assert loss[2].item() == pytest.approx(expected.item(), abs=1e-5)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleDict({m: nn.Linear(d, 5) for m, d in {"a": 6, "b": 4, "c": 3}.items()})

    def forward(self, inputs: cg.Inputs) -> torch.Tensor:
        return sum((part(inputs[m]) for m, part in self.parts.items()), start=torch.zeros(()))


GIVEN = ("only:a", "only:b", "only:c")


@pytest.mark.parametrize("at_most", [1, 2, None])
def test_joint_ranking_is_never_better_than_that_of_any_one(at_most: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    model = Tagger()
    inputs = {m: torch.randn(50, d, generator=generator) for m, d in {"a": 6, "b": 4, "c": 3}.items()}
    with torch.no_grad():
        targets = (model(inputs) > 0.8).float()
    assert (targets.sum(dim=1) == 0).any(), "some samples have no label"
    threat = cg.ThreatModel({m: cg.Linf(0.2) for m in "abc"}, at_most=at_most)
    batch = cg.Batch(inputs, targets, ids=tuple(map(str, range(50))))
    record = evaluate(model, Loader(batch, 20, tuple("vwxyz")), threat, protocol=QUICK)

    gap = {c: cg.metrics.gap(record.samples[f"scores/{c}"], targets) for c in ("any_one", "joint", *GIVEN)}
    assert gap["any_one"] <= min(gap[c] for c in GIVEN)
    assert gap["joint"] <= gap["any_one"]
    if at_most != 1:
        assert gap["joint"] < gap["any_one"] - 0.01
    assert set(record.meta["ranked_by"].values()) <= {"accuracy", "any_one", *GIVEN, *RANKED}
