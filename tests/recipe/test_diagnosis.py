"""A trained run looked into, beside what is known of others."""

from __future__ import annotations

from pathlib import Path

import pytest

import crossguard as cg
from crossguard.core import InputError
from crossguard.core.files import write_json, write_safetensors
from crossguard.data import Loader
from crossguard.recipe import load
from crossguard.recipe.diagnosis import diagnose_run, universal_runs
from crossguard.recipe.run import WEIGHTS, build_model, open_run
from crossguard.report import latents

RECIPE = Path(__file__).parents[2] / "recipes" / "figures" / "concat-standard.yaml"
SMALL = ("data.train=12", "data.validation=12", "data.test=12", "data.size=16", "data.frames=8")


def run_of(folder: Path, *settings: str) -> Path:
    """The folder of a run whose training is said to be finished, with the weights that it began from."""
    recipe = load(RECIPE, (*SMALL, *settings))
    recipe.save(folder)
    write_safetensors(folder / WEIGHTS, build_model(recipe, 12).state_dict())
    write_json(folder / "train.json", {})
    return folder


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("data.test=13", r"b \(13 samples\) have other sample ids than those of .*a \(12\)"),
        # Of another seed they have the same names and actions, by performers who were trained on elsewhere.
        ("data.seed=1", r"b \(12 samples\) have other inputs than those of .*a \(12\)"),
    ],
)
def test_runs_of_other_test_data_are_refused_before_any_work(tmp_path: Path, other: str, words: str) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "same", "seed=1"), run_of(tmp_path / "b", other)]
    with pytest.raises(InputError, match=words):
        universal_runs(runs, epochs=1)
    assert not any((run / "universal").exists() for run in runs)


def test_runs_that_differ_in_training_data_alone_are_judged_on_the_same_test_data(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b", "data.train=24")]
    found, matrix = universal_runs(runs, epochs=1)
    for name, own in found.items():
        assert matrix[name][f"{name} / joint"] == own.test["joint"]


def test_a_diagnosis_says_what_it_is_of_as_the_record_beside_it_does(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    recipe, splits, model = open_run(run)
    told = {**recipe.document, "digest": recipe.digest}
    protocol = cg.Protocol(steps=1, curve_steps=1, samples=4, check_samples=2, noise_trials=1, clips=0, max_scale=2.0)
    cg.evaluate(model, Loader(splits.test, 4), recipe.threat, protocol=protocol, out=run, recipe=told)
    diagnose_run(run, samples=2, steps=1, projection=None)
    found = latents.read(run, cg.Record.load(run).meta)
    assert found is not None
    assert found["differs"] == []
    other = ("threat.rgb.eps=8/255", "data.test=24")
    diagnose_run(run, other, out=tmp_path / "other", samples=2, steps=1, projection=None)
    found = latents.read(tmp_path / "other", cg.Record.load(run).meta)
    assert found is not None
    assert found["differs"] == ["data", "budgets"]
