"""`crossguard study`: a folder of recipes, over seeds and folds, side by side; then its tables, page and exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from crossguard.cli.console import guarded, results, say
from crossguard.cli.progress import Bars
from crossguard.cli.tables import table_of
from crossguard.cli.train import Device, Settings
from crossguard.core.errors import CrossguardError, InputError, RunError


@guarded
def study(
    folder: Annotated[Path, typer.Argument(help="A folder of recipes, with or without a study.yaml.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where runs go; default: runs/FOLDER.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of training and attacks, e.g. 0,1,2.")] = None,
    folds: Annotated[str | None, typer.Option(help="`all`, `none`, or some of study.yaml's, e.g. 1,2.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; default: one a core.")] = None,
    settings: Settings = None,
    only: Annotated[list[str] | None, typer.Option(help="Run these recipes alone (the tables stay whole).")] = None,
    reference: Annotated[str | None, typer.Option(help="The recipe that others are compared with.")] = None,
    export: Annotated[str, typer.Option(help="Files to write beside the page.")] = "csv,json,latex",
    device: Device = None,
) -> None:
    """Train and evaluate every recipe of a folder with every seed and fold, and write the tables that compare them.

        crossguard study recipes/utd_mhad/ --set data.path=/data/UTD-MHAD

        crossguard study recipes/figures --seeds 0,1,2,3,4 --jobs 2 --reference concat-standard

    Given again, it goes on where it was: what is finished is kept, and what failed is tried again. A run that fails is
    named at the end, the others finish. A `study.yaml` in the folder may say what else is given here, and what a fold
    is:

        seeds: [0, 1, 2]

        fold: {option: data.subject, values: [1, 2, 3], settings: [data.protocol=leave_one_subject_out]}

        reference: concat-standard

        pairs: [[amr-adversarial, concat-adversarial]]

    The last line is the page's path.
    """
    from crossguard.recipe.wording import suggestion
    from crossguard.study import EXPORTS, read_study, run_study

    kinds = _words(export)
    for kind in kinds:
        if kind not in EXPORTS:
            raise InputError(f"--export {kind}: no such kind{suggestion(kind, EXPORTS)}")
    given: dict[str, Any] = {} if reference is None else {"reference": reference}
    if seeds is not None:
        given["seeds"] = [int(s) if s.isdecimal() else s for s in _words(seeds)]
    if folds is not None:
        given["folds"] = folds if folds in ("all", "none") else _words(folds)
    plan = read_study(folder, out or Path("runs") / folder.resolve().name, given=given, settings=settings or [])
    for name in only or []:
        if name not in plan.names:
            raise InputError(f"--only {name}: no recipe has that name{suggestion(name, plan.names)}")
    meant = [run for run in plan.runs if not only or run.recipe.name in only]
    some = f" of {len(plan.runs)}" if only else ""
    done = sum(run.finished for run in meant)
    say(f"{plan.title}: {len(meant)}{some} runs, {done} of them finished, into {plan.out}")
    with Bars() as bars:
        failures = run_study(plan, jobs=jobs, only=only or [], device=device, report=_Shown(bars, meant).report)
    said = f"{len(failures)} of {len(meant)} runs failed; the same command tries them again"
    said = "\n".join([said, *(f"  {f.run.label}: {f.reason}" for f in failures)])
    try:
        _tabulate(plan, kinds)
    except CrossguardError as error:
        if not failures:
            raise
        raise RunError(f"{said}\n{error}") from error
    if failures:
        raise RunError(said)


def _tabulate(plan: Any, kinds: Sequence[str]) -> None:
    """Write a study's tables and pages, and print the tables and the page's path."""
    from crossguard.study import export, page
    from crossguard.study import results as tabulate

    found = tabulate(plan)
    for path in export(found, plan.out, kinds):
        say(f"wrote {path}")
    links = _report(plan)
    written = page(found, plan.out / "study.html", links)
    metric = found.rows[0].metric
    shown = [c for c in found.conditions if not c.startswith("missing:")]
    by_row = {row.name: {c: e[metric] for c, e in row.conditions.items()} for row in found.rows}
    results.print(table_of(f"{metric}, % (95 % interval over seeds and groups)", shown, by_row, signed=False))
    if found.reference is not None:
        against = found.against(found.reference).items()
        minus = {name: {c: d.estimate for c, d in by.items()} for name, by in against}
        results.print(table_of(f"minus {found.reference}, points, paired", shown, minus, signed=True))
    for note in found.notes:
        say(note)
    results.print(str(written), soft_wrap=True)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _report(plan: Any) -> dict[str, str]:
    """The page of the first seed that every recipe has finished, clips and all; its link."""
    from crossguard.evaluation import Record
    from crossguard.report import report
    from crossguard.study import pooled

    for seed in plan.seeds:
        runs = [run for run in plan.runs if run.recipe.seed == seed]
        if all(run.finished for run in runs):
            by_name = [[r.folder for r in runs if r.recipe.name == name] for name in plan.names]
            records = [pooled([Record.load(place) for place in places]) for places in by_name]
            name = f"seed-{seed}.html"
            report(records, plan.out / name, title=f"{plan.title}, seed {seed}", reference=plan.reference)
            return {f"Seed {seed} in detail": name}
    return {}


class _Shown:
    """Bars of the whole and of what runs now; where stderr is no terminal, a line as each run ends."""

    def __init__(self, bars: Bars, runs: Sequence[Any]) -> None:
        self.bars, self.total = bars, len(runs)
        self.ended = sum(run.finished for run in runs)
        if self.ended < self.total:
            bars.show("study", self.ended, self.total, f"{self.ended} of {self.total} runs")

    def report(self, run: Any, phase: str, done: float, total: float) -> None:
        """What one run is at."""
        if phase not in ("finished", "failed"):
            # Never full before it ends: that would be said as done.
            self.bars.show(run.label, 0.99 * done, total, phase)
            return
        self.ended += phase == "finished"
        if phase == "failed":
            say(f"{run.label}: failed")
        else:
            self.bars.show(run.label, 1, 1, f"{self.ended} of {self.total} runs")
        self.bars.remove(run.label)
        self.bars.show("study", self.ended, self.total, f"{self.ended} of {self.total} runs")
