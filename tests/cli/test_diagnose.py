"""`crossguard diagnose` and `crossguard universal`, as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Crossguard

RECIPE = Path(__file__).parents[2] / "recipes" / "figures" / "concat-standard.yaml"


def test_a_run_is_diagnosed_and_its_universal_perturbations_shown_to_another(
    crossguard: Crossguard, small: list[str], tmp_path: Path
) -> None:
    settings = [x for s in small for x in ("--set", s)]
    for seed in (0, 1):
        run = tmp_path / f"run{seed}"
        assert crossguard("train", RECIPE, *settings, "--set", f"seed={seed}", "--out", run).exit_code == 0
    run = tmp_path / "run0"
    result = crossguard("diagnose", run, "--samples", 12, "--steps", 2)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(run / "diagnosis.json")
    assert "undefined (1 samples, 11 needed)" in result.stderr
    assert "nan" not in result.stdout.lower()
    found = json.loads((run / "diagnosis.json").read_text())
    assert found["name"] == "concat-standard"
    assert len(found["classes"]) == len(found["density"]["fused"])

    beside = tmp_path / "beside"
    few = ("--samples", 2, "--steps", 1, "--projection", "none")
    result = crossguard("diagnose", run, "--set", "threat.rgb.eps=8/255", *few, "--out", beside)
    assert result.stdout.splitlines()[-1] == str(beside / "diagnosis.json")
    assert json.loads((run / "diagnosis.json").read_text()) == found

    result = crossguard("universal", run, tmp_path / "run1", "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    assert "in-sample" in result.stdout
    table = json.loads((run / "universal" / "transfer.json").read_text())
    assert set(table) == {"run0", "run1"}
    assert set(table["run0"]) == {"run0 / joint", "run1 / joint"}
    again = crossguard("universal", run, "--epochs", 2)
    assert again.exit_code == 1
    assert "options differ" in again.stderr


def test_a_folder_without_a_training_is_refused(crossguard: Crossguard, tmp_path: Path) -> None:
    for command in ("diagnose", "universal"):
        result = crossguard(command, tmp_path)
        assert result.exit_code == 1
        assert "is no run folder" in result.stderr
    assert crossguard("universal", tmp_path / "a" / "x", tmp_path / "b" / "x").exit_code == 2


def test_help_teaches(crossguard: Crossguard) -> None:
    for command in ("diagnose", "universal"):
        assert f"crossguard {command} runs/" in crossguard(command, "--help").stdout
