"""Options of a component, validated against the annotated signature of the callable that takes them.

So a new component is one file and one line in its registry: nothing here knows any of them.
"""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from crossguard.core.errors import RecipeError
from crossguard.recipe.wording import describe, expected, plain, suggestion


class Problems:
    """What is wrong with a recipe, collected so that all of it is said at once.

    `said` names keys at the top that were not said in YAML: {"seeds": "--seeds"}.
    """

    def __init__(self, said: Mapping[str, str] | None = None) -> None:
        self.found: list[str] = []
        self.said = dict(said or {})

    def add(self, path: str, message: str) -> None:
        """Note one problem at a YAML path."""
        key, dot, rest = path.partition(".")
        self.found.append(f"{self.said.get(key, key)}{dot}{rest}: {message}")

    def unknown(self, path: str, key: object, known: Collection[str]) -> None:
        """Note a key that does not exist, with the nearest that does."""
        self.add(f"{path}.{key}" if path else str(key), f"unknown key{suggestion(key, known)}")

    def stop(self, source: str) -> None:
        """Raise RecipeError if anything was found."""
        if self.found:
            count = "1 problem" if len(self.found) == 1 else f"{len(self.found)} problems"
            raise RecipeError("\n".join([f"{source}: {count}", *(f"  {line}" for line in self.found)]))


@dataclass(frozen=True)
class Component:
    """A registered callable with options that its signature takes."""

    name: str
    build: Callable[..., Any]
    options: dict[str, Any]

    def __call__(self, *arguments: Any, **supplied: Any) -> Any:
        return self.build(*arguments, **self.options, **supplied)

    def to_dict(self) -> dict[str, Any]:
        """As in a recipe, defaults filled in."""
        return {"name": self.name, **{key: plain(value) for key, value in self.options.items()}}


def _number(annotation: Any) -> bool:
    """Whether a type takes numbers, but neither true nor false."""
    if get_origin(annotation) is Annotated:
        return _number(get_args(annotation)[0])
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    return annotation in (int, float) or (bool not in members and any(_number(member) for member in members))


@cache
def _schema(build: Callable[..., Any], supplied: frozenset[str]) -> tuple[type[BaseModel], dict[str, Any]]:
    if inspect.isclass(build) and issubclass(build, BaseModel):
        return build, {name: info.annotation for name, info in build.model_fields.items()}
    annotations: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(build, eval_str=True).parameters.values():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variadic or parameter.name in supplied:
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        annotations[parameter.name] = annotation
        # Aliases, since pydantic keeps some names for itself (copy, schema, model_…).
        fields[f"field{len(fields)}"] = (annotation, Field(default, alias=parameter.name))
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(build.__name__, __config__=config, **fields), annotations


def options(
    build: Callable[..., Any],
    given: Mapping[str, Any],
    path: str,
    problems: Problems,
    supplied: Collection[str] = (),
) -> dict[str, Any] | None:
    """All options of `build`: those `given`, typed, and its defaults; None, problems noted, where some do not fit.

    `supplied` names parameters that the program fills in, which a recipe may therefore not say.
    """
    model, annotations = _schema(build, frozenset(supplied))
    # pydantic reads true as 1; `steps: yes` is a slip.
    flags = [key for key, value in given.items() if isinstance(value, bool) and _number(annotations.get(str(key)))]
    for key in flags:
        where = f"{path}.{key}" if path else str(key)
        problems.add(where, f"found {given[key]}, expected {describe(annotations[key])}")
    try:
        checked = model.model_validate({str(k): v for k, v in given.items()})
    except ValidationError as error:
        named: set[str] = set()
        for entry in error.errors(include_url=False):
            key = str(entry["loc"][0])
            if key in named:  # a union says once for each of its members what it is not
                continue
            named.add(key)
            where = f"{path}.{key}" if path else key
            if entry["type"] == "extra_forbidden":
                problems.unknown(path, key, list(annotations))
            elif entry["type"] == "missing" and len(entry["loc"]) == 1:
                problems.add(where, f"missing; expected {describe(annotations[key])}")
            else:
                value = given.get(key)
                choices = get_args(annotations[key]) if get_origin(annotations[key]) is Literal else ()
                near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                wanted = expected(annotations[key], entry)
                problems.add(where, f"found {value!r}, expected {wanted}{hint}")
        return None
    if flags:
        return None
    return {info.alias or field: getattr(checked, field) for field, info in type(checked).model_fields.items()}


def component(
    given: Any,
    registry: Mapping[str, Callable[..., Any]],
    path: str,
    problems: Problems,
    supplied: Collection[str] = (),
    key: str = "name",
) -> Component | None:
    """`{name: …, **options}`, or a bare name, looked up in a registry; None, problems noted, where it fails."""
    given = {key: given} if isinstance(given, str) else given
    known = ", ".join(sorted(registry))
    if not isinstance(given, Mapping):
        problems.add(path, f"found {given!r}, expected {{{key}: …}} with one of {known}")
        return None
    name = given.get(key)
    if name is None:
        problems.add(f"{path}.{key}", f"missing; expected one of {known}")
        return None
    if not isinstance(name, str):
        problems.add(f"{path}.{key}", f"found {name!r}, expected one of {known}")
        return None
    if name not in registry:
        problems.add(f"{path}.{key}", f"unknown name {name!r}{suggestion(name, registry)}")
        return None
    rest = {k: value for k, value in given.items() if k != key}
    checked = options(registry[name], rest, path, problems, supplied)
    return None if checked is None else Component(name, registry[name], checked)


def mapping(given: Any, known: Collection[str], path: str, problems: Problems) -> dict[str, Any]:
    """`given` as a mapping with known keys only; empty, with the problem noted, where it is something else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.add(path, f"found {given!r}, expected a mapping with {', '.join(known)}")
        return {}
    for key in given:
        if key not in known:
            problems.unknown(path, key, known)
    return {str(key): value for key, value in given.items() if key in known}


def only(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The part of a section that has these keys."""
    return {key: section[key] for key in keys if key in section}


def construct(build: Component | Callable[[], Any] | None, path: str, problems: Problems) -> Any:
    """The cheap object that a component makes, or None, with what its own checks say noted as a problem."""
    if build is None:
        return None
    try:
        return build()
    except (ValueError, TypeError) as error:
        problems.add(path, str(error))
        return None
