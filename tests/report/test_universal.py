"""Universal perturbations of runs on their page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

import crossguard as cg
from crossguard.core.estimate import Estimate
from crossguard.evaluation.universal import universal_attacks
from crossguard.report import report
from crossguard.report.universal import panel, read
from tests.training.toys import TASK, THREAT, TwoBranch, dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "one"
    data = dataset("toy", 24, 0)
    batches = [data.read(range(24))]
    protocol = cg.Protocol(steps=2, curve_steps=1, noise_trials=1, check_samples=4, clips=0, max_scale=2.0)
    cg.evaluate(TwoBranch(), batches, THREAT, TASK, protocol, out=folder, modalities=data.modalities)
    return folder


def section(page: str) -> str:
    return page[page.index('<section id="universal">') : page.index("</section>", page.index('id="universal"'))]


def test_the_page_shows_what_the_command_left(run: Path, tmp_path: Path) -> None:
    assert 'id="universal"' not in report([run], tmp_path / "before.html").read_text()
    data = dataset("toy", 24, 0)
    batches = [data.read(range(24))]
    found = universal_attacks(TwoBranch(), batches, batches, THREAT, task=TASK, out=run / "universal", epochs=1)
    shown = section(report([run], tmp_path / "page.html").read_text())
    assert "all at once" in shown
    for estimate in (found.clean, *found.test.values()):
        assert f"{100 * estimate.value:.1f}" in shown
    assert f"in-sample {100 * found.in_sample['joint'].value:.1f}" in shown
    assert "Shown to other models" not in shown


def test_what_was_found_on_others_is_a_matrix_said_once(run: Path, tmp_path: Path) -> None:
    def e(value: float) -> dict[str, object]:
        return asdict(Estimate(value, value - 0.01, value + 0.01, 50))

    figures = {"clean": e(0.9), "conditions": {"joint": {"test": e(0.5), "in_sample": e(0.4)}}}
    transfer = {m: {"a / joint": e(0.123), "<b> / joint": e(0.456)} for m in ("a", "<b>")}
    (run / "universal").mkdir(exist_ok=True)
    (run / "universal" / "universal.json").write_text(json.dumps(figures))
    (run / "universal" / "transfer.json").write_text(json.dumps(transfer))
    both = read(run), read(run)
    drawn = panel(["a", "b"], both)
    assert drawn is not None
    assert len(drawn["matrices"]) == 1
    assert [row[0] for row in drawn["rows"]] == ["a", "b"]
    shown = section(report([run], tmp_path / "page.html").read_text())
    assert "12.3 <small>11.3 to 13.3</small>" in shown
    assert "&lt;b&gt; / joint" in shown
    assert "<b> /" not in shown


def test_models_that_read_other_modalities_stand_in_one_table() -> None:
    e = asdict(Estimate(0.5, 0.4, 0.6, 9))
    one = {"clean": e, "conditions": {"only:audio": {"test": e, "in_sample": e}}, "transfer": None}
    two = {"clean": e, "conditions": {"only:rgb": {"test": e, "in_sample": e}}, "transfer": None}
    drawn = panel(["one", "none", "two"], [one, None, two])
    assert drawn is not None
    assert drawn["conditions"] == ["only audio", "only rgb"]
    assert [[cell is None for cell in cells] for _, _, cells in drawn["rows"]] == [[False, True], [True, False]]
    assert panel(["none"], [None]) is None
    assert read(object()) is None
