"""What validation says and how values are written: types in plain words, nearest names, ratios as numbers."""

from __future__ import annotations

import difflib
import inspect
import re
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}
_PRODUCT = re.compile(r"\s*[-+]?[\d.]+(e[-+]?\d+)?(\s*[*/]\s*[\d.]+(e[-+]?\d+)?)*\s*", re.IGNORECASE)


def suggestion(name: object, known: Collection[str]) -> str:
    """'; did you mean …?', or the known names where none is near."""
    near = difflib.get_close_matches(str(name), known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else "; none is known here"


def describe(annotation: Any) -> str:
    """A type in the words of a YAML file."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments)
    if origin in (tuple, list) or annotation in (tuple, list):
        inner = {describe(a) for a in arguments if a is not Ellipsis}
        fixed = origin is tuple and Ellipsis not in arguments
        return (
            "a list"
            + (f" of {len(arguments)}" if fixed else "")
            + (f" (each {inner.pop()})" if len(inner) == 1 else "")
        )
    if origin is not None and inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a mapping"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def expected(annotation: Any, entry: Any) -> str:
    """What an option's type or its constraint (`Field(ge=1)`) asks for."""
    kind: str = entry["type"]
    if kind == "finite_number":
        return f"{describe(annotation)}, finite"
    if kind.startswith(("greater_than", "less_than", "too_short", "too_long", "value_error")):
        return str(entry["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return describe(annotation)


def plain(value: Any) -> Any:
    """A value as YAML and JSON can say it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def number(value: Any) -> Any:
    """A number written as a product or ratio ("8/255", "8/255 * 4000"), anything else as it is."""
    if not isinstance(value, str) or not _PRODUCT.fullmatch(value):
        return value
    try:
        result = 1.0
        for sign, factor in re.findall(r"([*/]?)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)", value):
            result = result / float(factor) if sign == "/" else result * float(factor)
    except (ValueError, ZeroDivisionError):
        return value
    return result
