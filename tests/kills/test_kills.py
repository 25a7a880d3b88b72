"""SIGKILL at 20 random moments of four commands: nothing is lost, nothing done twice, nothing left lying about.

A piece is what a killed command may have to do again: the training since its last checkpoint, one batch of one pass of
an evaluation, one cached split of a data set; a study's runs are made of these. That nothing else is done again is seen
by files: a finished piece keeps its inode and time, and a log its lines, which hold timings that no repetition has.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kills.tool import RECIPE, Command, ended, equal_arrays, files, harass, kept_log, read_same, same, stamps

pytestmark = pytest.mark.slow
KILLS = 5  # of each command
SEED = 20


@dataclass
class Undisturbed:
    """A command, what it came to when nobody disturbed it, and how long its work took."""

    command: Command
    out: Path
    seconds: float


def recipe(
    place: Path, name: str, fusion: str = "concat", objective: str = "adversarial, steps: 2", epochs: int = 5
) -> Path:
    place.mkdir(exist_ok=True)
    path = place / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, fusion=fusion, objective=objective, epochs=epochs))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def training(place: Path) -> Undisturbed:
    command = Command(place, ("train", recipe(place, "small"), "--out", "OUT"))
    out = place / "undisturbed-training"
    command.run(place / "for-the-cache")  # the data are there before it is timed
    return Undisturbed(command, out, command.run(out))


@pytest.fixture(scope="module")
def evaluation(place: Path, training: Undisturbed) -> Undisturbed:
    arguments = ("evaluate", training.out, "--out", "OUT")
    command = Command(place, arguments)
    out = place / "undisturbed-evaluation"
    return Undisturbed(command, out, command.run(out))


def finished_runs(out: Path) -> dict[str, tuple[int, int]]:
    """The stamps of everything that a study's finished runs have written."""
    runs = [str(p.parent.relative_to(out)) for p in out.glob("*/*/record.json")]
    return stamps(
        out,
        *(
            f"{run}/{name}"
            for run in runs
            for name in ("record.json", "samples.npz", "clips.npz", "train.json", "model.safetensors", "log.jsonl")
        ),
    )


def prepared(*settings: str) -> tuple[str, ...]:
    """The command that generates a set into the cache OUT."""
    return ("data", "prepare", "figures", *(part for s in ("cache=OUT", *settings) for part in ("--set", s)))


def check_training(out: Path, undisturbed: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert read_same(out / "train.json") == read_same(undisturbed / "train.json")
    lines = [
        [same(json.loads(line)) for line in (p / "log.jsonl").read_text().splitlines()] for p in (out, undisturbed)
    ]
    assert lines[0] == lines[1], "every step and epoch once"
    latest = json.loads((out / "checkpoint" / "latest.json").read_text())
    assert files(out / "checkpoint") == {"latest.json", latest["tensors"]}


def check_record(out: Path, undisturbed: Path) -> None:
    one, two = read_same(out / "record.json"), read_same(undisturbed / "record.json")
    assert one.pop("name") in (two.pop("name"), out.name)
    assert one == two
    assert equal_arrays(out / "samples.npz", undisturbed / "samples.npz")
    assert equal_arrays(out / "clips.npz", undisturbed / "clips.npz")


def test_a_training(training: Undisturbed, place: Path) -> None:
    out = place / "training"
    story = harass(training.command, out, training.seconds, KILLS, SEED, kept_log)
    assert story.kills == KILLS
    steps = [step for step, _ in story.looks]
    assert steps == sorted(steps)
    log = (out / "log.jsonl").read_bytes()
    assert all(log.startswith(kept) for _, kept in story.looks), "what a checkpoint vouches for is not done again"
    assert files(out) == files(training.out)
    check_training(out, training.out)


def test_an_evaluation(evaluation: Undisturbed, place: Path) -> None:
    out = place / "evaluation"
    story = harass(
        evaluation.command, out, evaluation.seconds, KILLS, SEED + 1, lambda o: stamps(o, "parts/*.npz", "parts/*.json")
    )
    assert story.kills == KILLS
    for before, after in zip(story.looks, story.looks[1:], strict=False):
        assert after.items() >= before.items() or not after, "a finished batch is neither lost nor done again"
    assert max(len(look) for look in story.looks) > 2, "some kills came when there was something to lose"
    assert files(out) == files(evaluation.out)
    check_record(out, evaluation.out)


def test_a_data_preparation(place: Path) -> None:
    arguments = prepared("train=600", "validation=300", "test=300", "size=24", "frames=8")
    command = Command(place, arguments)
    undisturbed, out = place / "undisturbed-data", place / "data"
    seconds = command.run(undisturbed)
    story = harass(command, out, seconds, KILLS, SEED + 2, lambda o: stamps(o, "*.npz"))
    assert story.kills == KILLS
    final = stamps(out, "*.npz")
    assert len(final) == 3
    for look in story.looks:
        assert final.items() >= look.items(), "a finished split is not made again"
    assert files(out) == files(undisturbed)
    assert all(equal_arrays(out / name, undisturbed / name) for name in final)


def test_a_study(place: Path) -> None:
    recipes = place / "recipes"
    recipe(recipes, "concat-standard", objective="standard", epochs=2)
    recipe(recipes, "mean-standard", fusion="mean", objective="standard", epochs=2)
    arguments = ("study", recipes, "--seeds", "0,1", "--jobs", "2", "--out", "OUT")
    command = Command(place, arguments)
    undisturbed, out = place / "undisturbed-study", place / "study"
    seconds = command.run(undisturbed)

    def look(out: Path) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, bytes]]]:
        finished = finished_runs(out)
        begun = {str(p.relative_to(out)): kept_log(p) for p in out.glob("*/seed-*")}
        return finished, begun

    story = harass(command, out, seconds, KILLS, SEED + 3, look)
    assert story.kills == KILLS
    final = finished_runs(out)
    for finished, begun in story.looks:
        assert final.items() >= finished.items(), "a finished run is not touched"
        for run, (_, kept) in begun.items():
            assert (out / run / "log.jsonl").read_bytes().startswith(kept) if kept else True
    assert files(out) == files(undisturbed)
    for run in [p.parent for p in undisturbed.glob("*/*/record.json")]:
        check_training(out / run.relative_to(undisturbed), run)
        check_record(out / run.relative_to(undisturbed), run)
    tables = [(p / "study.tex").read_text().split(r"\begin{tabular}") for p in (out, undisturbed)]
    assert tables[0][:3] == tables[1][:3], "the last are prices"
    assert table(out / "study.csv") == table(undisturbed / "study.csv")
    assert read_same(out / "study.json") == read_same(undisturbed / "study.json")


def table(path: Path) -> list[dict[str, Any]]:
    """The figures of a study without prices in time and memory."""
    with path.open(newline="") as file:
        return [line for line in csv.DictReader(file) if same({line["metric"]: 0})]


def together(command: Command, out: Path) -> tuple[int, int]:
    """Exit codes of a command, and of the same given while the first is at work."""
    first = command.start(out)
    command.wait_begun(out, first)
    second = command.start(out)
    return ended(first), ended(second)


def test_two_trainings_in_one_folder(training: Undisturbed, place: Path) -> None:
    """Slowed down, so that the second comes while the first is at work."""
    out = place / "two-trainings"
    slow = Command(place, (*training.command.arguments, "--set", "train.epochs=60"))
    first = slow.start(out)
    slow.wait_begun(out, first)
    second = slow.start(out)
    assert ended(second) == 1
    assert "another process is at work in" in slow.said()
    assert first.is_alive(), "the second was told while the first was at work"
    first.kill()
    first.join()
    shutil.rmtree(out)
    assert sorted(together(training.command, out))[0] == 0
    check_training(out, training.out)


def test_two_evaluations_in_one_folder(evaluation: Undisturbed, place: Path) -> None:
    out = place / "two-evaluations"
    codes = together(evaluation.command, out)
    # The second waits a little; it is told, or it finds what the first has finished.
    assert codes[0] == 0
    assert codes[1] == 0 or "another process is at work in" in evaluation.command.said()
    assert files(out) == files(evaluation.out)
    check_record(out, evaluation.out)


def test_two_preparations_of_one_cache(place: Path) -> None:
    arguments = prepared("train=400", "size=16", "frames=8")
    command = Command(place, arguments)
    out, alone = place / "two-preparations", place / "one-preparation"
    first, second = command.start(out), command.start(out)
    assert (ended(first), ended(second)) == (0, 0), command.said()
    command.run(alone)
    assert files(out) == files(alone)
    assert all(equal_arrays(out / name, alone / name) for name in stamps(alone, "*.npz"))
