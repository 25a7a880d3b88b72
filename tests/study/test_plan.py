from __future__ import annotations

from pathlib import Path

import pytest

import crossguard as cg
from crossguard.recipe import load
from crossguard.study import read_study
from tests.study.planted import RECIPES, folder


def test_recipes_times_seeds_each_in_a_folder_of_its_own(tmp_path: Path) -> None:
    plan = read_study(folder(tmp_path), tmp_path / "out", given={"seeds": [3, 5]}, settings=["train.epochs=2"])
    assert plan.names == ("amr-adversarial", "concat-adversarial", "concat-standard")
    assert [str(run.folder.relative_to(tmp_path / "out")) for run in plan.runs] == [
        f"{name}/seed-{seed}" for name in plan.names for seed in (3, 5)
    ]
    for run in plan.runs:
        settings = [f"seed={run.folder.name.removeprefix('seed-')}", "train.epochs=2"]
        assert run.recipe.digest == load(RECIPES / f"{run.recipe.name}.yaml", settings).digest
        assert not run.finished


def test_without_a_study_file_there_are_three_seeds_and_no_folds(tmp_path: Path) -> None:
    plan = read_study(folder(tmp_path), tmp_path / "out")
    assert (plan.seeds, plan.folds, plan.reference, plan.pairs) == ((0, 1, 2), (None,), None, ())
    assert plan.title == "recipes"


def test_the_study_that_comes_with_utd_mhad(tmp_path: Path) -> None:
    recipes = RECIPES.parent / "utd_mhad"
    plan = read_study(recipes, tmp_path, given={"folds": ["3", "8"], "seeds": [1]})
    assert plan.reference == "concat-standard"
    assert {run.folder.name: run.recipe.document["data"]["subject"] for run in plan.runs} == {"fold-3": 3, "fold-8": 8}
    assert {run.recipe.document["data"]["protocol"] for run in plan.runs} == {"leave_one_subject_out"}
    assert len(plan.runs) == 2 * len(plan.names)
    whole = read_study(recipes, tmp_path, given={"seeds": [0]})
    assert {run.recipe.document["data"]["protocol"] for run in whole.runs} == {"cross_subject"}


@pytest.mark.parametrize(
    ("study", "problem"),
    [
        ("sedes: [1]", "sedes: unknown key; did you mean 'seeds'?"),
        ("seeds: []", "seeds: found [], expected"),
        ("seeds: [1, 1]", "seeds: found [1, 1], expected each seed once"),
        ("seeds: [-1]", "seeds: found [-1]"),
        ("seeds: [true]", "seeds: found [True]"),
        ("reference: concat-standart", "reference: no recipe is named 'concat-standart'; did you mean"),
        ("pairs: [[amr-adversarial, conkat]]", "pairs: no recipe is named 'conkat'"),
        ("pairs: [[amr-adversarial]]", "pairs: found [['amr-adversarial']]"),
        ("fold: {option: data.seed, values: [1]}\nfolds: []", "folds: found []"),
        ("fold: {option: seed, values: [1, 2]}", "fold: seed: a study sets seeds itself"),
        ("fold: {option: data.seed, values: [1], settings: [name=x]}", "fold: name=x: a study sets seeds itself"),
        ("folds: [1]", "study.yaml: 1 problem\n  folds: found [1], but no `fold:"),
        ("folds: all", "folds: found 'all', but no `fold:"),
        ("fold: {option: data.seed, values: [1, 2]}\nfolds: [3]", "folds: no fold is named '3'; known: 1, 2"),
        ("fold: {option: data.seed}", "fold.values: missing"),
        ("fold: data.seed", "fold.values: missing"),
        ("fold: {option: data.sed, values: [1]}", "data.sed: unknown key; did you mean 'seed'?"),
        ("fold: {option: data.seed, values: [a/b]}", "folds: no fold is named 'a/b'"),
        ("settings: [seed=3]", "settings: seed=3: a study sets seeds itself"),
        ("settings: [train.epochss=3]", "train.epochss: unknown key"),
        ("seeds: [0", "study.yaml, line"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_runs(tmp_path: Path, study: str, problem: str) -> None:
    with pytest.raises(cg.RecipeError) as error:
        read_study(folder(tmp_path, study), tmp_path / "out")
    assert problem in str(error.value)
    assert not (tmp_path / "out").exists()


def test_every_bad_recipe_is_named_once(tmp_path: Path) -> None:
    recipes = folder(tmp_path)
    for name in ("amr-adversarial", "concat-standard"):
        (recipes / f"{name}.yaml").write_text("name: x\n")
    with pytest.raises(cg.RecipeError) as error:
        read_study(recipes, tmp_path / "out")
    assert str(error.value).count("amr-adversarial.yaml") == 1
    assert str(error.value).count("concat-standard.yaml") == 1


def test_two_recipes_of_one_name_would_share_a_folder(tmp_path: Path) -> None:
    recipes = folder(tmp_path)
    (recipes / "zwei.yaml").write_text((recipes / "concat-standard.yaml").read_text())
    with pytest.raises(cg.RecipeError, match="its name is 'concat-standard', as is that of c"):
        read_study(recipes, tmp_path / "out")


@pytest.mark.parametrize("name", ["amr.yml", "study.yml"])
def test_a_file_that_would_be_passed_over_is_refused(tmp_path: Path, name: str) -> None:
    recipes = folder(tmp_path)
    (recipes / name).write_text("seeds: [7]\n")
    with pytest.raises(cg.RecipeError, match=f"{name} would not be read: a study takes \\*.yaml; rename it"):
        read_study(recipes, tmp_path / "out")


def test_a_title_is_one_line(tmp_path: Path) -> None:
    assert read_study(folder(tmp_path, "title: |\n  One\n  two\n"), tmp_path / "out").title == "One two"


def test_every_seed_of_a_fold_has_the_recipe_that_it_would_have_alone(tmp_path: Path) -> None:
    plan = read_study(folder(tmp_path, "fold: {option: data.seed, values: [4, 9]}\nseeds: [2, 3]\n"), tmp_path / "out")
    assert len(plan.runs) == 12
    for run in plan.runs:
        alone = load(RECIPES / f"{run.recipe.name}.yaml", [f"data.seed={run.fold}", f"seed={run.recipe.seed}"])
        assert (run.recipe.digest, run.recipe.document) == (alone.digest, alone.document)
        assert run.folder.parent.name == f"seed-{run.recipe.seed}"


def test_a_folder_without_recipes(tmp_path: Path) -> None:
    with pytest.raises(cg.RecipeError, match="holds no recipes"):
        read_study(tmp_path, tmp_path / "out")


def test_a_folder_that_cannot_be_read_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, said in (("none", "No such file"), ("file", "Not a directory")):
        with pytest.raises(cg.RecipeError, match=f"could not read the folder .*{name}: {said}"):
            read_study(tmp_path / name, tmp_path / "out")


def test_no_folds_can_be_wanted_where_there_are_none(tmp_path: Path) -> None:
    assert read_study(folder(tmp_path), tmp_path / "out", given={"folds": "none"}).folds == (None,)
    folds = "fold: {option: data.seed, values: [1, 2]}"
    assert read_study(folder(tmp_path, folds), tmp_path / "out").folds == ("1", "2")
