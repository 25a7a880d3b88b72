"""Records as the page sees them: each with its name, its metric and what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from crossguard.core import Modality
from crossguard.evaluation.comparison import same_budgets, unlike_attacks
from crossguard.evaluation.conditions import in_order
from crossguard.evaluation.record import Estimate, Record
from crossguard.threat import ThreatModel

_GROUPS = {"standard": "Standard training", "adversarial": "Adversarially trained", "": "Training not recorded"}


@dataclass(frozen=True)
class Model:
    """One record as the page names it."""

    index: int
    name: str
    record: Record

    @property
    def modalities(self) -> dict[str, Modality]:
        """Name -> Modality."""
        return {n: Modality.from_dict(m) for n, m in self.record.meta["modalities"].items()}

    @property
    def threat(self) -> ThreatModel:
        """What the attacker was allowed."""
        return ThreatModel.from_dict(self.record.meta["threat"])

    @property
    def objective(self) -> str:
        """How it was trained, "" where the record does not say."""
        return (self.record.meta.get("training") or {}).get("objective") or ""

    @property
    def family(self) -> str:
        """The group of rows that it stands in."""
        return _GROUPS.get(self.objective, f"Trained with {self.objective.replace('_', ' ')}")

    @property
    def metric(self) -> str:
        """The figure that Avg and RI are made of: see `Record.metric`."""
        return self.record.metric

    def estimate(self, condition: str, metric: str | None = None) -> Estimate | None:
        """A metric under a condition, None where it was not measured."""
        return known(self.record.figure(condition, metric)) if condition in self.record.conditions else None

    @cached_property
    def average(self) -> Estimate | None:
        """Avg, None unless every attack that it is the mean of was measured."""
        measured = self.record.conditions
        whole = "joint" in measured and all(f"only:{n}" in measured for n in self.threat.names)
        return known(self.record.average()) if whole else None

    @cached_property
    def curves(self) -> dict[str, list[tuple[float, Estimate]]]:
        """Condition -> (scale, share still right), for what was attacked."""
        shown = [c for c in self.record.conditions if c.split(":")[0] in ("only", "any_one", "joint")]
        return {c: self.record.curve(c) for c in shown}

    @property
    def expected(self) -> list[str]:
        """The conditions of a complete evaluation."""
        only = [f"only:{n}" for n in self.threat.names]
        return ["clean", *(f"missing:{n}" for n in self.modalities), "noise", *only, "any_one", "joint"]


def known(estimate: Estimate | None) -> Estimate | None:
    """None for what was not or cannot be measured."""
    return None if estimate is None or not math.isfinite(estimate.value) else estimate


def unique(names: Iterable[str]) -> list[str]:
    """Names made different: "amr", "amr (2)"."""
    seen: dict[str, int] = {}
    different: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        different.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return different


def conditions(models: Sequence[Model]) -> list[str]:
    """All measured conditions in the order of reading."""
    return in_order(c for m in models for c in m.record.conditions)


def reference_of(models: Sequence[Model], named: str | None) -> Model | None:
    """The model that RI compares with: the one named, else the first called like "concat-standard"."""
    if named is not None:
        return next(m for m in models if m.name == named)
    return next((m for m in models if "concat" in m.name.lower() and "standard" in m.name.lower()), None)


def attacked(models: Sequence[Model]) -> list[str]:
    """The conditions that have a curve."""
    return [c for c in conditions(models) if c.split(":")[0] in ("only", "any_one", "joint")]


def scale_grid(models: Sequence[Model]) -> list[float]:
    """All scales of all curves, 0 first."""
    return sorted({0.0, *(round(s, 9) for m in models for s in m.record.scales)})


def comparable(a: Model, b: Model) -> bool:
    """Whether two models were attacked in one way on the same samples, so that differences between them mean much."""
    same_samples = sorted(a.record.samples["ids"]) == sorted(b.record.samples["ids"])
    return same_budgets(a.record, b.record) and not unlike_attacks(a.record, b.record) and same_samples


def contest(models: Sequence[Model]) -> list[Model]:
    """The models that were attacked on the most modalities: who met fewer attacks cannot be said to hold best."""
    most = max(len(m.threat.budgets) for m in models)
    return [m for m in models if len(m.threat.budgets) == most]
