"""Predictors of robustness, projections and the whole diagnosis of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard import Batch, Inputs
from crossguard.core.batch import Feature
from crossguard.diagnostics.diagnose import diagnose
from crossguard.diagnostics.predictors import predictors
from crossguard.diagnostics.projection import attack_paths, project
from tests.training.toys import TASK, THREAT, TwoBranch, dataset, splits


class Slopes(nn.Module):
    """Six classes on a line each in its own column: the margin of class c is 2 x_c and its distance to the other side
    x_c (L-inf), so that clean margin, slope and robustness are known."""

    def forward(self, inputs: Inputs) -> Tensor:
        return inputs["a"] - inputs["a"].flip(1)


def lines() -> Batch:
    targets = torch.arange(60) % 6
    size = 0.1 + 0.1 * targets.float()
    x = torch.zeros(60, 6).scatter(1, targets[:, None], size[:, None])
    return Batch({"a": x}, targets, ids=tuple(str(i) for i in range(60)))


def test_predictors_of_a_model_whose_robustness_is_known() -> None:
    rows = {r.name: r for r in predictors(Slopes(), [lines()], cg.ThreatModel(a=cg.Linf(0.25)), steps=30)}
    assert set(rows) == {"density", "convexity", "margin", "gradient", "fgsm", "fmn"}
    assert rows["margin"].by_class == pytest.approx([0.1 + 0.1 * c for c in range(6)], abs=1e-6)
    assert rows["margin"].correlation.value == 1.0
    # The margin to the next class falls by 2 (or 1) a unit of L-inf, so sizes grow with the class.
    sizes = rows["fmn"].by_class
    assert sizes == sorted(sizes)
    assert rows["fgsm"].by_class[0] == 0.0
    assert rows["fgsm"].by_class[5] == 1.0
    assert all(v < 0 for v in rows["gradient"].by_class)
    assert (rows["margin"].price.forwards, rows["margin"].price.backwards) == (60, 0)
    assert (rows["gradient"].price.forwards, rows["gradient"].price.backwards) == (60, 60)
    assert rows["fmn"].price.forwards > 60 * 10
    for name in ("density", "convexity"):
        assert rows[name].by_class == []
        assert "latents" in rows[name].note or "branches" in rows[name].note
    assert rows["margin"].partial.said() == "undefined (6 rows, 7 needed)"


def test_the_slope_is_the_dual_norm() -> None:
    class Line(nn.Module):
        def forward(self, inputs: Inputs) -> Tensor:
            z = inputs["a"] @ torch.tensor([3.0, -1.0]) + inputs["b"] @ torch.tensor([0.0, 2.0])
            return torch.stack([z, -z], dim=1)

    batch = Batch({n: torch.zeros(5, 2) for n in "ab"}, torch.zeros(5, dtype=torch.int64))
    threat = cg.ThreatModel(a=cg.Linf(0.5), b=cg.L2(0.25))
    (row,) = [r for r in predictors(Line(), [batch], threat, task=TASK, steps=2) if r.name == "gradient"]
    # d loss / d z at z = 0 is -1: 0.5 (3 + 1) + 0.25 x 2.
    assert row.by_class[0] == pytest.approx(-2.5, abs=1e-5)
    assert row.by_class[1] != row.by_class[1], "a class without samples has none"


def test_pca_shows_what_varies_and_paths_begin_at_their_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(50, 2, generator=generator)
    x = torch.cat([plane, torch.zeros(50, 3)], dim=1)
    ways = torch.stack([x[:4], x[:4] + 1.0], dim=1)
    found = project(x, ways)
    assert found.explained == pytest.approx(1.0, abs=1e-6)
    apart = [torch.pdist(v.double()) for v in (found.points, plane)]
    torch.testing.assert_close(*apart, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.paths[:, 0], found.points[:4])
    assert found.paths.shape == (4, 2, 2)
    placed = project(x, ways, method="tsne")
    assert placed.points.shape == (50, 2)
    assert placed.explained is None
    again = project(x, ways, method="tsne")
    assert torch.equal(placed.points, again.points)
    with pytest.raises(cg.InputError, match="expected"):
        project(x[:4])


def test_paths_go_from_clean_to_attacked() -> None:
    model = TwoBranch()
    batch = dataset("toy", 8, 0).read(range(8))
    found = cg.attacks.pgd(model, batch.inputs, batch.targets, THREAT).inputs
    ways = attack_paths(model, batch, found, shares=(0.5, 1.0))
    model.eval()
    for t, inputs in ((0, batch.inputs), (2, found)):
        expected = model(inputs, need=("latents",)).latents["fused"]
        torch.testing.assert_close(ways[:, t], expected.detach())
    assert ways.shape[:2] == (8, 3)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    config = cg.TrainConfig(epochs=4, batch_size=20, learning_rate=0.02)
    return cg.train(
        TwoBranch(), splits(), task=TASK, threat=None, objective=cg.defences.Standard(), config=config
    ).model


def test_the_whole_diagnosis_is_json_and_says_what_is_undefined(trained: nn.Module) -> None:
    data = dataset("toy", 60, 9)
    stages: list[str] = []
    found = diagnose(trained, data, THREAT, task=TASK, samples=40, steps=5, progress=lambda s, n, k: stages.append(s))
    text = json.dumps(found, allow_nan=False)
    assert "NaN" not in text
    assert found["seen"] == [30, 30]
    assert found["samples"] == 40
    assert set(found["density"]) == set(found["contrast"]) == {"a", "b", "fused"}
    assert set(found["convexity"]) == {"all", "ends right", "only:a", "only:b"}
    assert found["density"]["fused"][0]["value"] > 0
    shares = found["shapley"]
    assert all(set(by_name) == {"a", "b"} for by_name in shares.values())
    assert shares["clean"]["a"]["n"] == 40
    assert len(found["projection"]["points"]) == 60
    assert len(found["projection"]["paths"]) == len(found["projection"]["path_labels"]) > 0
    assert [r["name"] for r in found["predictors"]] == ["density", "convexity", "margin", "gradient", "fgsm", "fmn"]
    assert found["predictors"][0]["correlation"]["reason"] == "2 rows, 5 needed"
    assert set(stages) == {"latents", "attacks", "predictors"}
    few = diagnose(trained, data.subset(range(12)), THREAT, task=TASK, samples=12, steps=2, projection=None)
    assert few["density"]["a"][0] == {
        "value": None, "low": None, "high": None, "n": 6, "reason": "6 samples, 11 needed"
    }  # fmt: skip
    assert few["projection"] == {}


class Viewed(nn.Module):
    """`Slopes` with no gradient of its own; its view has one, and answers `sign` times as much."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, inputs: Inputs) -> Tensor:
        return Slopes()({"a": inputs["a"].detach() + 0 * inputs["a"]})

    def attack_view(self) -> nn.Module:
        return Times(self.sign)


class Times(Slopes):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, inputs: Inputs) -> Tensor:
        return self.sign * super().forward(inputs)


def test_predictors_follow_the_view_of_a_model() -> None:
    threat = cg.ThreatModel(a=cg.Linf(0.25))
    plain, seen = ({r.name: r for r in predictors(m, [lines()], threat, steps=30)} for m in (Slopes(), Viewed()))
    for name in ("margin", "gradient", "fgsm", "fmn"):
        assert seen[name].by_class == plain[name].by_class, name
    for name in ("fgsm", "fmn"):
        assert seen[name].price.forwards == plain[name].price.forwards + 60, "the model itself was asked as well"


def test_what_counts_for_predictors_is_what_the_model_itself_says() -> None:
    """A view that takes what is right for wrong leaves every sample where it is, and the model is still right."""
    rows = {r.name: r for r in predictors(Viewed(-1.0), [lines()], cg.ThreatModel(a=cg.Linf(0.25)), steps=30)}
    assert rows["margin"].by_class == pytest.approx([0.1 + 0.1 * c for c in range(6)], abs=1e-6)
    assert rows["fgsm"].by_class == [1.0] * 6
    assert rows["fmn"].by_class == [float("inf")] * 6


class Hidden(nn.Module):
    """A trained model; where it `hides`, its plain gradient is 0, and its view is the one that does not."""

    def __init__(self, model: nn.Module, hides: bool) -> None:
        super().__init__()
        self.model, self.hides = model, hides

    def forward(self, inputs: Inputs, *, need: Sequence[str] = ()) -> cg.Output:
        return self.model({n: x.detach() + 0 * x if self.hides else x for n, x in inputs.items()}, need=need)

    def attack_view(self) -> nn.Module:
        return Hidden(self.model, False) if self.hides else self


def test_a_diagnosis_attacks_through_the_view(trained: nn.Module) -> None:
    options = {"task": TASK, "samples": 40, "steps": 5, "projection": None}
    plain, seen = (
        diagnose(Hidden(trained, hides), dataset("toy", 40, 9), THREAT, **options)["shapley"] for hides in (False, True)
    )
    assert seen["joint"] == plain["joint"] != plain["clean"]


class Net(nn.Module):
    """Somebody's model, which returns logits alone; its feature maps are (N, 4, 3)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head = nn.Conv1d(2, 4, 1), nn.Linear(12, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.body(torch.stack([a, b], dim=1)).relu().flatten(1))


def test_of_an_adapted_model_all_is_measured_but_what_needs_latents_and_these_can_be_named() -> None:
    model, data = cg.adapt(Net(), inputs=["a", "b"]), dataset("toy", 40, 9)
    options = {"task": TASK, "samples": 20, "steps": 5}
    without = diagnose(model, data, THREAT, **options)
    assert without["notes"] == {"latents": "the model returns no latents; name submodules: at={'fused': 'path.of.one'}"}
    for name in ("density", "contrast", "convexity", "projection"):
        assert without[name] == {}
    assert without["seen"] is None
    found = diagnose(model, data, THREAT, at={"fused": "net.body"}, **options)
    assert found["shapley"] == without["shapley"]
    assert found["seen"] == [20, 20]
    assert set(found["density"]) == set(found["contrast"]) == {"fused"}
    assert set(found["notes"]) == {"convexity"}
    assert "with branches" in found["notes"]["convexity"]
    assert found["predictors"][0]["name"] == "density"
    assert len(found["projection"]["points"]) == 40
    assert len(found["projection"]["paths"]) > 0
    other = diagnose(model, data, THREAT, at={"maps": "net.body"}, **options)
    assert other["notes"]["projection"] == "no latent is named 'fused'; there are ['maps']"
    with pytest.raises(cg.ModelError, match=r"no submodule 'body' for the latent 'fused'; did you mean 'net.body'"):
        diagnose(model, data, THREAT, at={"fused": "body"}, **options)


class FusedAlone(TwoBranch):
    def fuse(self, features: dict[str, Feature], need: Sequence[str] = ()) -> cg.Output:
        whole = super().fuse(features, need)
        return replace(whole, latents=None if whole.latents is None else {"fused": whole.latents["fused"]})


def test_branches_without_latents_of_their_own_have_a_convexity() -> None:
    found = diagnose(FusedAlone(), dataset("toy", 24, 9), THREAT, task=TASK, samples=10, steps=1, projection=None)
    assert set(found["density"]) == {"fused"}
    assert set(found["convexity"]) == {"all", "ends right", "only:a", "only:b"}


class Watched(TwoBranch):
    """Takes no notice of its inputs, but of how many samples it is handed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def fuse(self, features: dict[str, Feature], need: Sequence[str] = ()) -> cg.Output:
        self.most = max(self.most, len(features["a"].value))
        return super().fuse({n: Feature(0 * f.value) for n, f in features.items()}, need)


def test_nothing_is_asked_of_more_samples_at_once_than_a_batch_has_and_no_figure_is_certain() -> None:
    model = Watched()
    options = {"task": TASK, "samples": 40, "steps": 1, "batch_size": 8, "projection": None}
    found = diagnose(model, dataset("toy", 40, 9), THREAT, **options)
    assert model.most == 8
    for estimate in found["shapley"]["clean"].values():
        assert estimate["value"] == 0.0
        assert estimate["low"] == pytest.approx(-0.088, abs=1e-3)
        assert estimate["high"] == pytest.approx(0.088, abs=1e-3)


def test_predictors_of_no_samples_are_refused() -> None:
    with pytest.raises(cg.InputError, match="yields no samples"):
        predictors(TwoBranch(), [], THREAT, task=TASK)


def test_a_batch_is_no_data_set() -> None:
    batch = dataset("toy", 4, 0).read(range(4))
    with pytest.raises(cg.InputError, match="diagnose: found Batch, expected a data set"):
        diagnose(TwoBranch(), batch, THREAT, task=TASK)  # type: ignore[arg-type]
