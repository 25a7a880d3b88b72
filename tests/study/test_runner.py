"""Real runs, tiny, in processes of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import crossguard as cg
from crossguard.core.files import locked
from crossguard.study import Study, read_study, results, run_study

RECIPE = """
name: {name}
data: {{name: figures, train: 24, validation: 12, test: 12, size: 16, frames: 4}}
model:
  encoders:
    skeleton: {{name: hcn, frames: {frames}, width: {width}}}
objective: standard
threat: {{skeleton: {{norm: linf, eps: 0.03}}}}
train: {{epochs: 1, batch_size: 24, validation_steps: 1}}
evaluate:
  protocol: {{name: quick, steps: 1, curve_steps: 1, noise_trials: 1, check_samples: 4, clips: 1, max_scale: 2, scales: [1]}}
  batch_size: 12
"""  # noqa: E501


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    place = tmp_path_factory.mktemp("study")
    recipes = place / "recipes"
    recipes.mkdir()
    for name, frames, width in (("narrow", 4, 4), ("wide", 4, 8), ("broken", 8, 4)):
        (recipes / f"{name}.yaml").write_text(RECIPE.format(name=name, frames=frames, width=width))
    return read_study(recipes, place / "out", given={"seeds": [0, 1], "reference": "narrow"})


def created(plan: Study) -> dict[str, str]:
    return {r.label: str((r.folder / "record.json").stat().st_mtime_ns) for r in plan.runs if r.finished}


def test_a_study_from_end_to_end(study: Study) -> None:
    said: list[tuple[str, str]] = []
    failures = run_study(study, jobs=2, report=lambda run, phase, *_: said.append((run.label, phase)))
    assert sorted(f.run.label for f in failures) == ["broken, seed 0", "broken, seed 1"]
    assert all("does not fit the data" in f.reason for f in failures)
    assert "RecipeError" in (failures[0].run.folder / "error.txt").read_text()
    done = sorted(label for label, phase in said if phase == "finished")
    assert done == ["narrow, seed 0", "narrow, seed 1", "wide, seed 0", "wide, seed 1"]
    found = results(study)
    assert [row.name for row in found.rows] == ["narrow", "wide"]
    assert found.notes == ("not finished, 2 of 6 runs: broken",)
    by_hand = [cg.Record.load(r.folder).right("joint").mean() for r in study.runs if r.recipe.name == "wide"]
    assert found.rows[1].conditions["joint"]["accuracy"].value == pytest.approx(sum(by_hand) / 2)

    # Only what is missing is done again; a process that is killed is named as such.
    before = created(study)
    gone = next(r for r in study.runs if r.label == "wide, seed 1")
    shutil.rmtree(gone.folder)
    assert run_study(study, only=["wide"]) == []
    after = created(study)
    assert after.keys() == before.keys()
    assert [label for label in after if after[label] != before[label]] == ["wide, seed 1"]


def test_data_that_cannot_be_read_are_said_before_any_run(study: Study, tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    shutil.copytree(study.out.parent / "recipes", recipes)
    settings = ["data={name: utd_mhad, path: /no/such/folder, inputs: [skeleton]}"]
    plan = read_study(recipes, tmp_path / "out", settings=settings)
    with pytest.raises(cg.DataError, match="/no/such/folder"):
        run_study(plan)
    assert [path.name for path in plan.out.iterdir()] == [".lock"]


def test_a_second_study_on_the_same_folder_is_told(study: Study) -> None:
    with locked(study.out), pytest.raises(cg.RunError, match="another process is"):
        run_study(study)


def test_a_killed_process_is_named_and_the_rest_finished(study: Study, tmp_path: Path) -> None:
    import os
    import signal

    plan = read_study(study.out.parent / "recipes", tmp_path, given={"seeds": [0]}, settings=["train.epochs=3"])
    victims: set[int] = set()

    def kill_the_first(run: object, phase: str, *_: float) -> None:
        from multiprocessing import active_children

        if not victims:
            children = [child.pid for child in active_children() if child.pid is not None]
            victims.update(children)
            os.kill(children[0], signal.SIGKILL)

    failures = run_study(plan, jobs=1, only=["narrow", "wide"], report=kill_the_first)
    (failure,) = failures
    assert failure.run.recipe.name == "narrow"
    assert "killed by SIGKILL" in failure.reason
    assert [run.recipe.name for run in plan.runs if run.finished] == ["wide"]
