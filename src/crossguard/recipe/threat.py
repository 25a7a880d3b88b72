"""A threat model as YAML: `modality: {norm, eps, bounds}` and `at_most`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossguard.recipe.validation import Problems, component, construct, only, options
from crossguard.recipe.wording import number
from crossguard.threat import NORMS, Budget, ThreatModel


def limits(at_most: int | None = None) -> None:
    """The options of `threat` besides its budgets."""


def read_threat(given: Any, path: str, problems: Problems) -> ThreatModel | None:
    """A threat model as YAML says it; eps and bounds may be ratios ("8/255"). None, problems noted, where it fails."""
    if not isinstance(given, Mapping) or not given:
        problems.add(path, f"found {given!r}, expected modality: {{norm: linf, eps: 8/255, bounds: [0, 1]}}")
        return None
    budgets: dict[str, Budget | None] = {}
    for name, fields in given.items():
        if name == "at_most":
            continue
        where = f"{path}.{name}"
        if isinstance(fields, Mapping):
            fields = {key: _numbers(value) for key, value in fields.items()}
        budgets[str(name)] = construct(component(fields, NORMS, where, problems, key="norm"), where, problems)
    known = {name: budget for name, budget in budgets.items() if budget is not None}
    limit = options(limits, only(given, "at_most"), path, problems)
    if limit is None or len(known) < len(budgets):
        return None
    return construct(lambda: ThreatModel(known, at_most=limit["at_most"]), path, problems)


def write_threat(threat: ThreatModel) -> dict[str, Any]:
    """The inverse of `read_threat`."""
    document = threat.to_dict()
    return {**document["budgets"], "at_most": document["at_most"]}


def _numbers(value: Any) -> Any:
    return [number(v) for v in value] if isinstance(value, list) else number(value)
