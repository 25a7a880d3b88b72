"""`crossguard compare`: several runs side by side, with differences paired by sample."""

from __future__ import annotations

from pathlib import Path

from crossguard.cli.console import guarded, results
from crossguard.cli.report import Page, Reference, Runs, Title
from crossguard.cli.tables import Figures, names_of, summary_table, table_of
from crossguard.core.errors import InputError
from crossguard.evaluation import Record
from crossguard.evaluation.comparison import paired_difference


@guarded
def compare(runs: Runs, out: Page = Path("compare.html"), title: Title = None, reference: Reference = None) -> None:
    """Compare several evaluated runs: a page, a table, and what each gains over the reference on the same samples.

    crossguard compare runs/concat-standard runs/amr-adversarial --reference concat-standard
    """
    from crossguard.report import report as write

    if len(runs) < 2:
        raise InputError("compare needs at least two run folders; for one run: crossguard report RUN")
    records = [Record.load(run) for run in runs]
    page = write(records, out, title=title, reference=reference)
    results.print(summary_table(records))
    results.print(_differences(records, reference))
    results.print(str(page), soft_wrap=True)


def _differences(records: list[Record], reference: str | None) -> Figures:
    base = next((r for r in records if r.name == reference), records[0])
    rows = {
        name: {c: paired_difference(r, base, c) for c in r.conditions if c in base.conditions}
        for name, r in zip(names_of(records), records, strict=True)
        if r is not base
    }
    return table_of(f"minus {base.name}, points (95 % interval), paired by sample", base.conditions, rows, signed=True)
