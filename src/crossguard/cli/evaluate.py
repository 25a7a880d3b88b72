"""`crossguard evaluate`: a trained run, or anyone's model, under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossguard.cli.console import guarded, results, say
from crossguard.cli.progress import Bars, of_evaluation
from crossguard.cli.tables import summary_table
from crossguard.cli.train import Device, Settings


@guarded
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run folder of `crossguard train`.")] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the record; default: the run.")] = None,
    device: Device = None,
    model: Annotated[str | None, typer.Option(help="Your model: `pkg.mod:build`, called without arguments.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights, a safetensors file.")] = None,
    data: Annotated[str | None, typer.Option(help="Your data: `pkg.mod:loader`, which gives cg.Batch.")] = None,
    threat: Annotated[
        Path | None, typer.Option(help="A threat model in YAML: `modality: {norm, eps, bounds}`.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="For your model: `quick`, `standard` or `thorough`; default: standard.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="For your model: what the record is called.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For your model: seed of the attacks; default: 0.")] = None,
) -> None:
    """Attack a model on each modality alone, on any one and on all, and keep every sample's outcome.

        crossguard evaluate runs/mine

        crossguard evaluate runs/mine --set evaluate.protocol.steps=50 --out runs/mine-50

    A model of your own, with data and budgets of your own:

        crossguard evaluate --model mine:build --weights mine.safetensors --data mine:loader --threat threat.yaml

    where `threat.yaml` says, in each modality's unit, what an attacker may do:

        rgb: {norm: linf, eps: 8/255, bounds: [0, 1]}

    A killed evaluation goes on when the same command is given again.
    """
    foreign = {"--model": model, "--data": data, "--threat": threat}
    missing = [option for option, value in foreign.items() if value is None]
    if run is None and missing:
        raise typer.BadParameter(f"give a run folder, or your own model: {', '.join(missing)} not given")
    if run is not None and (len(missing) < len(foreign) or weights is not None):
        raise typer.BadParameter("give either a run folder or --model, --data and --threat, not both")
    if run is not None and not (protocol is None and name is None and seed is None):
        raise typer.BadParameter(
            "--protocol, --name and --seed are for a model of your own; a run has them in its recipe: "
            "--set evaluate.protocol=quick --set name=… --set seed=…"
        )
    if run is None and settings:
        raise typer.BadParameter("--set changes a run's recipe; a model of your own has none")
    with Bars() as bars:
        if run is not None:
            from crossguard.recipe import evaluate_run

            record = evaluate_run(
                run, settings or [], out=out, device=device, progress=of_evaluation(run.name, bars.show)
            )
        else:
            from crossguard.recipe.foreign import evaluate_foreign

            assert model is not None  # said by `missing`, which the type checker cannot follow
            assert data is not None
            assert threat is not None
            called = name or model.replace(":", ".")
            record = evaluate_foreign(
                model,
                data,
                threat,
                weights=weights,
                protocol=protocol or "standard",
                name=called,
                seed=seed or 0,
                out=out or Path("runs") / called,
                device=device,
                progress=of_evaluation(called, bars.show),
            )
    results.print(summary_table([record]))
    from crossguard.report.text import manner  # here, since the package brings in what only a page needs

    for line in manner(record.meta["model"]):
        say(f"{record.name}: {line}")
    for flag in record.flags:
        say(f"doubtful: {flag.name}{f' ({flag.modality})' if flag.modality else ''}: {flag.detail}")
    folder = out or run or Path("runs") / (name or str(model).replace(":", "."))
    say(f"next: crossguard report {folder} -o page.html")
    results.print(str(folder), soft_wrap=True)
