"""Every planted bad defence is found out, and attacked as hard as if it were not there; honest models are left alone.

Quick: few queries. Slow: the best of transfer, Square with 20,000 queries and EOT with 100 draws must not be better.
"""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import Expectation, apgd, judge, square, transfer
from crossguard.core.model import forward
from crossguard.diagnostics import Failure, failures
from crossguard.diagnostics.failures import treat
from tests.gauntlet.models import CLASSES, DEFENCES, THREAT, Winners, data, trained

TASK = cg.SingleLabel(CLASSES)
# Defence -> what must be said of it, of which modality.
SAID: dict[str, tuple[str, str | None]] = {
    "detached": ("no_gradient", "rgb"),
    "loud": ("vanishing_gradient", "rgb"),
    "softmax": ("probabilities", None),
    "quantised": ("no_gradient", "rgb"),
    "winners": ("unstable_predictions", "skeleton"),
    "noisy": ("random_predictions", None),
    "resized": ("random_predictions", None),
    "gated": ("no_gradient", "skeleton"),
    "filtered": ("no_gradient", "rgb"),
}
UNCHANGED = ("detached", "loud", "softmax")
RANDOM = ("noisy", "resized")
KINDS = ("standard", "adversarial")


def defended(name: str, kind: str) -> nn.Module:
    return trained(kind, winners=True) if name == "winners" else DEFENCES[name](trained(kind))


def remedied(model: nn.Module, batch: cg.Batch, threat: cg.ThreatModel, found: list[Failure], steps: int) -> Tensor:
    """(N,) what APGD and the remedies of all failures leave right."""
    options = {"task": TASK, "ids": batch.ids}
    random = any(f.name == "random_predictions" for f in found)
    names = dict.fromkeys(["margin", *(name for f in found for name in f.remedies)])
    right = torch.ones(len(batch), dtype=torch.bool)
    for name in names:
        left = right.nonzero().squeeze(1).tolist()
        part = batch.take(left)
        options = {"task": TASK, "ids": part.ids, "steps": steps, "random": random}
        result = treat(name, model, part.inputs, part.targets, threat, **options) if left else None
        if result is not None:
            right[left] = ~result.success
    return right


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(SAID))
def test_a_bad_defence_is_found_out(name: str, kind: str) -> None:
    batch = data(32, seed=1)
    found = failures(defended(name, kind), batch.inputs, batch.targets, THREAT, ids=batch.ids, steps=15)
    assert SAID[name] in {(f.name, f.modality) for f in found}
    assert all(f.remedies and f.detail and 0 < f.affected <= f.samples for f in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", UNCHANGED)
def test_a_defence_that_leaves_the_function_as_it_is_protects_nothing(name: str, kind: str) -> None:
    batch = data(100, seed=2)
    args = batch.inputs, batch.targets, THREAT
    plain = trained(kind)
    bare = apgd(plain, *args, task=TASK, ids=batch.ids, steps=30, objective="margin").success
    found = [f for f in failures(defended(name, kind), *args, ids=batch.ids, steps=20) if f.modality != "skeleton"]
    left = remedied(defended(name, kind), batch, THREAT, found[:1], steps=30)
    assert 0.05 < float(bare.float().mean()) < 0.95, "or there is nothing to compare"
    assert abs(int(left.sum()) - int((~bare).sum())) <= 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_model_is_not_accused(kind: str, seed: int) -> None:
    batch, model = data(48, seed=3 + seed), trained(kind, seed)
    assert failures(model, batch.inputs, batch.targets, THREAT, ids=batch.ids, steps=20) == []


def test_two_classes_several_labels_and_float64_are_not_accused() -> None:
    batch, model = data(48, seed=5), trained()

    class Two(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            logits = forward(model, inputs).logits
            return torch.stack([logits[:, :2].logsumexp(1), logits[:, 2:].logsumexp(1)], dim=1)

    assert failures(Two(), batch.inputs, batch.targets // 2, THREAT, ids=batch.ids, steps=20) == []
    labels = nn.functional.one_hot(batch.targets, CLASSES)
    assert failures(model, batch.inputs, labels, THREAT, ids=batch.ids, steps=20) == []
    wide = {m: x.double() for m, x in batch.inputs.items()}
    assert failures(deepcopy(model).double(), wide, batch.targets, THREAT, ids=batch.ids, steps=20) == []


def expected(model: nn.Module, draws: int) -> nn.Module:
    return Expectation(model, draws, at_once=1)


def best_of_three(name: str, kind: str, batch: cg.Batch) -> dict[str, Tensor]:
    """What transfer, Square and EOT each leave right; a random model in the mean of 100 fresh draws."""
    model, plain = defended(name, kind), trained(kind, winners=False)
    args, options = (batch.inputs, batch.targets, THREAT), {"task": TASK, "ids": batch.ids}
    random = name in RANDOM
    asked = expected(model, 4) if random else model
    still = {**options, "stop": "never" if random else "success"}  # or one lucky draw ends the search
    climb = {**options, "stop": "never", "objective": "margin"}
    found = {
        "transfer": transfer(model, *args, surrogate=plain, attack=apgd, steps=100, objective="margin", **options),
        "square": square(asked, *args, queries=20_000, **still),
    }
    with suppress(cg.ModelError):  # where there is no gradient at all
        found["eot"] = apgd(expected(model, 100 if random else 1), *args, steps=50, **climb)
    left: dict[str, Tensor] = {}
    for attack, result in found.items():
        judging = expected(model, 100) if random else model
        points = {m: result.inputs[m] for m in THREAT.names}
        left[attack] = ~judge(judging, *args, found=points, stop="never", **options).success
    return left


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [n for n in sorted(SAID) if n not in UNCHANGED])
def test_no_other_attack_is_better(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    batch, model = data(32, seed=6), defended(name, "standard")
    args = batch.inputs, batch.targets, THREAT
    found = failures(model, *args, ids=batch.ids)
    with torch.no_grad():
        clean = (forward(model, batch.inputs).logits.argmax(dim=1) == batch.targets).sum()
    plain = treat("margin", trained("standard"), *args, task=TASK, ids=batch.ids, steps=50)
    try:
        without = int((~apgd(model, *args, task=TASK, ids=batch.ids, steps=50).success).sum())
    except cg.ModelError:
        without = int(clean)
    ours = remedied(model, batch, THREAT, found, steps=50)
    others = {attack: int(left.sum()) for attack, left in best_of_three(name, "standard", batch).items()}
    assert plain is not None
    with capsys.disabled():
        print(f"\n{name}: undefended {int((~plain.success).sum())}, clean {int(clean)}, no remedy {without}, ", end="")
        print(f"with {int(ours.sum())}, {others}, of {len(batch)}")
    assert int(ours.sum()) <= min(others.values())


def test_the_planted_defences_are_what_they_say() -> None:
    x = torch.randn(3, 40)
    assert ((Winners(0.1)(x) != 0).sum(dim=1) == 4).all()
    for name in UNCHANGED:
        one, two = (forward(m, data(8).inputs).logits.argmax(dim=1) for m in (trained(), defended(name, "standard")))
        assert torch.equal(one, two)
