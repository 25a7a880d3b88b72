from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import crossguard as cg
from crossguard.attacks.stages import EFFORTS
from crossguard.evaluation.protocol import PROTOCOLS, Protocol


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_named_protocols_survive_json(name: str) -> None:
    protocol = Protocol.named(name)
    assert protocol.name == name
    again = TypeAdapter(Protocol).validate_python(json.loads(json.dumps(protocol.to_dict())))
    assert again == protocol


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"samples": 0},
        {"clips": -1},
        {"scales": (0.5, 2.0)},
        {"scales": (1.0, 0.5)},
        {"max_scale": 1.0},
        {"objectives": ("hinge",)},
        {"objectives": ()},
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(cg.RecipeError, match="protocol"):
        Protocol(**options)
    with pytest.raises(ValidationError):
        TypeAdapter(Protocol).validate_python(options)


def test_an_unknown_protocol_is_named_with_the_known_ones() -> None:
    with pytest.raises(cg.RecipeError, match="quick"):
        Protocol.named("fast")


def test_steps_objectives_and_restarts_stand_instead_of_the_efforts_own() -> None:
    own = Protocol("thorough").stages
    assert own == EFFORTS["thorough"]
    longer = Protocol("thorough", steps=7, restarts=2).stages
    assert [s.name for s in longer] == [s.name for s in own]
    assert all(s.steps == 7 and s.options["restarts"] == 2 for s in longer if s.follows)
    assert longer[-1] == own[-1], "random search has queries, no steps"
    mine = Protocol("quick", objectives=("margin", "targeted_dlr"))
    assert [s.options["objective"] for s in mine.stages] == ["margin", "targeted_dlr"]
    assert {s.steps for s in mine.stages} == {mine.longest}
    assert mine.curve.steps == mine.curve_steps
