"""`crossguard data`: which sets there are, what is in them, whether a copy on disk is whole, and copies of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from crossguard.cli.console import guarded, results
from crossguard.cli.train import Settings
from crossguard.core.errors import DataError
from crossguard.data import SETS, SOURCES, DataSource, Splits
from crossguard.data.sets import source_of
from crossguard.recipe.loading import override
from crossguard.recipe.validation import Problems, component
from crossguard.recipe.wording import describe

data = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="List, show, check, prepare and write data sets."
)
Name = Annotated[str, typer.Argument(help="A data set, as `crossguard data list` names it.")]
Place = Annotated[Path | None, typer.Argument(help="The folder that holds it; none where it is generated.")]


@data.command("list")
@guarded
def list_sets() -> None:
    """Name the data sets, and what each needs.

    crossguard data list
    """
    table = Table("name", "what it is", "needs")
    for source in SOURCES.values():
        extra = f"; the extra {source.needs}" if source.needs else ""
        table.add_row(source.name, source.summary, ("path" if source.needs_path else "nothing") + extra)
    results.print(table)


@data.command()
@guarded
def show(name: Name, settings: Settings = None) -> None:
    """Say what a set holds: modalities, classes, sizes of the splits, and its options.

    crossguard data show figures --set regime=rgb-weak

    crossguard data show utd_mhad --set path=/data/UTD-MHAD
    """
    source = source_of(name)
    about = {"origin": source.origin, "licence": source.licence, "files": source.layout}
    results.print(f"{name}: {source.summary}", soft_wrap=True)
    for what, text in about.items():
        results.print(f"{what}: {text}", soft_wrap=True)
    table = Table("option", "type", "default")
    for parameter in inspect.signature(source.load, eval_str=True).parameters.values():
        default = "required" if parameter.default is parameter.empty else repr(parameter.default)
        table.add_row(parameter.name, describe(parameter.annotation), default)
    results.print(table)
    given = override({}, settings or [])
    if source.needs_path and "path" not in given:
        results.print("to see what is in it: --set path=…")
    else:
        _describe(_load(source, given))


@data.command()
@guarded
def check(name: Name, path: Place = None) -> None:
    """Look at every file of a copy and say what is there, missing and damaged (exit code 2 if anything is).

    crossguard data check utd_mhad /data/UTD-MHAD
    """
    from crossguard.data import check as look

    found = look(name, path)
    if found.rows:
        table = Table(*found.header)
        for row in found.rows:
            table.add_row(*row)
        results.print(table)
    for note in found.notes:
        results.print(note, soft_wrap=True)
    if not found.ok:
        raise DataError("\n".join([f"{path}: {len(found.problems)} problems", *(f"  {p}" for p in found.problems)]))
    results.print("nothing is wrong")


@data.command()
@guarded
def prepare(name: Name, path: Place = None, settings: Settings = None) -> None:
    """Read a set once, so that what is slow to read lies in the cache (CROSSGUARD_CACHE, else ~/.cache/crossguard).

    crossguard data prepare utd_mhad /data/UTD-MHAD --set size=64

    crossguard data prepare figures --set regime=rgb-weak
    """
    source = source_of(name, path)
    place = {} if path is None else {"path": str(path)}
    _describe(_load(source, {**override({}, settings or []), **place}))


@data.command()
@guarded
def write(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Where to write; a folder without a manifest.csv.")],
    settings: Settings = None,
) -> None:
    """Write a set as ordinary recordings: wav, mp4 and a manifest.csv, which the data set `manifest` reads.

    crossguard data write events events/ --set train=200

    crossguard data show manifest --set path=events/ --set multi_label=true --set frames=10 --set size=32

    The last line is the manifest's path.
    """
    from crossguard.data.written import write_recordings

    source = source_of(name)
    written = write_recordings(_load(source, override({}, settings or [])), folder)
    results.print(str(written), soft_wrap=True)


def _load(source: DataSource, given: dict[str, Any]) -> Splits:
    problems = Problems()
    chosen = component({"name": source.name, **given}, SETS, source.name, problems)
    problems.stop("options")
    assert chosen is not None, "a problem was noted otherwise"
    return chosen()


def _describe(splits: Splits) -> None:
    example = splits.train.read([0])
    table = Table("modality", "axes", "one sample", "unit", "range", "rate, Hz")
    for name, modality in splits.modalities.items():
        shape = " x ".join(str(n) for n in example.inputs[name].shape[1:])
        bounds = "any" if modality.bounds is None else f"{modality.bounds[0]:g} to {modality.bounds[1]:g}"
        rate = "–" if modality.rate is None else f"{modality.rate:g}"
        table.add_row(name, modality.axes, shape, modality.unit, bounds, rate)
    results.print(table)
    sizes = Table("split", "samples", "groups")
    for part, split in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        sizes.add_row(part, str(len(split)), str(len(set(split.groups))))
    results.print(sizes)
    more = ", …" if len(splits.classes) > 60 else ""
    results.print(f"{len(splits.classes)} classes: {', '.join(splits.classes[:60])}{more}")
