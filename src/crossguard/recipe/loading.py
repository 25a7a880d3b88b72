"""YAML as recipes are written in: no code, no key twice, numbers such as 1e-3 are numbers."""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crossguard.core.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys (YAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text, since it has no dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


# Where a bare name stands for {name: …}.
_NAMED = re.compile(r"data|objective|model\.fusion|model\.encoders\.[^.]+|evaluate\.protocol")


def parse(text: str, source: str = "recipe") -> Any:
    """The value of a YAML text; raises RecipeError with line and column where it is no YAML or names a key twice."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise RecipeError(f"{source}{where}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: this is not YAML: {error}") from error
    finally:
        loader.dispose()


def read(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; raises RecipeError where it cannot be read or holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"could not read the recipe {path}: {reason}") from error
    document = parse(text, str(path))
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: found {type(document).__name__}, expected a mapping such as `name: …`, `data: …`")
    return document


def read_recipe(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """`read`, put over what a recipe beside it says where the file names one: `like: other.yaml`.

    Of a section that both say, the keys are merged; a component with a `name` of its own, and a bare one, stands as it
    is; null takes a key away. Raises RecipeError for a file that comes to be like itself.
    """
    document = read(path)
    if "like" not in document:
        return document
    other = path.parent / str(document.pop("like"))
    seen = (*seen, path.resolve())
    if other.resolve() in seen:
        raise RecipeError(f"{path}: `like: {other.name}` leads back to a recipe that is like this one")
    return _merged(read_recipe(other, seen), document)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = under.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping) and "name" not in value:
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def override(document: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy with `key.key=value` settings put in, values read as YAML; raises RecipeError for what is no setting.

    Keys that no recipe has are put in as well: validation then names them with everything else that is wrong.
    """
    result: dict[str, Any] = copy.deepcopy(dict(document))
    for setting in settings:
        path, equals, value = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"--set {setting}: expected key=value, for example --set train.epochs=3")
        node: dict[str, Any] = result
        for depth, key in enumerate(keys[:-1]):
            found = ".".join(keys[: depth + 1])
            child = node.get(key)
            if child is None:
                child = node[key] = {}
            elif isinstance(child, str) and _NAMED.fullmatch(found):
                child = node[key] = {"name": child}
            if not isinstance(child, dict):
                raise RecipeError(f"--set {setting}: {found} is {child!r}, which has no keys of its own")
            node = child
        node[keys[-1]] = parse(value, f"--set {setting}")
    return result


def dump(document: Mapping[str, Any]) -> str:
    """YAML text of plain values, keys in their order."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=120)
