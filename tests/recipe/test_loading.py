"""Recipes as text: what YAML lets slip is an error here, and says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossguard.core import RecipeError
from crossguard.recipe.loading import dump, override, parse, read, read_recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("-2E+4", -2e4),
        ("1.5e3", 1500.0),
        ("3", 3),
        ("8/255", "8/255"),
        ("[1, 2]", [1, 2]),
        ("null", None),
        ("true", True),
        ("e3", "e3"),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert parse(text) == expected
    assert type(parse(text)) is type(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", ["line 3", "column"]),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", ["line 4, column 3", "'c' is given twice"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["line 1", "could not determine a constructor"]),
        ("a: 2026-99-99\n", ["not YAML"]),
    ],
)
def test_faults_name_their_place(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        parse(text, "mine.yaml")
    assert str(error.value).startswith("mine.yaml")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("content", [b"- a list\n", b"", b"just text", b"\xff\xfe\x00"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        read(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        read(tmp_path / "none.yaml")


def test_settings_are_typed_and_leave_the_document_alone() -> None:
    document = {"train": {"epochs": 3, "lr": 0.1}, "objective": "standard"}
    changed = override(document, ["train.epochs=5", "train.lr=1e-4", "objective.steps=2", "data.path=/a=b", "new=[1]"])
    assert changed == {
        "train": {"epochs": 5, "lr": 1e-4},
        "objective": {"name": "standard", "steps": 2},
        "data": {"path": "/a=b"},
        "new": [1],
    }
    assert document == {"train": {"epochs": 3, "lr": 0.1}, "objective": "standard"}


@pytest.mark.parametrize(
    ("document", "setting"),
    [
        ({"data": "a"}, "data.x=1"),
        ({"objective": "a"}, "objective.x=1"),
        ({"model": {"fusion": "a"}}, "model.fusion.x=1"),
        ({"model": {"encoders": {"rgb": "a"}}}, "model.encoders.rgb.x=1"),
        ({"evaluate": {"protocol": "a"}}, "evaluate.protocol.x=1"),
    ],
)
def test_a_bare_name_takes_options(document: dict[str, Any], setting: str) -> None:
    node = override(document, [setting])
    for key in setting.split(".")[:-1]:
        node = node[key]
    assert node == {"name": "a", "x": 1}


def test_an_empty_section_takes_settings() -> None:
    assert override({"train": None}, ["train.epochs=3"]) == {"train": {"epochs": 3}}


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "train..epochs=3", "name.first=3", "seed=[1"])
def test_what_is_no_setting(setting: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        override({"name": "a"}, [setting])


def test_a_recipe_like_another_says_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: a\ntrain: {epochs: 3, rate: 0.1}\n"
        "model: {fusion: {name: mmtm, ratio: 4}, encoders: {x: {name: v}, y: w}}"
    )
    (tmp_path / "b.yaml").write_text("like: a.yaml\nname: b\ntrain: {epochs: 5}\nmodel: {fusion: {name: amr}}")
    (tmp_path / "c.yaml").write_text("like: b.yaml\nmodel: {fusion: mean, encoders: {y: null}}\ntrain: {rate: null}")
    assert read_recipe(tmp_path / "b.yaml") == {
        "name": "b",
        "train": {"epochs": 5, "rate": 0.1},
        "model": {"fusion": {"name": "amr"}, "encoders": {"x": {"name": "v"}, "y": "w"}},
    }
    assert read_recipe(tmp_path / "c.yaml") == {
        "name": "b",
        "train": {"epochs": 5},
        "model": {"fusion": "mean", "encoders": {"x": {"name": "v"}}},
    }


def test_a_recipe_like_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("like: b.yaml")
    (tmp_path / "b.yaml").write_text("like: a.yaml")
    with pytest.raises(RecipeError, match="leads back"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("like: none.yaml")
    with pytest.raises(RecipeError, match=r"could not read the recipe .*none\.yaml"):
        read_recipe(tmp_path / "a.yaml")


def test_dump_is_read_back() -> None:
    document = {"name": "ü", "values": [1e-5, 1, None, True, "8/255"], "nested": {"b": 1, "a": 2}}
    assert parse(dump(document)) == document
    assert yaml.safe_load(dump(document)) == document
