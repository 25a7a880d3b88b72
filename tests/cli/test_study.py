"""`crossguard study` as a person meets it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossguard.core.files import locked
from crossguard.study import Failure, Study
from tests.cli.conftest import Crossguard
from tests.study.planted import plant
from tests.study.test_runner import RECIPE


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, frames in (("concat-standard", 4), ("broken", 8)):
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name, frames=frames, width=4))
    return folder


def test_help_teaches(crossguard: Crossguard) -> None:
    result = crossguard("study", "--help")
    assert result.exit_code == 0
    assert "crossguard study recipes/utd_mhad/" in result.stdout


def test_a_study_with_a_recipe_that_fails(crossguard: Crossguard, recipes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = crossguard("study", recipes, "--seeds", "0", "--out", out, "--jobs", 1, "--export", "csv")
    assert result.exit_code == 1
    assert "1 of 2 runs failed" in result.stderr
    assert "broken, seed 0: recipe broken: the model does not fit the data" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.splitlines()[-1] == str(out / "study.html")
    assert {path.name for path in out.iterdir()} == {
        ".lock", "study.html", "study.csv", "concat-standard", "broken",
    }  # fmt: skip
    with (out / "study.csv").open(newline="") as file:
        assert {line["recipe"] for line in csv.DictReader(file)} == {"concat-standard"}

    one = crossguard("study", recipes, "--seeds", "0", "--out", out, "--only", "concat-standard")
    assert "1 of 2 runs, 1 of them finished" in one.stderr

    (recipes / "broken.yaml").unlink()
    again = crossguard("study", recipes, "--seeds", "0", "--out", out)
    assert again.exit_code == 0, again.stderr
    assert "1 runs, 1 of them finished" in again.stderr
    assert (out / "seed-0.html").exists()
    assert 'href="seed-0.html"' in (out / "study.html").read_text()


def test_what_failed_is_said_where_no_seed_has_all_its_folds(
    crossguard: Crossguard, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipes / "broken.yaml").unlink()
    (recipes / "study.yaml").write_text("fold: {option: data.seed, values: [1, 2]}\n")

    def only_the_first_ends_well(plan: Study, **_: object) -> list[Failure]:
        plant(plan.runs[0])
        return [Failure(plan.runs[1], "the loss is not finite")]

    monkeypatch.setattr("crossguard.study.run_study", only_the_first_ends_well)
    result = crossguard("study", recipes, "--seeds", "0", "--out", tmp_path / "out")
    assert result.exit_code == 1
    first, failed, then = result.stderr.splitlines()[-3:]
    assert "1 of 2 runs failed; the same command tries them again" in first
    assert failed == "  concat-standard, seed 0, fold 2: the loss is not finite"
    assert "no recipe has a finished seed" in then


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--seeds", "one"), 2, "recipes: 1 problem\n  --seeds: found ['one'], expected a"),
        (("--seeds", "1,1"), 2, "recipes: 1 problem\n  --seeds: found [1, 1], expected each seed once"),
        (("--folds", "1"), 2, "--folds: found ['1'], but no `fold:"),
        (("--folds", "all"), 2, "--folds: found 'all', but no `fold:"),
        (("--only", "brokn"), 2, "--only brokn: no recipe has that name; did you mean 'broken'?"),
        (("--reference", "conkat"), 2, "--reference: no recipe is named 'conkat'"),
        (("--export", "cvs"), 2, "--export cvs: no such kind; did you mean 'csv'?"),
        (("--set", "train.epochss=3"), 2, "train.epochss: unknown key"),
    ],
)
def test_bad_input_is_said_plainly(
    crossguard: Crossguard, recipes: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = crossguard("study", recipes, "--out", tmp_path / "out", *arguments)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_every_process_and_leaves_what_can_go_on(recipes: Path, tmp_path: Path) -> None:
    (recipes / "broken.yaml").unlink()
    command = [sys.executable, "-m", "crossguard", "study", str(recipes), "--out", "out", "--seeds", "0"]
    command += ["--set", "train.epochs=100000", "--set", "train.validate_every=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    run = tmp_path / "out" / "concat-standard" / "seed-0"
    started = time.monotonic()
    while not (run / "checkpoint" / "latest.json").exists() and process.poll() is None:
        assert time.monotonic() - started < 120
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "goes on from there" in errors
    assert "Traceback" not in errors
    with locked(tmp_path / "out"), locked(run):  # no process is left that holds them
        assert not (run / "record.json").exists()
