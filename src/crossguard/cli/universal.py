"""`crossguard universal`: one perturbation for all samples, and what it does to other models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossguard.cli.console import guarded, results
from crossguard.cli.progress import Bars, of_evaluation
from crossguard.cli.tables import table_of
from crossguard.cli.train import Device
from crossguard.core.errors import InputError


@guarded
def universal(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `crossguard train`.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 5,
    step_size: Annotated[float, typer.Option(help="First step, a share of the budget.")] = 0.1,
    device: Device = None,
) -> None:
    """Fit universal perturbations on training data, one a modality and one of all, and judge them on test data.

        crossguard universal runs/concat runs/amr

    Of several runs, every model is also shown what was found on the others. Perturbations and figures are kept in
    RUN/universal; a stopped command goes on where it was.
    """
    from crossguard.recipe.diagnosis import universal_runs

    if len({run.name for run in runs}) < len(runs):
        raise InputError("two run folders have the same name, by which the table tells them apart; rename one")
    with Bars() as bars:
        found, matrix = universal_runs(
            runs, epochs=epochs, step_size=step_size, device=device, progress=of_evaluation("universal", bars.show)
        )
    conditions = list(dict.fromkeys(c for u in found.values() for c in u.test))
    main = {name: {"clean": u.clean, **u.test} for name, u in found.items()}
    results.print(table_of("still right on test data, % (95 % interval)", ["clean", *conditions], main, signed=False))
    inside = {name: u.in_sample for name, u in found.items()}
    results.print(table_of("in-sample: on what they were fitted on, %", conditions, inside, signed=False))
    if len(runs) > 1:
        shown = list(next(iter(matrix.values())))
        results.print(table_of("shown to other models (columns: found on), %", shown, matrix, signed=False))
    for run in runs:
        results.print(str(run / "universal" / "universal.json"), soft_wrap=True)
