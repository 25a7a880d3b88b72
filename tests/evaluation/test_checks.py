"""Planted faults must raise a flag; honest models must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.diagnostics import failures
from crossguard.evaluation import Protocol, evaluate
from crossguard.evaluation.checks import Evidence, verdicts
from crossguard.threat import Budget
from tests.evaluation.models import Linear, Loader, linear, samples

PROTOCOL = Protocol(steps=8, scales=(0.5, 1.0, 2.0), curve_steps=4, noise_trials=2, check_samples=40, max_scale=64)
THREAT = cg.ThreatModel(a=cg.Linf(0.12), b=cg.Linf(0.2))


def flags(model: nn.Module, threat: cg.ThreatModel = THREAT, seed: int = 0) -> set[tuple[str, str | None]]:
    batch = samples(linear(6, 4), 60, wrong=0.0, seed=seed)
    record = evaluate(model, Loader(batch, 30), threat, protocol=PROTOCOL)
    assert record.meta["checks"], "what was checked is written down in any case"
    return {(f.name, f.modality) for f in record.flags}


class MLP(nn.Module):
    """A small honest model, trained on what the linear one says."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 2))
        batch = samples(linear(6, 4), 400, wrong=0.0, seed=99)
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        for _ in range(150):
            loss = nn.functional.cross_entropy(self(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return self.net(torch.cat([inputs["a"], inputs["b"]], dim=1))


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_linear_model_raises_no_flag(seed: int) -> None:
    assert flags(linear(6, 4), seed=seed) == set()


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_network_raises_no_flag(seed: int) -> None:
    assert flags(MLP(seed), seed=seed) == set()


class Rounding(Linear):
    """Right, but its steps have no slope."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return super().forward({m: (x * 20).round() / 20 for m, x in inputs.items()})


class Detached(Linear):
    """One branch hides from gradients."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return super().forward({**inputs, "a": inputs["a"].detach()})


class Decoy(Linear):
    """Rounded, with a slope that shows the attack the wrong way."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        true = super().forward({m: (x * 20).round() / 20 for m, x in inputs.items()}).detach()
        false = super().forward(inputs)
        return true - (false - false.detach())


class Saturated(Linear):
    """A huge temperature: the gradient of the loss underflows, that of the logits does not."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return super().forward(inputs) * 1e4


def test_steps_without_a_slope_are_found_out() -> None:
    found = flags(Rounding(dict(linear(6, 4).w)))
    assert {("no_gradient", "a"), ("no_gradient", "b")} <= found


def test_a_detached_branch_is_found_out_and_attacked_at_random() -> None:
    model = Detached(dict(linear(6, 4).w))
    batch = samples(linear(6, 4), 60, wrong=0.0)
    record = evaluate(model, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    assert [(f.name, f.modality) for f in record.flags if f.name == "no_gradient"] == [("no_gradient", "a")]
    assert (record.broken_at("only:a") < float("inf")).sum() > 0, "random search must have its turn"
    assert (record.broken_at("joint") <= record.broken_at("only:b")).all()


def test_a_slope_that_points_the_wrong_way_is_found_out() -> None:
    found = {name for name, _ in flags(Decoy(dict(linear(6, 4).w)))}
    assert {"square_beats_attack", "unstable_predictions"} <= found


def test_saturated_logits_are_attacked_all_the_same() -> None:
    honest, loud = linear(6, 4), Saturated(dict(linear(6, 4).w))
    batch = samples(honest, 60, wrong=0.0)
    a = evaluate(honest, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    b = evaluate(loud, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    assert abs(int(a.right("joint").sum()) - int(b.right("joint").sum())) <= 1


def test_too_few_steps_on_a_curved_model_are_found_out() -> None:
    class Curved(Linear):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            # Ripples: the slope at random places says little about the way down.
            ripples = {m: x + 0.25 * torch.sin(25 * x) for m, x in inputs.items()}
            return super().forward(ripples)

    batch = samples(linear(6, 4), 120, wrong=0.0)
    model = Curved(dict(linear(6, 4).w))
    one_step = Protocol(steps=1, scales=(1.0,), curve_steps=1, noise_trials=1, check_samples=120, max_scale=64)
    record = evaluate(model, Loader(batch, 60), THREAT, protocol=one_step)
    assert "attack_not_converged" in {f.name for f in record.flags}


class Purifier(Linear):
    """Inputs off the grid of clean data by more than `limit` are rounded back onto it, one modality by itself or, with
    `both`, only where several are off it together: a detector that hides the gradient where it fires."""

    def __init__(self, weights: dict[str, Tensor], limit: float, both: bool) -> None:
        super().__init__(weights)
        self.limit, self.both = limit, both

    def forward(self, inputs: cg.Inputs) -> Tensor:
        off = {m: (x - x.round()).abs().amax(dim=1) > self.limit for m, x in inputs.items()}
        every = torch.stack(list(off.values())).all(dim=0)
        fires = {m: (every if self.both else hit)[:, None] for m, hit in off.items()}
        return super().forward({m: torch.where(fires[m], x.round(), x) for m, x in inputs.items()})


@pytest.mark.parametrize(
    ("withstood", "fallen", "flagged"), [(1, 1, True), (2, 1, True), (2, 2, True), (3, 1, False), (16, 2, True)]
)
@pytest.mark.parametrize("what", ["more_steps", "plain"])
def test_what_falls_is_counted_among_what_had_withstood(what: str, withstood: int, fallen: int, flagged: bool) -> None:
    rows = np.arange(128)
    fooled = rows >= withstood
    again = {f"only:a/{name}": fooled for name in ("fooled", "scale_1", "scale_2")}
    again |= {"only:a/more_steps": np.zeros(128, dtype=bool), f"only:a/{what}": rows < fallen}
    samples = {"broken_at/joint": np.where(fooled, 1.0, np.inf)}
    evidence = Evidence({}, again, samples, np.zeros(128, dtype=bool), rows >= 0, 0, 1.0, False)
    found, checks = verdicts(evidence, cg.ThreatModel(a=cg.Linf(0.1)))
    name = {"more_steps": "attack_not_converged", "plain": "attack_view_weaker"}[what]
    assert [(f.name, f.modality) for f in found] == [(name, "a")] * flagged
    assert all(f" {fallen} of {withstood} samples that had withstood" in f.detail for f in found)
    assert checks["more_steps/only:a"]["samples"] == 128
    assert checks["more_steps/only:a"]["withstood"] == withstood


def on_grid(n: int = 60) -> cg.Batch:
    honest = linear(6, 4)
    batch = samples(honest, n, wrong=0.0)
    batch = batch.with_inputs({m: (2 * x).round() for m, x in batch.inputs.items()})
    return cg.Batch(batch.inputs, (honest.score(batch.inputs) <= 0).long().detach(), ids=batch.ids)


def test_a_defence_that_fires_on_large_changes_is_found_out() -> None:
    model = Purifier(dict(linear(6, 4).w), limit=0.22, both=False)
    threat = cg.ThreatModel(a=cg.Linf(0.2), b=cg.Linf(0.2))
    record = evaluate(model, Loader(on_grid(), 30), threat, protocol=PROTOCOL)
    assert "larger_budget_helps" in {f.name for f in record.flags}


def test_a_defence_that_fires_where_modalities_disagree_is_found_out() -> None:
    model = Purifier(dict(linear(6, 4).w), limit=0.02, both=True)
    threat = cg.ThreatModel(a=cg.Linf(0.3), b=cg.Linf(0.3))
    record = evaluate(model, Loader(on_grid(), 30), threat, protocol=PROTOCOL)
    assert "joint_weaker_than_single" in {f.name for f in record.flags}
    assert (record.broken_at("joint") <= record.broken_at("any_one")).all()


class Loose(cg.Linf):
    """A budget whose projection does not hold what it promises."""

    def around(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return cg.Linf(3 * self.eps, self.bounds).around(x, mask)


def test_successes_outside_the_budget_are_flagged_and_not_counted() -> None:
    model, batch = linear(6, 4), samples(linear(6, 4), 60, wrong=0.0)
    loose = cg.ThreatModel(a=Loose(0.12), b=Loose(0.2))
    record = evaluate(model, Loader(batch, 30), loose, protocol=PROTOCOL.with_options(scales=(1.0,), max_scale=1))
    assert "outside_budget" in {f.name for f in record.flags}
    honest = evaluate(model, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    assert (record.right("joint") >= honest.right("joint")).all()


def test_a_short_curve_is_not_taken_for_an_unbounded_attack() -> None:
    model, batch = linear(6, 4), samples(linear(6, 4), 60, wrong=0.0)
    short = PROTOCOL.with_options(scales=(1.0,), max_scale=1)
    record = evaluate(model, Loader(batch, 30), THREAT, protocol=short)
    assert record.right("joint").mean() > 0.1
    assert "unbounded" not in record.meta["checks"]
    assert record.flags == []


class Norms(Linear):
    """A length of zero has no gradient: sqrt has an infinite slope there."""

    def forward(self, inputs: cg.Inputs, mask: cg.Inputs | None = None) -> Tensor:  # pyright: ignore
        length = inputs["a"].square().sqrt()
        return super().forward({**inputs, "a": length})


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_that_break_down_are_flagged_where_they_are_attacked(masked: bool) -> None:
    model = Norms(dict(linear(6, 4).w))
    batch = samples(linear(6, 4), 60, wrong=0.0)
    batch.inputs["a"][:, 2] = 0.0
    real = torch.ones(60, 6, dtype=torch.bool)
    real[:, 2] = False
    with torch.no_grad():
        targets = model(batch.inputs).argmax(dim=1)
    batch = cg.Batch(batch.inputs, targets, mask={"a": real} if masked else {}, ids=batch.ids)
    record = evaluate(model, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    found = {(f.name, f.modality) for f in record.flags}
    assert (("non_finite_gradient", "a") in found) is not masked


def test_what_remedies_break_counts_in_the_figures() -> None:
    honest, bad = linear(200, 4), Detached(dict(linear(200, 4).w))
    batch, threat = samples(honest, 60, wrong=0.0), cg.ThreatModel(a=cg.Linf(0.05), b=cg.Linf(0.2))
    plain, record = (evaluate(m, Loader(batch, 30), threat, protocol=PROTOCOL) for m in (honest, bad))
    for condition in ("only:a", "joint"):
        assert abs(int(plain.right(condition).sum()) - int(record.right(condition).sum())) <= 1
    flag = next(f for f in record.flags if (f.name, f.modality) == ("no_gradient", "a"))
    assert "straight_through" in flag.detail
    assert record.meta["checks"]["failure/no_gradient/a"]["remedies"]["straight_through"] > 0
    assert "straight_through" in record.broken_by("only:a")
    assert not plain.flags


def test_probabilities_are_refused_and_the_way_on_gives_the_figures_of_logits() -> None:
    class Probable(Linear):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return super().forward(inputs).softmax(dim=1)

    honest, bad = linear(6, 4), Probable(dict(linear(6, 4).w))
    batch = samples(honest, 60, wrong=0.0)
    with pytest.raises(cg.ModelError, match="adapt"):
        evaluate(bad, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    logits = cg.adapt(bad, inputs=("a", "b"), style="dict", output="probabilities")
    one, two = (evaluate(m, Loader(batch, 30), THREAT, protocol=PROTOCOL).right("joint") for m in (honest, logits))
    assert (one == two).all()


def test_a_randomised_model_is_flagged_and_judged_in_the_mean_of_draws() -> None:
    class Noisy(Linear):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return super().forward({m: x + 0.05 * torch.randn_like(x) for m, x in inputs.items()})

    honest, bad = linear(6, 4), Noisy(dict(linear(6, 4).w))
    batch = samples(honest, 60, wrong=0.0)
    record = evaluate(bad, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    assert ("random_predictions", None) in {(f.name, f.modality) for f in record.flags}
    plain = evaluate(honest, Loader(batch, 30), THREAT, protocol=PROTOCOL)
    assert int(record.right("joint").sum()) <= int(plain.right("joint").sum()) + 2


def test_remedies_of_single_modalities_have_their_turn_though_joint_gained_by_none() -> None:
    class Uneven(nn.Module):
        """Loud logits that a underflows, and steps in b that tip nothing: other remedies for each."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, inputs: cg.Inputs) -> Tensor:
            s = inputs["a"].mean(dim=1) * 2e3 * self.w + 1e-3 * torch.round(inputs["b"].mean(dim=1) * 20)
            return torch.stack([-s, s], dim=1)

    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(32) % 2
    a = (2 * targets - 1)[:, None] * (0.3 + 0.4 * torch.rand(32, 1, generator=generator)).expand(-1, 4)
    batch = cg.Batch({"b": torch.rand(32, 4, generator=generator), "a": a}, targets, ids=tuple(map(str, range(32))))
    threat = cg.ThreatModel(b=cg.Linf(0.2), a=cg.Linf(0.5))
    record = evaluate(Uneven(), [batch], threat, protocol=PROTOCOL.with_options(scales=(1.0,), max_scale=1))
    assert len({f.modality for f in record.flags} & {"a", "b"}) == 2, "other remedies were found for each"
    assert record.right("only:b").all()
    assert record.right("joint").mean() < 0.7


class Gated(nn.Module):
    """Reads b only where a's first value opens a hard gate, and nothing but b there."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, inputs: cg.Inputs) -> Tensor:
        use = (inputs["a"][:, 0] > 5).float()
        s = (1 - use) * inputs["a"][:, 1] * self.w + use * inputs["b"].mean(dim=1) * self.w
        return torch.stack([-s, s], dim=1)


def gated(opened: range, n: int = 64) -> list[cg.Batch]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % 2
    clean = (2.0 * targets - 1)[:, None]
    inputs = {m: clean + 0.05 * torch.randn(n, 20, generator=generator) for m in "ab"}
    inputs["a"][:, 0] = torch.tensor([10.0 if i in opened else 0.0 for i in range(n)])
    batch = cg.Batch(inputs, targets, ids=tuple(map(str, range(n))))
    return [batch.take(range(i, i + 8)) for i in range(0, n, 8)]


@pytest.mark.parametrize("folder", [False, True])
def test_a_modality_that_only_later_batches_look_at_is_attacked_there(folder: bool, tmp_path: Path) -> None:
    threat = cg.ThreatModel(a=cg.Linf(0.3), b=cg.Linf(1.5))
    protocol = PROTOCOL.with_options(scales=(1.0, 2.0), max_scale=2)
    batches = gated(range(40, 64))
    out = tmp_path / "run" if folder else None
    if folder:  # stopped and gone on with

        def stop(stage: str, done: int, _: int | None) -> None:
            if stage == "conditions" and done == 7:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate(Gated(), batches, threat, protocol=protocol, out=out, progress=stop)
    record = evaluate(Gated(), batches, threat, protocol=protocol, out=out)
    turned = evaluate(Gated(), batches[::-1], threat, protocol=protocol)
    assert np.array_equal(record.right("only:b"), np.arange(64) < 40)
    assert record.right("only:a").all()
    for condition in ("only:b", "joint"):
        assert record.figure(condition).value == turned.figure(condition).value
    assert ("no_gradient", "b") not in {(f.name, f.modality) for f in turned.flags}
    checks = record.meta["checks"]
    assert checks["gradient/b"] == {
        "modality": "b", "passed": True, "share": 0.0, "zero": 0, "non_finite": 0, "samples": 24, "used": True
    }  # fmt: skip
    assert checks["more_steps/only:b"]["samples"] < checks["more_steps/only:a"]["samples"], "where it is looked at"
    assert "unbounded_attack_fails" not in {f.name for f in record.flags}
    assert not [key for key in record.samples if key.startswith("probe/")]


def test_a_modality_that_no_batch_looks_at_is_still_ignored() -> None:
    record = evaluate(Gated(), gated(range(0)), cg.ThreatModel(a=cg.Linf(1.5), b=cg.Linf(1.5)), protocol=PROTOCOL)
    assert not record.meta["checks"]["gradient/b"]["used"]
    assert "more_steps/only:b" not in record.meta["checks"]
    assert record.flags == []


class Median(nn.Module):
    """Nine frames have a vote each: who may change few of them cannot win."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, inputs: cg.Inputs) -> Tensor:
        s = inputs["x"].mean(dim=2).median(dim=1).values * self.w
        return torch.stack([-s, s], dim=1)


@pytest.mark.parametrize(
    ("budget", "frames"),
    [
        (cg.Linf(0.3, constraints=(cg.Frames(2, axis=1),)), None),
        (cg.Linf(0.3, constraints=(cg.Region(((7, 9), None)),)), None),
        (cg.Linf(0.3, constraints=(cg.FixedJoints((0, 1, 2, 3, 4, 5, 6)),)), None),
        (cg.Linf(0.3, constraints=(cg.JointWeights((0.0,) * 7 + (1.0, 1.0)),)), None),
        (cg.Linf(0.3), cg.AlignedFrames(2, {"x": 1})),
    ],
    ids=["frames", "region", "joints", "weights", "aligned"],
)
def test_no_attack_is_unbounded_whose_constraints_do_not_grow(budget: Budget, frames: cg.AlignedFrames | None) -> None:
    torch.manual_seed(0)
    targets = torch.arange(16) % 2
    x = (2.0 * targets - 1)[:, None, None] + 0.05 * torch.randn(16, 9, 3)
    batch = cg.Batch({"x": x}, targets, ids=tuple(map(str, range(16))))
    protocol = Protocol("quick", steps=2, scales=(1.0,), curve_steps=1, noise_trials=1, check_samples=0, max_scale=64)
    record = evaluate(Median(), [batch], cg.ThreatModel(x=budget, frames=frames), protocol=protocol)
    assert record.right("joint").all()
    assert record.scales[-1] == 16, "no further than where no end is foreseen"
    assert "unbounded" not in record.meta["checks"]
    found = failures(Median(), batch.inputs, targets, cg.ThreatModel(x=budget, frames=frames), ids=batch.ids, steps=4)
    assert "unbounded_attack_fails" not in {f.name for f in found}
