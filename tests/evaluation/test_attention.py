"""What an evaluation writes down of attention, and how the page shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import crossguard as cg
from crossguard.core.batch import Output
from crossguard.data import Loader
from crossguard.data.base import TensorDataset
from crossguard.models import FrameTransformer, FusionModel
from crossguard.models.fusion import JointTransformer
from crossguard.models.maps import drift, entropy

THREAT = cg.ThreatModel(rgb=cg.Linf(0.4), audio=cg.Linf(0.2))
QUICK = cg.Protocol("quick", scales=(1.0,), steps=2, clips=2, check_samples=0, max_scale=1.0, noise_trials=1)


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    parts = {"width": 8, "heads": 2, "dropout": 0.0, "layers": 0, "pool": "mean"}
    encoders = {n: FrameTransformer(features=d, **parts) for n, d in (("rgb", 5), ("audio", 3))}
    fusion = JointTransformer(join="frames", width=8, heads=2, dropout=0.0)
    return FusionModel(encoders, fusion, 3, auxiliary=False).eval()


def dataset(model: FusionModel, n: int = 40, several: bool = False) -> TensorDataset:
    g = torch.Generator().manual_seed(3)
    inputs = {m: 2 * torch.randn(n, 6, d, generator=g) for m, d in (("rgb", 5), ("audio", 3))}
    real = torch.arange(6) < torch.randint(1, 7, (n, 1), generator=g)
    mask = dict.fromkeys(inputs, real)
    logits = model(inputs, mask).logits.detach()
    targets = (logits > logits.median()).float() if several else logits.argmax(dim=1)
    modalities = {m: cg.Modality(m, "NTD", "unit") for m in inputs}
    return TensorDataset("toy", modalities, tuple("abc"), inputs, targets, mask)


@pytest.fixture(scope="module")
def record(model: FusionModel) -> cg.Record:
    return cg.evaluate(model, Loader(dataset(model), 20), THREAT, protocol=QUICK)


def test_entropy_and_clips_are_those_of_the_model(model: FusionModel, record: cg.Record) -> None:
    data = dataset(model)
    whole = data.read(range(40))
    maps = model(whole.inputs, whole.mask, need=("attention",)).attention
    assert maps is not None
    for i, a in enumerate(maps):
        found = record.samples[f"attention/entropy/clean/{i}"]
        np.testing.assert_allclose(found, entropy(a).detach().numpy(), rtol=1e-4, atol=1e-6)
        assert found.shape == (40, 2)
    assert "attention/drift/clean/0" not in record.samples
    entry = record.meta["clips"][0]
    row = record.samples["ids"].tolist().index(entry["id"])
    given = record.clips[f"{entry['index']}/attention/clean/2"]
    np.testing.assert_allclose(given, maps[2][row].mean(dim=(0, 1)).detach().numpy(), rtol=1e-4, atol=1e-6)


def test_drift_is_from_the_clean_maps_to_those_of_the_attacked_clip(model: FusionModel, record: cg.Record) -> None:
    for condition in ("only:rgb", "joint"):
        for i in range(3):
            moved = record.samples[f"attention/drift/{condition}/{i}"]
            assert moved.shape == (40, 2)
            assert moved.max() > 1e-4
    whole = dataset(model).read(range(40))
    entry = record.meta["clips"][0]
    row = record.samples["ids"].tolist().index(entry["id"])
    one = whole.take([row])
    after = {**one.inputs, "rgb": torch.as_tensor(record.clips[f"{entry['index']}/rgb/only:rgb"])[None]}
    before, now = (model(x, one.mask, need=("attention",)).attention for x in (one.inputs, after))
    for i, (a, b) in enumerate(zip(before, now, strict=True)):
        expected = drift(a, b)[0].detach().numpy()
        np.testing.assert_allclose(record.samples[f"attention/drift/only:rgb/{i}"][row], expected, rtol=1e-3, atol=1e-6)


def test_of_several_labels_the_ranked_points_are_looked_at(model: FusionModel) -> None:
    found = cg.evaluate(model, Loader(dataset(model, 12, several=True), 12), THREAT, protocol=QUICK)
    assert found.samples["attention/drift/joint/0"].shape == (12, 2)


def test_models_without_attention_pay_nothing_and_say_nothing() -> None:
    calls = []

    class Blind(torch.nn.Module):
        def forward(self, inputs: cg.Inputs, need: tuple[str, ...] = ()) -> Output:
            calls.extend(["attention"] * len(inputs["rgb"]) if "attention" in need else [])
            return Output(inputs["rgb"].mean(dim=1)[:, :3] + inputs["audio"].mean(dim=1))

    batch = cg.Batch({"rgb": torch.randn(12, 6, 5), "audio": torch.randn(12, 6, 3)}, torch.arange(12) % 3)
    found = cg.evaluate(Blind(), [batch], THREAT, protocol=QUICK)
    assert not any(key.startswith("attention/") for key in found.samples)
    assert len(calls) == 4  # one sample a condition is asked


def test_it_is_on_the_page_and_only_there_where_it_was_measured(record: cg.Record, tmp_path: Path) -> None:
    text = cg.report([record], tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<section id="attention">' in text
    assert 'href="#attention"' in text
    mean = record.samples["attention/entropy/clean/0"].mean()
    section = text[text.index('<section id="attention">') : text.index("</section>", text.index('id="attention"'))]
    assert f"<td>{mean:.2f}</td>" in section
    assert section.count("<svg") == len(record.meta["clips"])
    assert section.count("<polyline") == 2 * len(record.meta["clips"])
    bare = {k: v for k, v in record.samples.items() if not k.startswith("attention/")}
    plain = cg.report([cg.Record(record.meta, bare, record.clips)], tmp_path / "plain.html").read_text(encoding="utf-8")
    assert 'id="attention"' not in plain
    assert 'href="#attention"' not in plain


def test_samples_without_a_real_query_say_nothing_of_attention(model: FusionModel, tmp_path: Path) -> None:
    whole = dataset(model).read(range(12))
    gone = torch.arange(12) >= 8
    mask = {m: real & ~gone[:, None] for m, real in whole.mask.items()}
    batch = cg.Batch(whole.inputs, whole.targets, mask=mask, ids=tuple(map(str, range(12))))
    found = cg.evaluate(model, [batch], THREAT, protocol=QUICK)
    for key in ("attention/entropy/clean/0", "attention/entropy/joint/0", "attention/drift/joint/0"):
        assert np.isnan(found.samples[key][8:]).all(), key
        assert np.isfinite(found.samples[key][:8]).all(), key
    text = cg.report([found], tmp_path / "page.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="attention">') : text.index("</section>", text.index('id="attention"'))]
    assert f"<td>{np.nanmean(found.samples['attention/entropy/clean/0']):.2f}</td>" in section
    assert "nan" not in section


class Rows(torch.nn.Module):
    """Two rows of maps a sample, such as two persons of a clip, of which the second may be absent."""

    def forward(self, inputs: cg.Inputs, mask: cg.Inputs | None = None, need: tuple[str, ...] = ()) -> Output:
        x = inputs["x"]
        maps = torch.full((2 * len(x), 1, 3, 3), 1 / 3)
        maps[1::2] *= (torch.arange(len(x)) < 2)[:, None, None, None]
        return Output(torch.stack([x.sum(dim=1), -x.sum(dim=1)], dim=1), attention=(maps,))


def test_rows_that_are_absent_do_not_count_in_a_sample() -> None:
    batch = cg.Batch({"x": torch.randn(4, 3)}, torch.arange(4) % 2, ids=tuple("abcd"))
    found = cg.evaluate(Rows(), [batch], cg.ThreatModel(x=cg.Linf(0.1)), protocol=QUICK)
    np.testing.assert_allclose(found.samples["attention/entropy/clean/0"], 1, rtol=1e-5)
