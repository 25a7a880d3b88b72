"""evaluate() against models whose worst case is known, its resuming, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks.stages import EFFORTS
from crossguard.core.files import read_json
from crossguard.evaluation import Protocol, Record, evaluate
from crossguard.evaluation.conditions import settle
from tests.evaluation.models import Linear, Loader, Masked, linear, margins, samples

QUICK = Protocol("quick", steps=5, scales=(0.5, 1.0, 2.0), curve_steps=4, noise_trials=4, check_samples=16, clips=2)
EPS = {"a": 0.12, "b": 0.2, "c": 0.05}


def threat_for(model: Linear, **options: int) -> cg.ThreatModel:
    return cg.ThreatModel({m: cg.Linf(EPS[m]) for m in model.w}, **options)


def exact(model: Linear, batch: cg.Batch, names: tuple[str, ...], scale: float) -> np.ndarray:
    """(N,) worst-case margin with these modalities attacked at this scale."""
    loss = sum(float(EPS[m] * scale * model.w[m].detach().abs().sum()) for m in names)
    return (margins(model, batch) - loss).numpy()


def clear(*worst: np.ndarray) -> np.ndarray:
    """Samples whose fate rounding cannot decide."""
    return np.all([np.abs(w) > 1e-4 for w in worst], axis=0)


@pytest.mark.parametrize("sizes", [(6, 4), (5, 3, 4), (6,)])
def test_every_condition_equals_the_closed_form(sizes: tuple[int, ...]) -> None:
    model = linear(*sizes)
    batch = samples(model, 60)
    record = evaluate(model, Loader(batch, 16), threat_for(model), protocol=QUICK)
    names = tuple(model.w)
    assert record.samples["ids"].tolist() == list(batch.ids)
    assert np.array_equal(record.right("clean"), margins(model, batch).numpy() > 0)
    singles = {m: exact(model, batch, (m,), 1.0) for m in names}
    joint = exact(model, batch, names, 1.0)
    sure = clear(joint, *singles.values())
    for m in names:
        assert np.array_equal(record.right(f"only:{m}")[sure], (singles[m] > 0)[sure])
    assert np.array_equal(record.right("any_one")[sure], (np.min(list(singles.values()), axis=0) > 0)[sure])
    assert np.array_equal(record.right("joint")[sure], (joint > 0)[sure])
    assert 0 < record.right("joint").sum() < record.right("clean").sum(), "the budgets must tell samples apart"
    fooled = ~record.right("joint")
    assert (record.samples["prediction/joint"][fooled & sure] != record.samples["targets"][fooled & sure]).all()
    assert record.flags == []


def test_broken_at_is_the_first_scale_of_the_grid_that_suffices() -> None:
    model = linear(6, 4)
    batch = samples(model, 60)
    record = evaluate(model, Loader(batch, 16), threat_for(model), protocol=QUICK)
    assert record.scales[:3] == [0.5, 1.0, 2.0]
    for condition, names in (("only:a", ("a",)), ("only:b", ("b",)), ("joint", ("a", "b"))):
        worst = {s: exact(model, batch, names, s) for s in record.scales}
        expected = np.full(60, np.inf)
        for s in reversed(record.scales):
            expected[worst[s] <= 0] = s
        expected[margins(model, batch).numpy() <= 0] = 0
        sure = clear(*worst.values())
        assert sure.sum() > 55
        assert np.array_equal(record.broken_at(condition)[sure], expected[sure].astype(np.float32))
        assert np.array_equal(record.right(condition), record.broken_at(condition) > 1)


def test_each_sample_says_who_broke_it_how_and_at_what_cost() -> None:
    model = linear(6, 4)
    batch = samples(model, 60)
    record = evaluate(model, Loader(batch, 16), threat_for(model), protocol=QUICK)
    found, stages = record.samples, [s["name"] for s in record.meta["stages"]]
    for condition in ("only:a", "only:b", "any_one", "joint"):
        by, broken = found[f"broken_by/{condition}"], record.broken_at(condition)
        assert np.array_equal(by == "", broken > 1)
        assert np.array_equal(by == "clean", broken == 0)
        assert set(by) <= {"", "clean", "noise", "singles together", *stages}
        assert sum(record.broken_by(condition).values()) == (broken <= 1).sum()
        assert list(record.broken_by(condition).values()) == sorted(record.broken_by(condition).values(), reverse=True)
    assert set(found["broken_with/only:a"]) == {"", "a"}
    assert set(found["broken_with/any_one"]) - {""} <= {"a", "b"}
    assert "a+b" in set(found["broken_with/joint"]), "some need both"
    attacked = record.broken_at("only:a") > 0
    assert (found["forwards/only:a"][~attacked] == 0).all()
    assert (found["backwards/only:a"][attacked] > 0).all()
    survived = record.broken_at("only:a") > 1
    # Once at half the budget, and once by each stage: a look before, one at each point, and one after.
    assert (found["forwards/only:a"][survived] == (4 + 3) + 2 * (5 + 3)).all()
    assert (found["backwards/only:a"][survived] == 4 + 2 * 5).all()
    work = record.meta["work"]["only:a"]
    assert found["forwards/only:a"].sum() <= work["forwards"]


def test_a_record_of_before_attribution_has_none() -> None:
    model = linear(6, 4)
    record = evaluate(model, Loader(samples(model), 16), threat_for(model), protocol=QUICK)
    kept = {k: v for k, v in record.samples.items() if not k.startswith("broken_by/")}
    assert Record(record.meta, kept).broken_by("joint") == {}


def test_the_thorough_protocol_ends_with_random_search(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = tuple(replace(s, steps=6 if s.follows else 80) for s in EFFORTS["thorough"])
    monkeypatch.setitem(EFFORTS, "thorough", stages)
    model = linear(3, 3)
    few = {"scales": (1.0,), "max_scale": 1, "check_samples": 0, "clips": 0, "noise_trials": 1}
    record = evaluate(model, Loader(samples(model, 40), 16), threat_for(model), protocol=Protocol("thorough", **few))
    assert [s["name"] for s in record.meta["stages"]] == [s.name for s in EFFORTS["thorough"]]
    survived = record.broken_at("only:a") > 1
    # Two classes: there is one wrong one, so of nine rivals the first is left.
    assert (record.samples["backwards/only:a"][survived] == 3 * 6).all()
    assert (record.samples["forwards/only:a"][survived] == 3 * (6 + 3) + 80 + 3).all()


def test_a_protocol_may_be_named() -> None:
    model = linear(6, 4)
    loader = Loader(samples(model, 16), 16)
    record = evaluate(model, loader, threat_for(model), protocol="quick")
    assert record.meta["protocol"] == Protocol.named("quick").to_dict()
    with pytest.raises(cg.RecipeError, match="quick"):
        evaluate(model, loader, threat_for(model), protocol="fast")


def test_curves_fall_and_end_where_the_joint_attack_leaves_one_percent() -> None:
    model = linear(6, 4)
    record = evaluate(model, Loader(samples(model, 60), 16), threat_for(model), protocol=QUICK)
    for condition in ("only:a", "only:b", "any_one", "joint"):
        curve = record.curve(condition)
        values = [e.value for _, e in curve]
        assert values == sorted(values, reverse=True)
        assert values[0] == record.summary()["clean"]["accuracy"].value
        at_one = next(e for s, e in curve if s == 1)
        assert at_one == record.summary()[condition]["accuracy"]
    assert record.curve("joint")[-1][1].value <= 0.01 < record.curve("joint")[-2][1].value


def test_a_bounded_modality_alone_may_leave_a_plateau_without_a_flag() -> None:
    model = Linear({"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([9.0])})
    batch = samples(model, 40, wrong=0.0)
    batch = batch.with_inputs({m: x.sigmoid() * 2 - 1 for m, x in batch.inputs.items()})
    batch = cg.Batch(batch.inputs, (model.score(batch.inputs) <= 0).long().detach(), ids=batch.ids)
    threat = cg.ThreatModel({m: cg.Linf(0.02, bounds=(-1, 1)) for m in "ab"})
    record = evaluate(model, Loader(batch, 40), threat, protocol=QUICK)
    assert record.curve("only:a")[-1][1].value > 0.3
    assert record.curve("joint")[-1][1].value <= 0.01
    assert record.flags == []


@pytest.mark.parametrize("kind", [Linear, Masked])
def test_missing_means_masked_out_or_filled(kind: type[Linear]) -> None:
    model = linear(6, 4, kind=kind)
    batch = samples(model, 40)
    record = evaluate(model, Loader(batch, 16), threat_for(model), protocol=QUICK)
    fill = {m: x.mean(dim=1, keepdim=True).expand_as(x) for m, x in batch.inputs.items()}
    for m in "ab":
        gone = torch.zeros_like(batch.inputs[m]) if kind is Masked else fill[m]
        expected = margins(model, batch.with_inputs({**batch.inputs, m: gone}))
        np.testing.assert_allclose(record.samples[f"margin/missing:{m}"], expected, atol=1e-5)
        lost = record.right("clean").mean() - (expected.numpy() > 0).mean()
        assert record.reliance()[m].value == pytest.approx(lost)
    assert record.meta["model"]["missing_fill"] == ("mask" if kind is Masked else "mean")


def test_absent_modalities_are_neither_attacked_nor_counted() -> None:
    model = linear(6, 4, kind=Masked)
    batch = samples(model, 40, wrong=0.0)
    there = torch.arange(40) % 2 == 0
    mask = {"a": there[:, None], "b": there}
    batch = cg.Batch(batch.inputs, batch.targets, mask=mask, ids=batch.ids)
    record = evaluate(model, Loader(batch, 16), threat_for(model), protocol=QUICK)
    for condition in ("only:a", "only:b", "joint", "noise"):
        gone = ~there.numpy()
        assert (record.samples[f"margin/{condition}"][gone] == record.samples["margin/clean"][gone]).all()
    assert not any(f.name == "unbounded_attack_fails" for f in record.flags)


def test_contribution_is_the_winning_logit_minus_that_without_the_modality() -> None:
    model = linear(6, 4, kind=Masked)
    batch = samples(model, 30)
    record = evaluate(model, Loader(batch, 16), threat_for(model), protocol=QUICK)
    for m in "ab":
        with torch.no_grad():
            part = batch.inputs[m] @ model.w[m]
            first = model.score(batch.inputs) >= 0
        expected = torch.where(first, part, torch.zeros_like(part))
        np.testing.assert_allclose(record.samples[f"contribution/clean/{m}"], expected, atol=1e-5)
        assert f"contribution/joint/{m}" in record.samples
        assert f"contribution/any_one/{m}" in record.samples


def test_single_source_adversary_makes_joint_the_worst_of_one() -> None:
    model = linear(6, 4)
    record = evaluate(model, Loader(samples(model), 16), threat_for(model, at_most=1), protocol=QUICK)
    assert np.array_equal(record.right("joint"), record.right("any_one"))


def test_a_threat_without_budgets_changes_nothing() -> None:
    model = linear(6, 4)
    threat = cg.ThreatModel(a=cg.Linf(0.0), b=cg.Linf(0.0))
    record = evaluate(model, Loader(samples(model), 16), threat, protocol=QUICK)
    assert record.conditions == ["clean", "missing:a", "missing:b", "noise", "any_one", "joint"]
    for condition in ("noise", "any_one", "joint"):
        assert np.array_equal(record.samples[f"margin/{condition}"], record.samples["margin/clean"])
    assert record.flags == []


def test_a_unimodal_model_stands_in_the_same_table() -> None:
    model = linear(6)
    batch = samples(model)
    batch = batch.with_inputs({**batch.inputs, "b": torch.randn(48, 4)})
    threat = cg.ThreatModel(a=cg.Linf(EPS["a"]), b=cg.Linf(EPS["b"]))
    record = evaluate(model, Loader(batch, 16), threat, protocol=QUICK)
    assert np.array_equal(record.right("only:b"), record.right("clean"))
    assert np.array_equal(record.right("joint"), record.right("only:a"))
    assert record.flags == []


def outlined() -> tuple[cg.FusionModel, cg.Batch]:
    """Clips whose outline and whose series each tell which of two classes they are of, and a committee of both."""
    torch.manual_seed(0)
    targets = torch.arange(24) % 2
    depth, series = torch.rand(24, 1, 4, 8, 8) + 1, torch.randn(24, 9, 2) + 2 * targets[:, None, None]
    mask = torch.zeros(24, 1, 4, 8, 8, dtype=torch.bool)
    mask[targets == 0, :, :2, :, :4] = mask[targets == 0, :, 2:, :, 4:] = True  # one goes right, the other left
    mask[targets == 1, :, :2, :, 4:] = mask[targets == 1, :, 2:, :, :4] = True
    batch = cg.Batch({"depth": depth, "series": series}, targets, {"depth": mask}, tuple(map(str, range(24))))
    encoders = {
        "depth": cg.models.OutlineNet(size=8, segments=2, width=8, shift=0),
        "series": cg.models.SeriesNet(features=2, width=4),
    }
    model = cg.FusionModel(encoders, cg.fusion.Concat(), 2, inference="committee", trust={"fused": 0.0, "series": 0.5})
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        output = model(batch.inputs, batch.mask, need=("auxiliary",))
        assert output.auxiliary is not None
        loss = sum(nn.functional.cross_entropy(x, targets) for x in output.auxiliary.values())
        assert isinstance(loss, torch.Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), batch


def test_no_attack_moves_what_is_seen_of_a_mask_and_no_flag_says_that_it_is_blind() -> None:
    model, batch = outlined()
    threat = cg.ThreatModel(depth=cg.Linf(1.0), series=cg.Linf(2.0))
    record = evaluate(model, [batch], threat, protocol=replace(QUICK, max_scale=1024.0))
    assert record.right("clean").all()
    assert np.array_equal(record.samples["margin/only:depth"], record.samples["margin/clean"])
    assert np.array_equal(record.right("joint"), record.right("only:series"))
    assert record.right("joint").all()  # the trust in the series is less than that in the outline
    assert not np.array_equal(record.samples["margin/missing:depth"], record.samples["margin/clean"])
    assert record.flags == []


class Tagger(nn.Module):
    """Five labels, linear in two modalities."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(4, 5)

    def forward(self, inputs: cg.Inputs) -> torch.Tensor:
        return self.a(inputs["a"]) + self.b(inputs["b"])


def test_several_labels_are_ranked_under_an_attack_on_the_ranking() -> None:
    torch.manual_seed(1)
    model = Tagger()
    inputs = {"a": torch.randn(50, 6), "b": torch.randn(50, 4)}
    with torch.no_grad():
        targets = (model(inputs) > 0.3).float()
    batch = cg.Batch(inputs, targets, ids=tuple(map(str, range(50))))
    record = evaluate(model, Loader(batch, 20, tuple("vwxyz")), threat_for(linear(6, 4)), protocol=QUICK)
    summary = record.summary()
    assert summary["clean"]["hit@1"].value == targets.any(dim=1).double().mean()  # nine samples have no label to hit
    for metric in ("hit@1", "map", "gap"):
        clean, joint = summary["clean"][metric], summary["joint"][metric]
        assert clean.value >= summary["only:a"][metric].value > joint.value
        assert metric == "hit@1" or clean.value > summary["only:a"][metric].value
        assert joint.low <= joint.value <= joint.high
    assert summary["clean"]["map"].value == pytest.approx(1.0)
    assert len(record.by_class("joint")) == 5
    assert set(record.meta["ranked_by"]) == {"only:a", "only:b", "any_one", "joint"}
    assert not [key for key in record.samples if key.count("/") > 1 and key.startswith("scores/")]


def test_of_the_attacks_on_a_ranking_the_worst_for_the_whole_set_counts() -> None:
    """By hand: one list of all entries, the best first; a margin lost in one sample may cost less than a score."""
    truth = np.array([[1, 0], [0, 1]])
    whole = np.array([[0.9, 0.1], [0.2, 0.8]])  # right, right, wrong, wrong
    first = np.array([[0.7, 0.75], [0.2, 0.8]])  # right, wrong, right, wrong
    last = np.array([[0.7, 0.1], [0.85, 0.8]])  # wrong, right, right, wrong
    arrays = {
        "targets": truth, "scores/clean": whole, "scores/joint": whole, "scores/joint/cross_entropy": first,
        "scores/joint/margin": last, "scores/only:a": first, "scores/only:a/cross_entropy": whole,
        "scores/only:a/margin": whole,
    }  # fmt: skip
    found = settle(arrays)
    assert found == {"joint": "margin", "only:a": "accuracy"}
    assert arrays["scores/joint"] is last
    assert arrays["scores/only:a"] is first
    assert set(arrays) == {"targets", "scores/clean", "scores/joint", "scores/only:a"}
    assert cg.metrics.gap(last, truth) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert cg.metrics.gap(first, truth) == pytest.approx((1 + 2 / 3) / 2)
    climbed = {f"scores/{c}{tail}": whole for c in ("only:a", "joint") for tail in ("", "/cross_entropy", "/margin")}
    arrays = {"targets": truth, **climbed, "scores/only:a/margin": last}
    assert settle(arrays) == {"only:a": "margin", "joint": "only:a"}, "who may do more may do less"
    assert arrays["scores/joint"] is last


def test_the_model_comes_back_as_it_was() -> None:
    model = linear(6, 4)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, Loader(samples(model), 16), threat_for(model), protocol=QUICK)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("stage", "done"), [("conditions", 1), ("scale 4", 1), ("checks", 1)])
def test_a_stopped_evaluation_goes_on_to_the_same_bits(tmp_path: Path, stage: str, done: int) -> None:
    model = linear(6, 4)
    loader, threat = Loader(samples(model, 30), 16), threat_for(model)
    whole = evaluate(model, loader, threat, protocol=QUICK, out=tmp_path / "whole")

    def stop(now: str, number: int, total: int | None) -> None:
        if (now, number) == (stage, done):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, loader, threat, protocol=QUICK, out=tmp_path / "run", progress=stop)
    assert not (tmp_path / "run" / "record.json").exists()
    evaluate(model, loader, threat, protocol=QUICK, out=tmp_path / "run")
    again = Record.load(tmp_path / "run")
    assert set(again.samples) == set(whole.samples)
    for key, value in whole.samples.items():
        assert np.array_equal(again.samples[key], value), key
    assert set(again.clips) == set(whole.clips)
    assert all(np.array_equal(again.clips[k], whole.clips[k]) for k in whole.clips)
    assert again.flags == whole.flags
    assert again.meta["checks"] == whole.meta["checks"]
    for condition, cost in whole.meta["work"].items():
        assert again.meta["work"][condition]["forwards"] == cost["forwards"]
    assert not (tmp_path / "run" / "parts").exists()


def test_memory_and_folder_give_the_same_record(tmp_path: Path) -> None:
    model = linear(6, 4)
    loader, threat = Loader(samples(model), 16), threat_for(model)
    kept = evaluate(model, loader, threat, protocol=QUICK)
    written = evaluate(model, iter(list(loader)), threat, protocol=QUICK, out=tmp_path / "run")
    assert all(np.array_equal(kept.samples[k], written.samples[k]) for k in kept.samples)
    kept.save(tmp_path / "copy")
    assert Record.load(tmp_path / "copy").summary() == written.summary()
    finished = (tmp_path / "run" / "record.json").stat().st_mtime_ns
    evaluate(model, loader, threat, protocol=QUICK, out=tmp_path / "run")
    assert (tmp_path / "run" / "record.json").stat().st_mtime_ns == finished


def test_another_evaluation_in_the_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    model = linear(6, 4)
    loader = Loader(samples(model), 16)

    def stop(now: str, number: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, loader, threat_for(model), protocol=QUICK, out=tmp_path, progress=stop)
    with pytest.raises(cg.RunError, match="seed"):
        evaluate(model, loader, threat_for(model), protocol=QUICK, out=tmp_path, seed=1)
    with pytest.raises(cg.RunError, match="another model"):
        evaluate(linear(6, 4, seed=9), loader, threat_for(model), protocol=QUICK, out=tmp_path)
    with pytest.raises(cg.RunError, match="other samples"):
        evaluate(model, Loader(samples(model), 12), threat_for(model), protocol=QUICK, out=tmp_path)


def test_other_data_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    model = linear(6, 4)
    batch = samples(model, 48)
    x = batch.inputs["a"].clone()
    x[40] += 1
    others = [batch.with_inputs({**batch.inputs, "a": x}), replace(batch, targets=1 - batch.targets)]
    threat = threat_for(model)

    def stop(now: str, number: int, total: int | None) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, Loader(batch, 16), threat, protocol=QUICK, out=tmp_path / "stopped", progress=stop)
    evaluate(model, Loader(batch, 16), threat, protocol=QUICK, out=tmp_path / "done")
    for where in ("stopped", "done"):
        for other in others:
            with pytest.raises(cg.RunError, match=r"other inputs|another data"):
                evaluate(model, Loader(other, 16), threat, protocol=QUICK, out=tmp_path / where)
    evaluate(model, Loader(batch, 12), threat, protocol=QUICK, out=tmp_path / "done")  # batches may differ


def test_other_samples_or_another_forward_are_refused(tmp_path: Path) -> None:
    model = linear(6, 4)
    batch, threat = samples(model, 48), threat_for(model)
    first, both = [batch.take(range(24))], [batch.take(range(24)), batch.take(range(24, 48))]

    class Edited(type(model)):  # type: ignore[misc]
        """The same weights, another forward."""

        def score(self, inputs: cg.Inputs) -> torch.Tensor:
            return -super().score(inputs)

    edited = Edited({m: w.detach() for m, w in model.w.items()}, float(model.bias.detach()))
    edited.__class__.__qualname__ = type(model).__qualname__

    def stop(now: str, number: int, total: int | None) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, both, threat, protocol=QUICK, out=tmp_path / "stopped", progress=stop)
    evaluate(model, first, threat, protocol=QUICK, out=tmp_path / "done")
    with pytest.raises(cg.RunError, match="24 samples with other ids than these 48"):
        evaluate(model, both, threat, protocol=QUICK, out=tmp_path / "done")
    with pytest.raises(cg.RunError, match="code has changed"):
        evaluate(edited, first, threat, protocol=QUICK, out=tmp_path / "done")
    with pytest.raises(cg.RunError, match="code has changed"):
        evaluate(edited, both, threat, protocol=QUICK, out=tmp_path / "stopped")


def test_the_cap_on_samples_keeps_classes_apart_from_where_they_lie() -> None:
    model = linear(6, 4)
    batch = samples(model, 60)
    order = batch.targets.argsort().tolist()
    record = evaluate(model, Loader(batch.take(order), 16), threat_for(model), protocol=QUICK.with_options(samples=20))
    assert np.bincount(record.samples["targets"]).tolist() == [10, 10]


def test_results_do_not_depend_on_how_samples_are_batched() -> None:
    model = linear(6, 4).double()
    batch = samples(model.float(), 40)
    model, batch = model.double(), batch.with_inputs({m: x.double() for m, x in batch.inputs.items()})
    one = evaluate(model, Loader(batch, 40), threat_for(model), protocol=QUICK)
    many = evaluate(model, Loader(batch, 7), threat_for(model), protocol=QUICK)
    for condition in one.conditions:
        assert np.array_equal(one.right(condition), many.right(condition))
    assert np.array_equal(one.broken_at("joint"), many.broken_at("joint"))


def test_record_json_is_plain_and_counts_work() -> None:
    model = linear(6, 4)
    record = evaluate(
        model, Loader(samples(model), 16), threat_for(model), protocol=QUICK, name="mine", recipe={"x": 1}
    )
    meta = json.loads(json.dumps(record.meta, allow_nan=False))
    assert (meta["name"], meta["recipe"], meta["complete"]) == ("mine", {"x": 1}, True)
    assert cg.ThreatModel.from_dict(meta["threat"]) == threat_for(model)
    assert meta["work"]["joint"]["backwards"] > 0
    assert meta["work"]["clean"]["forwards"] == 48
    assert meta["work"]["missing:a"]["backwards"] == 0
    clip = next(c for c in meta["clips"] if c["margins"]["clean"] > 0)
    x = record.clips[f"{clip['index']}/a/joint"]
    delta = np.abs(x - record.clips[f"{clip['index']}/a/clean"]).max()
    assert 0 < delta <= EPS["a"] * (1 + 1e-5)
    assert set(clip["predictions"]) == {"clean", "noise", "only:a", "only:b", "any_one", "joint"}


def test_models_keep_clips_of_the_same_samples_one_a_class() -> None:
    batch = samples(linear(6, 4), 48)
    options = {"protocol": QUICK.with_options(clips=8)}
    kept = [evaluate(m, Loader(batch, 16), threat_for(m), **options).meta["clips"]
            for m in (linear(6, 4), linear(6, 4, seed=9))]  # fmt: skip
    assert [c["id"] for c in kept[0]] == [c["id"] for c in kept[1]]
    assert sorted(c["target"] for c in kept[0]) == [0, 1]


class Probabilities(Linear):
    def forward(self, inputs: cg.Inputs) -> torch.Tensor:
        return super().forward(inputs).softmax(dim=1)


class Unanswering(Linear):
    """Answers NaN wherever its margin would be below 1."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        logits = super().forward(inputs)
        return torch.where(logits[:, :1].abs() < 1, torch.nan, logits)


@pytest.mark.parametrize("several", [False, True])
def test_nan_answers_are_wrong_and_said(several: bool, tmp_path: Path) -> None:
    model = linear(6, 4, kind=Unanswering)
    batch = samples(model, 48, wrong=0.0)
    batch = batch.take((margins(model, batch) >= 1).nonzero().flatten().tolist())
    lost = {"only:a": exact(model, batch, ("a",), 1.0) < 1, "joint": exact(model, batch, ("a", "b"), 1.0) < 1}
    assert all(0 < rows.sum() < len(batch) for rows in lost.values())
    if several:
        batch = replace(batch, targets=nn.functional.one_hot(batch.targets, 2))
    record = evaluate(model, Loader(batch, 16), threat_for(model), protocol=QUICK, out=tmp_path / "run")
    assert record.right("clean").all()
    assert all(np.array_equal(record.right(c), ~rows) for c, rows in lost.items())
    assert record.meta["checks"]["finite_answers"]["only:a"] == lost["only:a"].sum()
    assert any(flag.name == "non_finite_answers" for flag in record.flags)
    if several:
        gap = {c: record.figure(c).value for c in record.conditions}
        assert gap["joint"] <= gap["any_one"] <= gap["only:a"] < gap["clean"]
    assert cg.report([tmp_path / "run"], out=tmp_path / "page").exists()


def bad(**change: object) -> cg.Batch:
    batch = samples(linear(6, 4), 8)
    return cg.Batch(**{**{f: getattr(batch, f) for f in ("inputs", "targets", "mask", "ids", "groups")}, **change})


def with_nan() -> cg.Batch:
    batch = bad()
    batch.inputs["a"][3, 0] = float("nan")
    return batch


REFUSED = [
    ("nan", with_nan, cg.InputError, "s3"),
    ("targets", lambda: bad(targets=torch.full((8,), 2)), cg.InputError, r"span \[2, 2\]"),
    ("ids", lambda: bad(ids=("x",) * 8), cg.InputError, "two samples have the id 'x'"),
    ("absent", lambda: bad(inputs={"a": torch.randn(8, 6)}), cg.CrossguardError, "'b'"),
    ("rank", lambda: bad(inputs={"a": torch.randn(8, 6, 1), "b": torch.randn(8, 4)}), cg.InputError, "expected 2 axes"),
    ("dtype", lambda: bad(inputs={"a": torch.ones(8, 6).int(), "b": torch.randn(8, 4)}), cg.InputError, "torch.int32"),
    ("mask", lambda: bad(mask={"a": torch.ones(8)}), cg.InputError, "mask of 'a'"),
]


@pytest.mark.parametrize(("make", "error", "words"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_bad_input_is_refused_before_any_attack(make, error, words, tmp_path: Path) -> None:
    model, batch = linear(6, 4), make()
    modalities = {m: cg.Modality(m, "ND", "unit") for m in "ab"}
    with pytest.raises(error, match=words):
        evaluate(model, [batch], threat_for(model), protocol=QUICK, modalities=modalities, out=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing may be half-written"


def test_probabilities_empty_loaders_and_unknown_modalities_are_refused() -> None:
    model = linear(6, 4)
    loader = Loader(samples(model), 16)
    with pytest.raises(cg.ModelError, match="output='probabilities'"):
        evaluate(Probabilities(dict(model.w)), loader, threat_for(model), protocol=QUICK)
    with pytest.raises(cg.InputError, match="no samples"):
        evaluate(model, [], threat_for(model), protocol=QUICK)
    with pytest.raises(cg.ThreatError, match="'c'"):
        evaluate(model, loader, cg.ThreatModel(c=cg.Linf(1.0)), protocol=QUICK)
    with pytest.raises(cg.InputError, match="class names"):
        evaluate(model, loader, threat_for(model), protocol=QUICK, classes=("one",))


def test_a_device_where_the_model_is_not_is_refused() -> None:
    batch = cg.Batch({"a": torch.zeros(2, 3)}, torch.tensor([0, 1]))
    with pytest.raises(cg.InputError, match="model is on cpu; move the model first"):
        evaluate(cg.adapt(nn.Linear(3, 2), inputs=("a",)), [batch], cg.ThreatModel(a=cg.Linf(0.1)), device="meta")


def test_a_record_of_another_format_or_a_truncated_one_is_refused(tmp_path: Path) -> None:
    model = linear(6, 4)
    evaluate(model, Loader(samples(model), 16), threat_for(model), protocol=QUICK, out=tmp_path / "run")
    file = tmp_path / "run" / "samples.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(cg.RunError, match=r"samples\.npz"):
        Record.load(tmp_path / "run")
    meta = read_json(tmp_path / "run" / "record.json") | {"format": 99}
    (tmp_path / "run" / "record.json").write_text(json.dumps(meta))
    with pytest.raises(cg.RunError, match="format 99"):
        Record.load(tmp_path / "run")
