"""Nests of dicts, lists, numbers and tensors (a state_dict) taken apart into JSON and named tensors: no pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from crossguard.core.errors import RunError


def split(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON of `tree`; its tensors go into `tensors` under names that start with `name`, as copies on the CPU.

    Raises RunError, naming the place, for what is neither JSON nor a tensor.
    """
    if isinstance(tree, Tensor):
        while name in tensors:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        tensors[name] = tree.detach().cpu().clone()
        return {"$tensor": name}
    if isinstance(tree, dict):
        pairs = [(k, split(v, f"{name}.{k}", tensors)) for k, v in tree.items()]
        if all(isinstance(k, str) and not k.startswith("$") for k, _ in pairs):
            return dict(pairs)
        return {"$dict": [[split(k, f"{name}.key", tensors), v] for k, v in pairs]}
    if isinstance(tree, list):
        return [split(v, f"{name}.{i}", tensors) for i, v in enumerate(tree)]
    if isinstance(tree, tuple):
        return {"$tuple": [split(v, f"{name}.{i}", tensors) for i, v in enumerate(tree)]}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"$float": repr(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise RunError(
        f"{name} is {type(tree).__name__}, which a checkpoint cannot hold; it can hold dicts, lists, tuples, numbers, "
        f"strings, None and tensors"
    )


def join(json: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split`."""
    if isinstance(json, list):
        return [join(v, tensors) for v in json]
    if not isinstance(json, dict):
        return json
    if "$tensor" in json:
        return tensors[json["$tensor"]]
    if "$dict" in json:
        return {join(k, tensors): join(v, tensors) for k, v in json["$dict"]}
    if "$tuple" in json:
        return tuple(join(v, tensors) for v in json["$tuple"])
    if "$float" in json:
        return float(json["$float"])
    return {k: join(v, tensors) for k, v in json.items()}
