"""`crossguard diagnose`: why a trained run is robust or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crossguard.cli.console import guarded, results, say
from crossguard.cli.progress import Bars, of_evaluation
from crossguard.cli.tables import Figures
from crossguard.cli.train import Device, Settings


@guarded
def diagnose(
    run: Annotated[Path, typer.Argument(help="A run folder of `crossguard train`.")],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the diagnosis; default: the run.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Test samples that are attacked.")] = 400,
    steps: Annotated[int, typer.Option(min=1, help="Steps of those attacks.")] = 50,
    projection: Annotated[
        Literal["pca", "tsne", "none"], typer.Option(help="How latents are drawn on the page.")
    ] = "pca",
    device: Device = None,
) -> None:
    """Measure latent space, the share of each modality, and what predicts robustness; the page then shows it.

        crossguard diagnose runs/mine

        crossguard report runs/mine -o mine.html

    Density and convexity of each class in each branch and fused, Shapley shares of the modalities clean and attacked,
    and which cheap measure ranks classes as a minimum-norm attack does. Kept in RUN/diagnosis.json. Beside an
    evaluation with settings of its own, give the same ones:

        crossguard evaluate runs/mine --set threat.rgb.eps=8/255 --out runs/mine-8

        crossguard diagnose runs/mine --set threat.rgb.eps=8/255 --out runs/mine-8
    """
    from crossguard.recipe.diagnosis import DIAGNOSIS, diagnose_run

    with Bars() as bars:
        found = diagnose_run(
            run,
            settings or [],
            out=out,
            samples=samples,
            steps=steps,
            projection=None if projection == "none" else projection,
            device=device,
            progress=of_evaluation(run.name, bars.show),
        )
    results.print(_classes(found))
    results.print(_shares(found["shapley"]))
    results.print(_predictors(found["predictors"]))
    for line in _undefined(found):
        say(line)
    for what, why in found["notes"].items():
        say(f"{what} was not measured: {why}")
    say(f"next: crossguard report {out or run} -o page.html")
    results.print(str((out or run) / DIAGNOSIS), soft_wrap=True)


def said(estimate: Mapping[str, Any], form: str = ".2f") -> str:
    """An estimate read from JSON."""
    if estimate["value"] is None:
        return "undefined"
    return f"{estimate['value']:{form}}\n{estimate['low']:{form}}…{estimate['high']:{form}}"


def _classes(found: Mapping[str, Any]) -> Figures:
    columns = {f"density\n{n}": v for n, v in found["density"].items()}
    columns |= {f"convexity\n{n}": v for n, v in found["convexity"].items()}
    rows = [[name, *(said(values[c]) for values in columns.values())] for c, name in enumerate(found["classes"])]
    return Figures("latent space by class (95 % interval)", ["class", *columns], rows)


def _undefined(found: Mapping[str, Any]) -> list[str]:
    """Why some figures are undefined, a line a reason."""
    reasons: dict[str, list[str]] = {}
    for what in ("density", "convexity"):
        for name, values in found[what].items():
            for c, estimate in zip(found["classes"], values, strict=True):
                if estimate["value"] is None:
                    reasons.setdefault(f"{what} {name}: undefined ({estimate['reason']})", []).append(c)
    for row in found["predictors"]:
        if row["correlation"]["value"] is None and row["name"] != "fmn":
            reasons[f"correlation of {row['name']}: undefined ({row['correlation']['reason']})"] = []
    return [f"{reason}{': ' if classes else ''}{', '.join(classes)}" for reason, classes in reasons.items()]


def _shares(shares: Mapping[str, Mapping[str, Any]]) -> Figures:
    rows: list[list[str]] = []
    for condition, by_name in shares.items():
        points = [{k: 100 * v if isinstance(v, float) else v for k, v in e.items()} for e in by_name.values()]
        rows.append([condition, *(said(e, ".1f") for e in points)])
    return Figures("share of each modality in what is right, points", ["", *shares["clean"]], rows)


def _predictors(predictors: Sequence[Mapping[str, Any]]) -> Figures:
    rows: list[list[str]] = []
    for row in predictors:
        price = row["price"]
        correlations = ["–", "–"] if row["name"] == "fmn" else [said(row["correlation"]), said(row["partial"])]
        spent = [str(price["forwards"]), str(price["backwards"]), f"{price['seconds']:.2f}"]
        rows.append([row["name"], *correlations, *spent])
    title = "rank correlation over classes with the median minimum norm"
    return Figures(title, ["measure", "alone", "given accuracy\nand count", "forwards", "backwards", "seconds"], rows)
