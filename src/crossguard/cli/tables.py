"""Records as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from crossguard.evaluation import Estimate, Record


def percent(estimate: Estimate, signed: bool = False) -> str:
    """The value in per cent (or points), its interval on a second line."""
    sign = "+" if signed else ""
    return f"{100 * estimate.value:{sign}.1f}\n{100 * estimate.low:{sign}.0f}…{100 * estimate.high:{sign}.0f}"


def table_of(title: str, conditions: Sequence[str], rows: Mapping[str, Mapping[str, Estimate]], signed: bool) -> Table:
    """One row a model, one column a condition; '–' where a model has none."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold", min_width=11)
    for condition in conditions:
        table.add_column(condition.replace(":", ":\n"), justify="right", overflow="fold")
    for name, estimates in rows.items():
        # A name may break at its first hyphen: a cell has two lines anyway.
        table.add_row(
            name.replace("-", "-\n", 1), *(percent(estimates[c], signed) if c in estimates else "–" for c in conditions)
        )
    return table


def conditions_of(records: Sequence[Record]) -> list[str]:
    """The conditions of any of the records, in their order."""
    return list(dict.fromkeys(c for record in records for c in record.conditions))


def names_of(records: Sequence[Record]) -> list[str]:
    """The records' names, made different as on the page, so that no row takes the place of another."""
    from crossguard.report.models import unique  # here, since it brings in what only a page needs

    return unique(r.name for r in records)


def summary_table(records: Sequence[Record]) -> Table:
    """The share still right (of several labels, GAP) by model and condition, in per cent, with 95 % intervals.

    Without the conditions where a modality is missing: a terminal of 80 columns has no room; the page has them.
    """
    metric = records[0].metric
    rows = {
        name: {c: r.figure(c, metric) for c in r.conditions} for name, r in zip(names_of(records), records, strict=True)
    }
    shown = [c for c in conditions_of(records) if not c.startswith("missing:")]
    return table_of(f"{metric}, % (95 % interval)", shown, rows, signed=False)
