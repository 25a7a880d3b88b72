"""`crossguard report`: records become one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossguard.cli.console import guarded, results

Runs = Annotated[list[Path], typer.Argument(help="Folders of finished evaluations.")]
Page = Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")]
Title = Annotated[str | None, typer.Option(help="Title of the page.")]
Reference = Annotated[str | None, typer.Option(help="The model that others are compared with, by name.")]


@guarded
def report(runs: Runs, out: Page = Path("page.html"), title: Title = None, reference: Reference = None) -> None:
    """Write one self-contained HTML page of one or several evaluated runs, and print its path.

    crossguard report runs/mine -o mine.html

    crossguard report runs/*/ -o all.html --reference concat-standard
    """
    from crossguard.report import report as write

    page = write(list(runs), out, title=title, reference=reference)
    results.print(str(page), soft_wrap=True)
