"""The diagnosis of a run on its page."""

from __future__ import annotations

import json
from pathlib import Path

import crossguard as cg
from crossguard.diagnostics.diagnose import diagnose
from crossguard.report import report
from tests.training.toys import TASK, THREAT, TwoBranch, dataset


def test_the_page_shows_what_diagnose_left(tmp_path: Path) -> None:
    data = dataset("toy", 24, 0)
    batches = [data.read(range(24))]
    protocol = cg.Protocol(steps=2, curve_steps=1, noise_trials=1, check_samples=4, clips=0, max_scale=2.0)
    cg.evaluate(TwoBranch(), batches, THREAT, TASK, protocol, out=tmp_path / "run", modalities=data.modalities)
    before = report([tmp_path / "run"], tmp_path / "before.html").read_text()
    assert 'id="latents"' not in before
    found = diagnose(TwoBranch(), data, THREAT, task=TASK, samples=20, steps=2)
    found["classes"][0] = "<b>left"
    (tmp_path / "run" / "diagnosis.json").write_text(json.dumps(found))
    page = report([tmp_path / "run"], tmp_path / "page.html").read_text()
    section = page[page.index('<section id="latents">') : page.index("</section>", page.index('id="latents"'))]
    assert section.count("<circle") >= 24
    assert "&lt;b&gt;left" in section
    assert "<b>left" not in page
    assert "2 rows, 5 needed" in section
    assert "nan" not in section.lower().replace("dominan", "")
    few = diagnose(TwoBranch(), data.subset(range(12)), THREAT, task=TASK, samples=12, steps=2, projection=None)
    (tmp_path / "run" / "diagnosis.json").write_text(json.dumps(few))
    page = report([tmp_path / "run"], tmp_path / "few.html").read_text()
    assert "undefined <small>6 samples, 11 needed</small>" in page
    assert "<polyline" not in page[page.index('<section id="latents">') : page.index("Density and convexity by class")]
