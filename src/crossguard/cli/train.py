"""`crossguard train`: a recipe becomes a run folder with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossguard.cli.console import guarded, results, say
from crossguard.cli.progress import Bars, of_training

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe, e.g. `--set train.epochs=3`."),
]


def _device(name: str | None) -> str | None:
    """The device, if this machine has it."""
    if name is None:
        return None
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"{name!r} cannot be used here ({reason}); give cpu, or leave it out") from error
    return name


Device = Annotated[str | None, typer.Option(callback=_device, help="`cpu`, `cuda`, `cuda:1` …; default: the CPU.")]


@guarded
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: one YAML file that says all of a training.")],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/NAME.")] = None,
    device: Device = None,
) -> None:
    """Train the model of a recipe; the same command goes on where a killed run stopped.

        crossguard train recipes/utd_mhad/amr.yaml --set data.path=/data/UTD-MHAD

        crossguard train recipe.yaml --set train.epochs=3 --set objective.steps=2 --out runs/quick

    The whole recipe is checked before anything runs. On several devices or nodes:

        torchrun --nproc-per-node 4 -m crossguard train recipe.yaml --device cuda
    """
    from crossguard.recipe import load, train_run

    checked = load(recipe, settings or [])
    folder = out or Path("runs") / checked.name
    say(f"{checked.name}: recipe {checked.digest}, into {folder}")
    with Bars() as bars:
        result = train_run(checked, folder, device=device, progress=of_training(checked.name, bars.show))
    say(f"best epoch {result.best_epoch} of {result.epochs}, {result.price.seconds:.0f} s of training")
    say(f"next: crossguard evaluate {folder}")
    results.print(str(folder), soft_wrap=True)
