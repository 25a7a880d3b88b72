"""`crossguard`: what the commands are, and how one asks for help."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from crossguard import __version__
from crossguard.cli.compare import compare
from crossguard.cli.console import results
from crossguard.cli.data import data
from crossguard.cli.demo import demo
from crossguard.cli.diagnose import diagnose
from crossguard.cli.evaluate import evaluate
from crossguard.cli.report import report
from crossguard.cli.study import study
from crossguard.cli.train import train
from crossguard.cli.universal import universal
from crossguard.core.memory import keep_freed_memory

app = typer.Typer(
    name="crossguard",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        results.print(f"crossguard {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Make multimodal models robust to adversarial inputs, and measure how robust they really are.

    See it work, in minutes, on generated data:

        crossguard demo

    Then on your own:

        crossguard train recipe.yaml --out runs/mine

        crossguard evaluate runs/mine

        crossguard report runs/mine -o mine.html

    Exit codes: 0 done, 1 a run failed, 2 invalid input (recipe, threat model, data), 130 interrupted.
    """
    if debug:
        os.environ["CROSSGUARD_DEBUG"] = "1"


for command in (demo, train, evaluate, report, compare, study, diagnose, universal):
    app.command()(command)
app.add_typer(data, name="data")


def main() -> None:
    """Entry point of the `crossguard` command."""
    keep_freed_memory()
    app()
