"""Studies whose Records are made by hand, so that tables are tested without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from crossguard.recipe.loading import dump, read_recipe
from crossguard.study import Run, Study, read_study
from tests.report.synthetic import make

RECIPES = Path(__file__).parents[2] / "recipes" / "figures"
GOOD = {"concat-standard": 0.2, "amr-adversarial": 0.6, "concat-adversarial": 0.5}


def folder(tmp_path: Path, study: str = "", names: tuple[str, ...] = tuple(GOOD)) -> Path:
    """A folder with some of the project's recipes, and a study.yaml of this text."""
    found = tmp_path / "recipes"
    found.mkdir(parents=True, exist_ok=True)
    for name in names:
        (found / f"{name}.yaml").write_text(dump(read_recipe(RECIPES / f"{name}.yaml")))
    if study:
        (found / "study.yaml").write_text(study)
    return found


def plant(run: Run, number: int = 0, **options: Any) -> None:
    """A Record where the run would have put one; the samples of a fold are its own."""
    name = run.recipe.name
    objective = "adversarial" if "adversarial" in name else "standard"
    make(run.folder, name, seed=number, accuracy=(0.9, GOOD[name]), objective=objective, **options)
    meta = json.loads((run.folder / "record.json").read_text())
    meta["recipe"] = {**run.recipe.document, "digest": run.recipe.digest}
    (run.folder / "record.json").write_text(json.dumps(meta))
    if run.fold is not None:
        with np.load(run.folder / "samples.npz") as file:
            samples = dict(file)
        samples["ids"] = np.array([f"{run.fold}/{i}" for i in samples["ids"]])
        np.savez_compressed(run.folder / "samples.npz", **samples)


def planted(tmp_path: Path, study: str = "", **options: Any) -> Study:
    """A study of which every run has its Record."""
    plan = read_study(folder(tmp_path, study), tmp_path / "out")
    for number, run in enumerate(plan.runs):
        plant(run, number, **options)
    return plan
