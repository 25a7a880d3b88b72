"""What a study is: recipes x seeds x folds, each a run with a folder of its own, all checked before any starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from crossguard.core.errors import RecipeError, RunError
from crossguard.core.files import read_json
from crossguard.recipe import Recipe, load, validate
from crossguard.recipe.loading import read
from crossguard.recipe.validation import Problems, mapping, options
from crossguard.recipe.wording import suggestion

FILE = "study.yaml"
_FOLD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_Value = int | str


# The keys of study.yaml, said as signatures so that they are checked like the options of a recipe's components.
def heading(
    title: str | None = None,
    seeds: Annotated[tuple[_Seed, ...], Field(min_length=1)] = (0, 1, 2),
    folds: Literal["all", "none"] | tuple[_Value, ...] | None = None,
    reference: str | None = None,
    pairs: tuple[tuple[str, str], ...] = (),
    settings: tuple[str, ...] = (),
) -> None:
    """The options of a study besides `fold`; without `folds`, all that there are."""


def folding(
    option: str, values: Annotated[tuple[_Value, ...], Field(min_length=1)], settings: tuple[str, ...] = ()
) -> None:
    """What a fold is: `option` of the recipes (data.subject) takes one of `values`, on top of `settings`."""


@dataclass(frozen=True)
class Run:
    """One training and its evaluation: a recipe with its seed and fold put in, and the folder that it goes to."""

    recipe: Recipe
    fold: str | None
    folder: Path

    @property
    def label(self) -> str:
        """How a person names it."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.recipe.name}, seed {self.recipe.seed}{fold}"

    @property
    def finished(self) -> bool:
        """Whether the folder holds the whole Record of this very recipe.

        Options that came after the Record was written count as what they are by default.
        """
        try:
            meta = read_json(self.folder / "record.json")
            digest = meta["recipe"].pop("digest")
            if not meta["complete"]:
                return False
            return digest == self.recipe.digest or validate(meta["recipe"]).digest == self.recipe.digest
        except (RunError, RecipeError, KeyError, TypeError, AttributeError):
            return False


@dataclass(frozen=True)
class Study:
    """All runs, by recipe, then seed, then fold; and what its tables compare."""

    title: str
    out: Path
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: tuple[str | None, ...]
    reference: str | None
    pairs: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]


def read_study(
    folder: str | Path, out: str | Path, *, given: Mapping[str, Any] | None = None, settings: Sequence[str] = ()
) -> Study:
    """The study of the recipes in `folder`, by its `study.yaml` where there is one.

    `given` stands in place of what that file says (seeds, folds, reference, …), `settings` ("train.epochs=3") are put
    into every recipe. Without either: seeds 0, 1 and 2, no folds. Raises RecipeError, with every problem named, for a
    study or recipes that cannot be meant.
    """
    folder, out, given = Path(folder), Path(out), dict(given or {})
    files, there = _files(folder)
    # `crossguard study` gives each by an option of its name; what is wrong may then be no fault of the file.
    problems = Problems({key: f"--{key}" for key in given})
    source = str(folder if given else folder / FILE)
    said = read(folder / FILE) if there else {}
    document = mapping({**said, **given}, (*heading.__annotations__.keys() - {"return"}, "fold"), "", problems)
    fold = None if document.get("fold") is None else options(folding, _section(document["fold"]), "fold", problems)
    top = options(heading, {k: v for k, v in document.items() if k != "fold"}, "", problems)
    problems.stop(source)
    assert top is not None
    common = [*top["settings"], *settings]
    for setting in common:
        if setting.partition("=")[0].strip() in ("seed", "name"):
            problems.add("settings", f"{setting}: a study sets seeds itself (seeds: [0, 1]), and its recipes the names")
    chosen = _folds(top["folds"], fold, problems)
    if len(set(top["seeds"])) < len(top["seeds"]):
        problems.add("seeds", f"found {list(top['seeds'])}, expected each seed once")
    problems.stop(source)
    runs = _runs(files, out, top["seeds"], chosen, common, problems)
    names = tuple(dict.fromkeys(run.recipe.name for run in runs))
    for key, named in (("reference", [top["reference"]]), ("pairs", [n for pair in top["pairs"] for n in pair])):
        for name in named:
            if name is not None and name not in names:
                problems.add(key, f"no recipe is named {name!r}{suggestion(name, names)}")
    problems.stop(str(folder))
    title = top["title"] or folder.resolve().name
    return Study(title, out, names, top["seeds"], tuple(chosen), top["reference"], top["pairs"], runs)


def _files(folder: Path) -> tuple[list[Path], bool]:
    """The recipes in a folder, and whether it has a `study.yaml`; raises RecipeError where there are none."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".yaml")
    except OSError as error:
        raise RecipeError(f"could not read the folder {folder}: {error.strerror or error}") from error
    files = [path for path in found if path.name != FILE]
    if not files:
        raise RecipeError(f"{folder} holds no recipes; expected a folder of *.yaml files, one a model")
    return files, len(files) < len(found)


def _section(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {"option": given}


def _folds(wanted: Any, fold: dict[str, Any] | None, problems: Problems) -> dict[str | None, list[str]]:
    """The settings of each fold that is to run, by its name; one without a name where there are none."""
    if wanted == "none" or (fold is None and wanted is None):
        return {None: []}
    if fold is None:
        found = wanted if isinstance(wanted, str) else list(wanted)
        problems.add(
            "folds",
            f"found {found!r}, but no `fold: {{option: data.…, values: […]}}` in {FILE} says what one is; write that, "
            f"or leave this out",
        )
        return {}
    known = {str(value): value for value in fold["values"]}
    names = list(known) if wanted in (None, "all") else [str(value) for value in wanted]
    for name in names:
        if name not in known or not _FOLD.fullmatch(name):
            problems.add("folds", f"no fold is named {name!r}{suggestion(name, known)}")
    return {n: [*fold["settings"], f"{fold['option']}={json.dumps(known[n])}"] for n in names if n in known}


def _runs(
    files: Sequence[Path],
    out: Path,
    seeds: Sequence[int],
    folds: Mapping[str | None, list[str]],
    common: list[str],
    problems: Problems,
) -> tuple[Run, ...]:
    found: list[Run] = []
    owner: dict[str, Path] = {}
    for file in files:
        for seed in seeds:
            for fold, settings in folds.items():
                try:
                    recipe = load(file, [*common, *settings, f"seed={seed}"])
                except RecipeError as error:
                    problems.found.extend(str(error).splitlines())
                    break
                if owner.setdefault(recipe.name, file) != file:
                    problems.add(file.name, f"its name is {recipe.name!r}, as is that of {owner[recipe.name].name}")
                    break
                place = out / recipe.name / f"seed-{seed}"
                found.append(Run(recipe, fold, place if fold is None else place / f"fold-{fold}"))
            else:
                continue
            break  # one complaint a recipe
    problems.stop("recipes")
    return tuple(found)
