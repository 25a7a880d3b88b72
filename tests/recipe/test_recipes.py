"""Every recipe that comes with the project validates, and says the same when it is written out and read again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import crossguard as cg
from crossguard.recipe import load, validate
from crossguard.recipe.loading import parse, read_recipe
from crossguard.recipe.run import build_model

ROOT = Path(__file__).parents[2]
EVERY = [*ROOT.glob("recipes/*/*.yaml"), *ROOT.glob("src/crossguard/recipes/*/*.yaml")]
RECIPES = sorted(path for path in EVERY if path.name != "study.yaml")
SMALLEST = ROOT / "recipes" / "figures" / "amr-adversarial.yaml"


def test_there_are_recipes() -> None:
    assert {path.parent.name for path in RECIPES} == {
        "audioset",
        "avmnist",
        "corsmal",
        "demo",
        "events",
        "figures",
        "kinetics_sounds",
        "moments",
        "utd_mhad",
        "youtube8m",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_it_validates_and_is_read_back(path: Path, tmp_path: Path) -> None:
    recipe = load(path)
    recipe.save(tmp_path)
    again = load(tmp_path / "recipe.yaml")
    assert again.document == recipe.document
    assert again.digest == recipe.digest
    assert recipe.digest in (tmp_path / "recipe.yaml").read_text()


def test_the_example_in_the_docs_validates() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert validate(parse(example)).name == "amr-adversarial"


def test_what_is_said_arrives() -> None:
    recipe = load(SMALLEST, ["seed=7", "train.epochs=3", "evaluate.protocol=quick", "threat.at_most=1"])
    assert recipe.seed == 7
    assert recipe.train.epochs == 3
    assert recipe.protocol == cg.evaluation.protocol.PROTOCOLS["quick"]
    assert recipe.threat == cg.ThreatModel(rgb=cg.Linf(4 / 255, bounds=(0.0, 1.0)), skeleton=cg.Linf(0.03), at_most=1)


def test_the_digest_tells_recipes_apart_but_not_their_spelling() -> None:
    plain = load(SMALLEST)
    assert load(SMALLEST, ["seed=1"]).digest != plain.digest
    assert validate(dict(reversed(read_recipe(SMALLEST).items()))).document == plain.document
    assert load(SMALLEST, ["threat.rgb.eps=0.01568627450980392"]).digest == plain.digest


def test_first_weights_are_a_function_of_the_seed() -> None:
    one, same = (build_model(load(SMALLEST), 12).state_dict() for _ in range(2))
    other = build_model(load(SMALLEST, ["seed=1"]), 12).state_dict()
    assert all(one[name].equal(same[name]) for name in one)
    assert any(not one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("name=a/b", "name: found 'a/b', expected letters"),
        ("seed=one", "seed: found 'one', expected a whole number"),
        ("model.encoders={}", "model.encoders: found {}, expected a mapping from modality"),
        ("model.fusion={name: amr, dims: {rgb: 3}}", "model.fusion.dims: unknown key"),
        ("model.auxiliary=3", "model.auxiliary: found 3, expected true or false"),
        ("threat=null", "threat: found None, expected modality"),
        ("threat.rgb.norm=linff", "threat.rgb.norm: unknown name 'linff'; did you mean 'linf'?"),
        ("threat.rgb.bounds=[1, 0]", "threat.rgb: Linf: bounds are (1.0, 0.0)"),
        ("threat.at_most=0", "threat: at_most is 0"),
        ("evaluate.protocol=quik", "evaluate.protocol.name: found 'quik'"),
        ("evaluate.protocol={steps: 0}", "evaluate.protocol.steps: found 0"),
        ("evaluate.protocol={scales: [2, 3]}", "evaluate.protocol: protocol: scales are (2.0, 3.0)"),
        ("evaluate.batch_size=0", "evaluate.batch_size: found 0, expected greater than or equal to 1"),
        ("train=[1]", "train: found [1], expected a mapping"),
        ("objective={name: adversarial, attack: pgdd}", "objective: unknown attack 'pgdd'"),
        (
            "objective={name: adversarial, attacked: rgbb}",
            "objective: attacked is 'rgbb'; expected 'joint', 'random', 'single' or one of the attacked modalities",
        ),
        ("objective={name: noise, attacked: skeletn}", "objective: attacked is 'skeletn'"),
        ("objective={name: standard, auxiliary_weight: {rgbb: 1}}", "objective: auxiliary_weight names 'rgbb'"),
        ("model.fusion={name: amr, width: 5}", "model.fusion: AMR needs"),
        ("train.epochs=true", "train.epochs: found True, expected a whole number"),
        ("evaluate.batch_size=yes", "evaluate.batch_size: found True, expected a whole number"),
        ("evaluate.protocol={steps: true}", "evaluate.protocol.steps: found True, expected a whole number"),
        ("threat.at_most=true", "threat.at_most: found True, expected a whole number or null"),
        ("seed=-1", "seed: found -1, expected greater than or equal to 0"),
        ("seed=9223372036854775808", "seed: found 9223372036854775808, expected less than"),
        ("model.fusion={name: mmtm, ratio: 0}", "model.fusion: MMTM: ratio is 0"),
        ("model.fusion={name: amr, hidden: -1}", "model.fusion: Concat: found hidden -1"),
        ("model.fusion={name: mmtm, at: {rgb: layer9, skeleton: fc7}}", "model: at: 'rgb' has no stage 'layer9'"),
        ("model.encoders={a.b: video}", "model: modality 'a.b' cannot name a branch"),
        (
            "model.encoders.rgb={name: video, blocks: [1, 1]}",
            "model.encoders.rgb.blocks: found [1, 1], expected a list of 4",
        ),
        ("model.encoders.rgb={name: video, blocks: [0, 1, 1, 1]}", "model.encoders.rgb: VideoResNet: found blocks"),
    ],
)
def test_what_cannot_be_meant(setting: str, problem: str) -> None:
    with pytest.raises(cg.RecipeError) as error:
        load(SMALLEST, [setting])
    assert f"\n  {problem}" in str(error.value)


def test_a_trained_run_may_be_evaluated_within_other_budgets() -> None:
    settings = ["objective={name: adversarial, attacked: skeleton}", "threat={rgb: {norm: linf, eps: 0.1}}"]
    assert load(SMALLEST, settings).threat.names == ("rgb",)
