"""A threat model as YAML: `modality: {norm, eps, bounds, constraints}`, `at_most` and aligned `frames`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossguard.recipe.validation import Problems, component, construct, mapping, only, options
from crossguard.recipe.wording import number
from crossguard.threat import CONSTRAINTS, NORMS, AlignedFrames, Budget, Constraint, ThreatModel


def limits(at_most: int | None = None) -> None:
    """The options of `threat` besides its budgets and aligned frames."""


def read_threat(given: Any, path: str, problems: Problems) -> ThreatModel | None:
    """A threat model as YAML says it; eps and bounds may be ratios ("8/255"). None, problems noted, where it fails."""
    if not isinstance(given, Mapping) or not given:
        problems.add(path, f"found {given!r}, expected modality: {{norm: linf, eps: 8/255, bounds: [0, 1]}}")
        return None
    before = len(problems.found)
    budgets: dict[str, Budget | None] = {}
    for name, fields in given.items():
        if name not in ("at_most", "frames"):
            budgets[str(name)] = _budget(fields, f"{path}.{name}", problems)
    known = {name: budget for name, budget in budgets.items() if budget is not None}
    limit = options(limits, only(given, "at_most"), path, problems)
    frames = None
    if given.get("frames") is not None:
        where = f"{path}.frames"
        aligned = options(
            AlignedFrames, mapping(given["frames"], ("k", "axes", "steps"), where, problems), where, problems
        )
        frames = None if aligned is None else construct(lambda: AlignedFrames(**aligned), where, problems)
    if limit is None or len(problems.found) > before:
        return None
    return construct(lambda: ThreatModel(known, at_most=limit["at_most"], frames=frames), path, problems)


def write_threat(threat: ThreatModel) -> dict[str, Any]:
    """The inverse of `read_threat`."""
    document = threat.to_dict()
    return {**document.pop("budgets"), **document}


def _budget(fields: Any, path: str, problems: Problems) -> Budget | None:
    """A modality's budget, with its constraints."""
    before = len(problems.found)
    constraints: list[Constraint] = []
    if isinstance(fields, Mapping):
        fields = _numbers(fields)
        listed = fields.pop("constraints", None) or []
        if not isinstance(listed, list):
            problems.add(f"{path}.constraints", f"found {listed!r}, expected a list such as [{{kind: frames, k: 8}}]")
            return None
        for place, one in enumerate(listed):
            where = f"{path}.constraints[{place}]"
            made = component(_numbers(one), CONSTRAINTS, where, problems, key="kind")
            constraints.append(construct(made, where, problems))
    made = component(fields, NORMS, path, problems, supplied=("constraints",), key="norm")
    if len(problems.found) > before or made is None:
        return None
    return construct(lambda: made(constraints=tuple(constraints)), path, problems)


def _numbers(value: Any) -> Any:
    """Ratios as numbers, in a mapping and in the lists that it holds."""
    if isinstance(value, Mapping):
        return {key: _numbers(v) for key, v in value.items()}
    return [number(v) for v in value] if isinstance(value, list) else number(value)
