"""Options against signatures: each problem with its path, its nearest name, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from crossguard.core import RecipeError
from crossguard.recipe.validation import Problems, component, construct, mapping, options
from crossguard.recipe.wording import describe, number


@dataclass(frozen=True)
class Attack:
    steps: int
    step_size: float = 0.1
    kind: Literal["fused", "total"] = "fused"
    bounds: tuple[float, float] | None = None
    weight: float | dict[str, float] = 1.0
    copy: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected >= 1")


def reader(path: Path, classes: int, *, split: str = "cross_subject", **rest: Any) -> None:
    del path, classes, split, rest


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(30, ge=1)
    rate: FiniteFloat | None = Field(1e-3, gt=0)


REGISTRY: dict[str, Callable[..., Any]] = {"attack": Attack, "reader": reader}


def problems_of(given: object) -> list[str]:
    problems = Problems()
    component(given, REGISTRY, "objective", problems)
    return problems.found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "attack", "stepps": 3, "steps": 1}, ["objective.stepps: unknown key; did you mean 'steps'?"]),
        ({"name": "attack"}, ["objective.steps: missing; expected a whole number"]),
        ({"name": "attack", "steps": 1.5}, ["objective.steps: found 1.5, expected a whole number"]),
        ({"name": "attack", "steps": True}, ["objective.steps: found True, expected a whole number"]),
        (
            {"name": "attack", "steps": 1, "kind": "totl"},
            ["objective.kind: found 'totl', expected one of 'fused', 'total'; did you mean 'total'?"],
        ),
        (
            {"name": "attack", "steps": 1, "step_size": float("nan")},
            ["objective.step_size: found nan, expected a number, finite"],
        ),
        (
            {"name": "attack", "steps": 1, "weight": [1]},
            ["objective.weight: found [1], expected a number or a mapping"],
        ),
        (
            {"name": "attack", "steps": 1, "bounds": [0]},
            ["objective.bounds: found [0], expected a list of 2 (each a number) or null"],
        ),
        ({"name": "atack"}, ["objective.name: unknown name 'atack'; did you mean 'attack'?"]),
        ({"name": "zzz"}, ["objective.name: unknown name 'zzz'; known: attack, reader"]),
        ({"steps": 1}, ["objective.name: missing; expected one of attack, reader"]),
        (7, ["objective: found 7, expected {name: …} with one of attack, reader"]),
        ({"name": ["attack"]}, ["objective.name: found ['attack'], expected one of attack, reader"]),
        (
            {"name": "attack", "stepps": 3, "step_size": "x"},
            [
                "objective.steps: missing; expected a whole number",
                "objective.step_size: found 'x', expected a number",
                "objective.stepps: unknown key; did you mean 'steps'?",
            ],
        ),
        (
            {"name": "reader", "path": "/a", "classes": 2, "spit": 1},
            ["objective.spit: unknown key; did you mean 'split'?"],
        ),
    ],
)
def test_each_problem_has_its_path(given: object, expected: list[str]) -> None:
    assert problems_of(given) == expected


def test_a_component_carries_its_defaults_and_can_be_written_down() -> None:
    problems = Problems()
    made = component({"name": "attack", "steps": 2, "bounds": [0, 1]}, REGISTRY, "objective", problems)
    assert made is not None
    assert not problems.found
    assert made() == Attack(2, bounds=(0.0, 1.0))
    written = made.to_dict()
    assert written == {
        "name": "attack", "steps": 2, "step_size": 0.1, "kind": "fused", "bounds": [0.0, 1.0], "weight": 1.0,
        "copy": False,
    }  # fmt: skip
    again = component(written, REGISTRY, "objective", problems)
    assert again == made


def test_a_bare_name_is_a_component_without_options() -> None:
    problems = Problems()
    assert component("reader", {"reader": lambda: 3}, "data", problems) is not None
    assert problems_of("attack") == ["objective.steps: missing; expected a whole number"]


def test_what_the_program_supplies_cannot_be_said() -> None:
    problems = Problems()
    assert options(reader, {"path": "a", "classes": 3}, "data", problems, supplied=("classes",)) is None
    assert problems.found[0].startswith("data.classes: unknown key")


def test_the_components_own_checks_are_problems_too() -> None:
    problems = Problems()
    made = component({"name": "attack", "steps": 0}, REGISTRY, "objective", problems)
    assert construct(made, "objective", problems) is None
    assert problems.found == ["objective: steps is 0, expected >= 1"]


def test_a_pydantic_model_is_validated_by_its_own_rules() -> None:
    problems = Problems()
    assert options(Config, {"epochs": 0, "rate": "fast", "epoch": 3}, "train", problems) is None
    assert problems.found == [
        "train.epochs: found 0, expected greater than or equal to 1",
        "train.rate: found 'fast', expected a number or null",
        "train.epoch: unknown key; did you mean 'epochs'?",
    ]
    assert options(Config, {"epochs": 2}, "train", Problems()) == {"epochs": 2, "rate": 1e-3}


def test_all_problems_are_raised_together() -> None:
    problems = Problems()
    mapping({"nmae": 1, "zzzz": 2, "name": 3}, ("name", "data"), "", problems)
    mapping([1], ("a",), "train", problems)
    with pytest.raises(RecipeError) as error:
        problems.stop("mine.yaml")
    text = str(error.value)
    assert text.splitlines() == [
        "mine.yaml: 3 problems",
        "  nmae: unknown key; did you mean 'name'?",
        "  zzzz: unknown key; known: data, name",
        "  train: found [1], expected a mapping with a",
    ]
    Problems().stop("mine.yaml")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int | None, "a whole number or null"),
        (tuple[int, ...], "a list (each a whole number)"),
        (tuple[int, str], "a list of 2"),
        (tuple[int, int], "a list of 2 (each a whole number)"),
        (list[float], "a list (each a number)"),
        (dict[str, int], "a mapping"),
        (Path | None, "a path or null"),
        (bool, "true or false"),
    ],
)
def test_types_in_plain_words(annotation: object, text: str) -> None:
    assert describe(annotation) == text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 * 4000", 8 / 255 * 4000),
        ("1e-2*3", 0.03),
        ("-8/2", -4.0),
        (0.5, 0.5),
        ("1/0", "1/0"),
        ("8/", "8/"),
        ("1..2/3", "1..2/3"),
        ("__import__('os')", "__import__('os')"),
        (None, None),
    ],
)
def test_numbers_as_ratios(given: object, expected: object) -> None:
    assert number(given) == expected


@given(st.text())
def test_no_text_makes_a_number_reader_fail(text: str) -> None:
    assert isinstance(number(text), str | float)
