"""Recipes of the rivals and variants say what their names say, and what cannot be meant is refused by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

import crossguard as cg
from crossguard.recipe import load
from crossguard.recipe.run import build_model

ROOT = Path(__file__).parents[2] / "recipes"
SMALLEST = ROOT / "figures" / "concat-adversarial.yaml"
RIVALS = ("mean", "minsim", "minsim-exfmem", "mmtm", "modality-dropout", "odd-one-out")


@pytest.mark.parametrize("rival", RIVALS)
def test_every_rival_comes_standard_and_adversarially_trained(rival: str) -> None:
    pairs = {
        "figures": (f"{rival}-standard", f"{rival}-adversarial"),
        "utd_mhad": (rival, f"{rival}-adversarial"),
    }
    for folder, (standard, adversarial) in pairs.items():
        first, second = (load(ROOT / folder / f"{stem}.yaml") for stem in (standard, adversarial))
        assert (first.name, second.name) == (f"{rival}-standard", f"{rival}-adversarial")
        assert first.document["objective"]["name"] == "standard"
        assert second.document["objective"]["name"] == "adversarial"
        assert first.document["model"] == second.document["model"]
        concat = load(ROOT / folder / "concat-adversarial.yaml")
        for section in ("data", "threat", "train", "evaluate", "seed"):
            assert second.document[section] == concat.document[section]
        assert second.document["model"]["encoders"] == concat.document["model"]["encoders"]


def test_inference_arrives() -> None:
    assert build_model(load(SMALLEST), 12).inference == "fused"
    voting = load(SMALLEST, ["model.inference=vote"])
    assert build_model(voting, 12).inference == "vote"
    assert voting.digest != load(SMALLEST).digest


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["model.inference=voted"], "model.inference: found 'voted', expected one of 'fused', 'vote', 'committee'"),
        (["model.inference=vote", "model.auxiliary=false"], "model: found inference 'vote', auxiliary False"),
        (["objective.terms={similarty: 1}"], "objective: terms: unknown name 'similarty'; did you mean 'similarity'?"),
        (["objective.terms=3"], "objective.terms: found 3"),
        (["objective.modality_dropout=1"], "objective: modality_dropout is 1.0, expected a share in [0, 1)"),
        (["model.fusion={name: exfmem, blend: 2}"], "model.fusion: ExFMem: found blend 2"),
        (["model.fusion={name: odd_one_out, width: 0}"], "model.fusion: OddOneOut: found width 0"),
    ],
)
def test_what_cannot_be_meant(settings: list[str], problem: str) -> None:
    with pytest.raises(cg.RecipeError) as error:
        load(SMALLEST, settings)
    assert f"\n  {problem}" in str(error.value)
