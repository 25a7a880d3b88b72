"""The diagnosis of a run on its page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from torch import Tensor

import crossguard as cg
from crossguard.diagnostics.diagnose import diagnose
from crossguard.evaluation.store import model_hash
from crossguard.report import latents, report
from tests.training.toys import TASK, THREAT, TwoBranch, dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, data = tmp_path_factory.mktemp("run") / "one", dataset("toy", 24, 0)
    protocol = cg.Protocol(steps=2, curve_steps=1, noise_trials=1, check_samples=4, clips=0, max_scale=2.0)
    options = {"modalities": data.modalities, "recipe": {"data": {"name": "toy"}}}
    cg.evaluate(TwoBranch(), [data.read(range(24))], THREAT, TASK, protocol, out=folder, **options)
    return folder


def section(page: str) -> str:
    return page[page.index('<section id="latents">') : page.index("</section>", page.index('id="latents"'))]


def test_the_page_shows_what_diagnose_left(run: Path, tmp_path: Path) -> None:
    data = dataset("toy", 24, 0)
    before = report([run], tmp_path / "before.html").read_text()
    assert 'id="latents"' not in before
    found = diagnose(TwoBranch(), data, THREAT, task=TASK, samples=20, steps=2)
    found["classes"][0] = "<b>left"
    (run / "diagnosis.json").write_text(json.dumps(found))
    page = report([run], tmp_path / "page.html").read_text()
    shown = section(page)
    assert shown.count("<circle") >= 24
    assert "&lt;b&gt;left" in shown
    assert "<b>left" not in page
    assert "2 rows, 5 needed" in shown
    assert "nan" not in shown.lower().replace("dominan", "")
    few = diagnose(TwoBranch(), data.subset(range(12)), THREAT, task=TASK, samples=12, steps=2, projection=None)
    (run / "diagnosis.json").write_text(json.dumps(few))
    page = report([run], tmp_path / "few.html").read_text()
    assert "undefined <small>6 samples, 11 needed</small>" in page
    assert "<polyline" not in page[page.index('<section id="latents">') : page.index("Density and convexity by class")]


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"weights": model_hash(TwoBranch(seed=1))}, ["weights"]),
        ({"data": {"name": "toy", "fold": 1}}, ["data"]),
        ({"data": {}, "budgets": THREAT.scaled(2).to_dict()}, ["data", "budgets"]),
        ({}, []),
    ],
)
def test_a_diagnosis_of_other_weights_data_or_budgets_is_told(
    run: Path, other: dict[str, object], differs: list[str]
) -> None:
    own = {"weights": model_hash(TwoBranch()), "data": {"name": "toy"}, "budgets": THREAT.to_dict()}
    (run / "diagnosis.json").write_text(json.dumps({"format": 1, "of": {**own, **other}}))
    found = latents.read(run, cg.Record.load(run).meta)
    assert found is not None
    assert found["differs"] == differs


def test_the_page_leaves_it_out_and_says_how_to_make_it_anew_and_what_could_not_be_measured(
    run: Path, tmp_path: Path
) -> None:
    (run / "diagnosis.json").write_text(json.dumps({"format": 1, "of": {"data": {}, "budgets": {}}}))
    other = shutil.copytree(run, tmp_path / "logits")

    class Logits(TwoBranch):
        def forward(self, inputs: cg.Inputs) -> Tensor:  # type: ignore[override]
            return super().forward(inputs).logits

    found = diagnose(Logits(), dataset("toy", 24, 0), THREAT, task=TASK, samples=8, steps=1)
    (other / "diagnosis.json").write_text(json.dumps(found))
    left_out, rest = section(report([run, other], tmp_path / "page.html").read_text()).split("</article>")[:2]
    assert "of other data and budgets than the evaluation" in left_out
    assert "crossguard diagnose RUN" in left_out
    assert "<table" not in left_out
    assert "Share of each modality" in rest
    assert "Not measured: latents: the model returns no latents" in rest
    assert "by class</summary>" not in rest
