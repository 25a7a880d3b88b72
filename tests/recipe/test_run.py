"""A run folder, opened again: its recipe, its weights, and data whose classes are still those it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crossguard.core import RunError
from crossguard.core.files import read_json, write_json
from crossguard.data import Splits, TensorDataset
from crossguard.recipe import evaluate_run, load, load_splits, train_run
from crossguard.recipe.run import open_run

RECIPE = Path(__file__).parents[2] / "recipes" / "figures" / "concat-standard.yaml"
SMALL = (
    *("data.train=24", "data.validation=12", "data.test=12", "data.frames=8", "data.size=16"),
    *("train.epochs=1", "train.batch_size=12"),
)


def named(splits: Splits, classes: tuple[str, ...]) -> Splits:
    def part(of: object) -> TensorDataset:
        assert isinstance(of, TensorDataset)
        return replace(of, classes=classes)

    return Splits(part(splits.train), part(splits.validation), part(splits.test))


def test_classes_of_another_name_or_order_are_refused(tmp_path: Path) -> None:
    recipe = load(RECIPE, SMALL)
    splits = load_splits(recipe)
    train_run(recipe, tmp_path / "run", splits=splits)
    assert open_run(tmp_path / "run", splits=splits)[1] is splits

    a, b, *rest = splits.classes
    n = len(splits.classes)
    swapped = named(splits, (b, a, *rest))
    for other, words in (
        (swapped, rf"trained on {n} classes, the data have {n}, class 0 was '{a}', is '{b}'"),
        (named(splits, (*splits.classes, "new")), rf"trained on {n} classes, the data have {n + 1}; give the data"),
    ):
        with pytest.raises(RunError, match=words):
            evaluate_run(tmp_path / "run", splits=other)
    assert not (tmp_path / "run" / "record.json").exists()

    # A folder of an earlier version has no list of classes: opened as before.
    said = read_json(tmp_path / "run" / "train.json")
    write_json(tmp_path / "run" / "train.json", {k: v for k, v in said.items() if k != "classes"})
    open_run(tmp_path / "run", splits=swapped)
