"""Records as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

from crossguard.evaluation import Estimate, Record


def percent(estimate: Estimate, signed: bool = False) -> str:
    """The value in per cent (or points), its interval on a second line."""
    sign = "+" if signed else ""
    return f"{100 * estimate.value:{sign}.1f}\n{100 * estimate.low:{sign}.0f}…{100 * estimate.high:{sign}.0f}"


# So narrow may a column of names become.
_NAMES = 11


@dataclass(frozen=True)
class Figures:
    """A table that rich prints, of which names may fold but figures never do: columns that find no room in the terminal
    go on below, in as many tables of as equal a number of columns as it takes, each with the names."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for i, part in enumerate(self._parts(console, options)):
            yield self._table(part, f"{self.title}, continued" if i else self.title)

    def _parts(self, console: Console, options: ConsoleOptions) -> list[range]:
        """The columns of each table: as few tables as the terminal lets it be, one column each where none fits."""
        figures = range(1, len(self.columns))
        for parts in range(1, len(figures)):
            chosen = _cut(figures, parts)
            if all(self._least(part, console, options) <= options.max_width for part in chosen):
                return chosen
        return _cut(figures, max(1, len(figures)))

    def _least(self, part: Sequence[int], console: Console, options: ConsoleOptions) -> int:
        """Characters that a table of some of the columns needs at the least."""
        return Measurement.get(console, options.update_width(1000), self._table(part, None, max_width=_NAMES)).minimum

    def _table(self, part: Sequence[int], title: str | None, max_width: int | None = None) -> Table:
        table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(self.columns[0], overflow="fold", min_width=_NAMES, max_width=max_width)
        for i in part:
            table.add_column(self.columns[i], justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(row[0], *(row[i] for i in part))
        return table


def _cut(figures: range, parts: int) -> list[range]:
    """At most so many parts of as equal a length as can be; one, where there is nothing to cut."""
    size = max(1, -(-len(figures) // parts))
    return [figures[first : first + size] for first in range(0, max(1, len(figures)), size)]


def table_of(
    title: str, conditions: Sequence[str], rows: Mapping[str, Mapping[str, Estimate]], signed: bool
) -> Figures:
    """One row a model, one column a condition; '–' where a model has none."""
    return Figures(
        title,
        ["model", *(condition.replace(":", ":\n") for condition in conditions)],
        [
            # A name may break at its first hyphen: a cell has two lines anyway.
            [name.replace("-", "-\n", 1), *(percent(e[c], signed) if c in e else "–" for c in conditions)]
            for name, e in rows.items()
        ],
    )


def conditions_of(records: Sequence[Record]) -> list[str]:
    """The conditions of any of the records, in their order."""
    return list(dict.fromkeys(c for record in records for c in record.conditions))


def names_of(records: Sequence[Record]) -> list[str]:
    """The records' names, made different as on the page, so that no row takes the place of another."""
    from crossguard.report.models import unique  # here, since it brings in what only a page needs

    return unique(r.name for r in records)


def summary_table(records: Sequence[Record]) -> Figures:
    """The share still right (of several labels, GAP) by model and condition, in per cent, with 95 % intervals.

    Without the conditions where a modality is missing: a terminal of 80 columns has no room; the page has them.
    """
    metric = records[0].metric
    rows = {
        name: {c: r.figure(c, metric) for c in r.conditions} for name, r in zip(names_of(records), records, strict=True)
    }
    shown = [c for c in conditions_of(records) if not c.startswith("missing:")]
    return table_of(f"{metric}, % (95 % interval)", shown, rows, signed=False)
