"""What an evaluation attacks: the view that a model offers of itself, and the level at which a model is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core.model import attack_view
from crossguard.evaluation import Protocol, Record, evaluate
from crossguard.evaluation.comparison import paired_difference
from crossguard.models.fusion import ExFMem
from crossguard.report import report
from crossguard.report.text import manner
from tests.evaluation.models import Linear, Loader, linear, margins, samples
from tests.models.test_cut import Net
from tests.models.test_exfmem import series, trained

QUICK = Protocol("quick", steps=5, scales=(1.0, 2.0), max_scale=2, curve_steps=4, noise_trials=2, check_samples=16,
                 clips=1)  # fmt: skip
EPS = {"a": 0.12, "b": 0.2}
THREAT = cg.ThreatModel({m: cg.Linf(e) for m, e in EPS.items()})


class View(nn.Module):
    """A linear model's scores, `sign` times, with `seen` of them in the gradient."""

    def __init__(self, model: Linear, sign: float = 1.0) -> None:
        super().__init__()
        self.model, self.sign = model, sign

    def forward(self, inputs: cg.Inputs) -> Tensor:
        s = self.sign * Linear.score(self.model, inputs)
        return torch.stack([s, torch.zeros_like(s)], dim=1)


class Hiding(Linear):
    """No gradient reaches a; an honest view tells it."""

    sign = 1.0

    def score(self, inputs: cg.Inputs) -> Tensor:
        return super().score({m: x.detach() if m == "a" else x for m, x in inputs.items()})

    def attack_view(self) -> nn.Module:
        return View(self, self.sign)


class Lying(Linear):
    """The gradient of its view leads away from what fools it."""

    def attack_view(self) -> nn.Module:
        return View(self, -1.0)


def worst(model: Linear, batch: cg.Batch, names: str) -> np.ndarray:
    loss = sum(EPS[m] * float(model.w[m].detach().abs().sum()) for m in names)
    return (margins(model, batch) - loss).numpy()


def test_attacks_follow_the_view() -> None:
    model = linear(5, 4, kind=Hiding)
    batch = samples(model, 48)
    record = evaluate(model, Loader(batch, 16), THREAT, protocol=QUICK)
    assert record.meta["model"]["attack_view"] == "View"
    assert record.flags == [], "the view has a gradient on a"
    for condition, names in (("only:a", "a"), ("only:b", "b"), ("joint", "ab")):
        expected = worst(model, batch, names)
        sure = np.abs(expected) > 1e-4
        assert np.array_equal(record.right(condition)[sure], (expected > 0)[sure])
        assert {k.partition("/")[2] for k in record.meta["checks"] if k.startswith("attack_view/")} >= {condition}

    class Mute(Hiding):
        attack_view = None

    mute = linear(5, 4, kind=Mute)
    without = evaluate(mute, Loader(batch, 16), THREAT, protocol=replace(QUICK, noise_trials=1))
    assert without.meta["model"]["attack_view"] is None
    assert ("no_gradient", "a") in {(f.name, f.modality) for f in without.flags}


def test_what_counts_is_what_the_model_itself_says() -> None:
    model = linear(5, 4, kind=Lying)
    batch = samples(model, 48)
    record = evaluate(model, Loader(batch, 16), THREAT, protocol=replace(QUICK, check_samples=40))
    # The view takes what is right for wrong, so that nothing is left to search on it; no sample is lost for that.
    assert np.array_equal(record.right("clean"), margins(model, batch).numpy() > 0)
    assert record.right("joint").mean() > (worst(model, batch, "ab") > 0).mean() + 0.1
    fooled = record.broken_at("joint") <= 1
    assert (record.samples["prediction/joint"][fooled] != record.samples["targets"][fooled]).all()
    (flag,) = [f for f in record.flags if f.name == "attack_view_weaker" and f.modality is None]
    assert "without its attack view" in flag.detail


def test_a_memory_with_constant_codes_is_attacked_through_the_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a blend of 1 its plain gradient is zero: only the unrolled iterations say how to fool it."""
    model = trained(ExFMem(size=48, iterations=10, penalty=0.01, blend=1.0, through=False))
    x, targets = series(16, 5)
    batch = cg.Batch(x, targets, ids=tuple(f"s{i}" for i in range(16)), groups=("g",) * 16)
    threat = cg.ThreatModel(a=cg.Linf(0.6), b=cg.Linf(0.6))
    few = replace(QUICK, scales=(1.0,), max_scale=1, check_samples=2, clips=0)
    seen = evaluate(model, [batch], threat, protocol=few)
    assert seen.meta["model"]["attack_view"] == "FusionModel"
    assert "no_gradient" not in {f.name for f in seen.flags}
    unrolled = trained(ExFMem(size=48, iterations=10, penalty=0.01, blend=1.0, through=True))
    unrolled.load_state_dict(model.state_dict())
    same = evaluate(unrolled, [batch], threat, protocol=few)
    assert same.meta["model"]["attack_view"] is None
    for condition in seen.conditions:
        assert np.array_equal(seen.right(condition), same.right(condition)), condition
    monkeypatch.setattr(cg.FusionModel, "attack_view", lambda self: self)
    plain = evaluate(model, [batch], threat, protocol=replace(few, check_samples=0))
    assert seen.right("joint").sum() < plain.right("joint").sum()


def test_views_that_are_no_models_of_the_task_are_refused() -> None:
    class Broken(Linear):
        def attack_view(self) -> object:
            return offered[0]

    offered: list[object] = ["nothing"]
    model = linear(5, 4, kind=Broken)
    with pytest.raises(cg.ModelError, match="gave str, expected a torch module"):
        evaluate(model, Loader(samples(model), 16), THREAT, protocol=QUICK)

    class Wide(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return inputs["a"]

    offered[0] = Wide()
    with pytest.raises(cg.ModelError, match=r"logits of shape \(16, 5\)"):
        evaluate(model, Loader(samples(model), 16), THREAT, protocol=QUICK)
    assert model.training, "it comes back as it was"


def test_another_view_is_another_evaluation(tmp_path: Path) -> None:
    model = linear(5, 4, kind=Hiding)
    loader = Loader(samples(model), 24)
    evaluate(model, loader, THREAT, protocol=QUICK, out=tmp_path)
    again = evaluate(model, loader, THREAT, protocol=QUICK, out=tmp_path)
    assert again.meta["model"]["attack_view"] == "View"
    Hiding.attack_view, kept = (lambda self: self), Hiding.attack_view
    try:
        with pytest.raises(cg.RunError, match="another view"):
            evaluate(model, loader, THREAT, protocol=QUICK, out=tmp_path)
    finally:
        Hiding.attack_view = kept


def test_a_view_passes_through_cuts_and_preprocessing() -> None:
    hiding = cg.FusionModel(
        {n: cg.models.SeriesNet(features=3, width=4) for n in "ab"}, ExFMem(size=4, through=False), 3
    ).eval()
    head, tail = cg.cut(hiding, {"a": "encoders.a.layer1"})
    x = {n: torch.randn(2, 8, 3) for n in "ab"}
    before = cg.attacks.Preprocessed(hiding, {"a": cg.attacks.BPDA(torch.round)})
    for wrapped, given in ((tail, head(x)), (before, x)):
        view = attack_view(wrapped.eval())
        assert view is not wrapped
        assert isinstance(view.viewed, cg.FusionModel)
        assert view.viewed.fusion.through
        assert torch.equal(view(given).logits, wrapped(given).logits)
        assert not any(m.training for m in hiding.modules())
    plain = cg.FusionModel({n: cg.models.SeriesNet(features=3, width=4) for n in "ab"}, cg.fusion.Concat(), 3)
    assert attack_view(cg.attacks.Preprocessed(plain, {}).eval()).viewed is plain


def test_the_record_says_at_which_level_a_cut_model_was_attacked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = cg.adapt(Net().eval(), inputs=("audio", "video"))
    inputs = {"audio": torch.randn(20, 80), "video": torch.randn(20, 7, 6)}
    targets = model(inputs).logits.argmax(1)
    ids = tuple(f"s{i}" for i in range(20))
    head, tail = cg.cut(model, {"audio": "net.frontend"})
    features = head(inputs)
    raw = evaluate(
        model, [cg.Batch(inputs, targets, ids=ids)], cg.ThreatModel(audio=cg.Linf(0.05), video=cg.Linf(0.05)),
        protocol=QUICK, out=tmp_path / "raw",
    )  # fmt: skip
    inner = cg.attacks.Preprocessed(tail, {})
    for number, of in enumerate((tail, inner)):
        record = evaluate(
            of, [cg.Batch(features, targets, ids=ids)], cg.ThreatModel(audio=cg.Linf(0.05), video=cg.Linf(0.05)),
            protocol=QUICK, out=tmp_path / f"cut{number}",
        )  # fmt: skip
        assert record.meta["model"]["level"] == {"audio": "net.frontend"}
    assert raw.meta["model"]["level"] == {}
    assert manner(raw.meta["model"]) == []
    (said,) = manner(record.meta["model"])
    assert "audio was attacked where net.frontend ends" in said
    with pytest.raises(cg.InputError, match=r"at other levels .*net\.frontend"):
        paired_difference(raw, record, "joint")
    html = report([tmp_path / "raw", tmp_path / "cut0"], tmp_path / "page.html").read_text()
    assert html.count("audio was attacked where net.frontend ends") == 2  # below the summary, and in the methods
    assert "cut0 was attacked at another level" in html


def test_records_of_before_say_nothing_and_compare(tmp_path: Path) -> None:
    model = linear(5, 4)
    record = evaluate(model, Loader(samples(model), 24), THREAT, protocol=QUICK)
    old = {k: v for k, v in record.meta["model"].items() if k not in ("level", "attack_view")}
    before = Record({**record.meta, "model": old}, record.samples)
    assert manner(before.meta["model"]) == []
    assert paired_difference(record, before, "joint").value == 0
