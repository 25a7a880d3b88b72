"""The main table: every condition, Avg and RI, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from crossguard.evaluation.comparison import relative_improvement
from crossguard.evaluation.record import Estimate
from crossguard.report import text
from crossguard.report.models import Model, comparable, conditions, known


@dataclass(frozen=True)
class Cell:
    """One figure of the summary: `bar` and `sort` in [0, 1] or points, None where there is none."""

    value: str
    interval: str = ""
    bar: float | None = None
    sort: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Column:
    """One column of the summary."""

    key: str
    label: str
    hint: str
    block: str


@dataclass(frozen=True)
class Row:
    """One model of the summary."""

    model: Model
    cells: tuple[Cell, ...]


@dataclass
class Summary:
    """Rows by how they were trained; `reference` names the model that RI compares with."""

    columns: list[Column]
    groups: list[tuple[str, list[Row]]] = field(default_factory=list[tuple[str, list[Row]]])
    reference: str | None = None


def columns(models: Sequence[Model], reference: Model | None) -> list[Column]:
    """What the summary shows."""
    blocks = {"clean": "", "missing": "Not attacked", "noise": "Not attacked"}
    shown = [
        Column(c, text.short(c), text.sentence(c), blocks.get(c.split(":")[0], "Attacked")) for c in conditions(models)
    ]
    if any(m.average for m in models):
        shown.append(Column("avg", "Avg", "mean of every single-modality attack and the joint one", "Overall"))
        if reference is not None:
            hint = f"(clean + Avg) minus that of {reference.name}, in points"
            shown.append(Column("ri", "RI", hint, "Overall"))
    return shown


def summary(models: Sequence[Model], reference: Model | None) -> Summary:
    """The main table."""
    shown = columns(models, reference)
    estimates = {(m.index, c.key): _figure(m, c.key, reference) for m in models for c in shown}
    best: dict[str, float] = {}
    if len(models) > 1:
        for (_, key), e in estimates.items():
            if e is not None:
                best[key] = max(best.get(key, -math.inf), e.value)
    table = Summary(shown, reference=None if reference is None else reference.name)
    families = dict.fromkeys(m.family for m in sorted(models, key=lambda m: m.objective != "standard"))
    for family in families:
        rows = [
            Row(m, tuple(_cell(c.key, estimates[m.index, c.key], best.get(c.key), m is reference) for c in shown))
            for m in models
            if m.family == family
        ]
        table.groups.append((family, rows))
    return table


def _figure(model: Model, key: str, reference: Model | None) -> Estimate | None:
    if key == "avg":
        return model.average
    if key == "ri":
        if reference is None or not (model.average and reference.average and comparable(model, reference)):
            return None
        if model.record.averaged != reference.record.averaged:
            return None
        return known(relative_improvement(model.record, reference.record))
    return model.estimate(key)


def _cell(key: str, estimate: Estimate | None, best: float | None, is_reference: bool) -> Cell:
    if key == "ri" and is_reference:
        return Cell("0", "the reference", sort=0.0)
    if estimate is None:
        return Cell(text.NOTHING)
    top = best is not None and estimate.value >= best - 1e-12
    if key == "ri":
        ends = f"{text.points(estimate.low)} to {text.points(estimate.high)}"
        return Cell(text.points(estimate.value), ends, sort=estimate.value, best=top)
    return Cell(
        text.percent(estimate.value),
        text.interval(estimate.low, estimate.high),
        bar=min(max(estimate.value, 0.0), 1.0),
        sort=estimate.value,
        best=top,
    )


def further(models: Sequence[Model]) -> list[tuple[str, list[str], list[tuple[str, list[Cell]]]]]:
    """Tables of the other metrics (several labels): name, conditions, rows."""
    names = dict.fromkeys(n for m in models for e in m.record.summary().values() for n in e if n != m.metric)
    shown = conditions(models)
    return [
        (
            text.METRICS.get(name, name),
            [text.short(c) for c in shown],
            [(m.name, [_cell(c, m.estimate(c, name), None, False) for c in shown]) for m in models],
        )
        for name in names
    ]
