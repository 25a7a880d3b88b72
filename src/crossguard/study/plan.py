"""What a study is: recipes x seeds x folds, each a run with a folder of its own, all checked before any starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
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
    folds: Literal["all", "none"] | Annotated[tuple[_Value, ...], Field(min_length=1)] | None = None,
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
            return digest == self.recipe.digest or _resolved(json.dumps(meta["recipe"])) == self.recipe.digest
        except (RunError, RecipeError, KeyError, TypeError, AttributeError):
            return False


@cache  # it builds the model, and a study asks each run several times whether it is finished
def _resolved(document: str) -> str:
    """The digest of a recipe (JSON) with the defaults of today."""
    return validate(json.loads(document)).digest


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
    put = [("settings", setting) for setting in common]
    put += [] if fold is None else [("fold", setting) for setting in (*fold["settings"], fold["option"])]
    for key, setting in put:
        if setting.partition("=")[0].strip() in ("seed", "name"):
            problems.add(key, f"{setting}: a study sets seeds itself (seeds: [0, 1]), and its recipes the names")
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
    title = " ".join((top["title"] or folder.resolve().name).split())  # one line: a heading, a comment in LaTeX
    return Study(title, out, names, top["seeds"], tuple(chosen), top["reference"], top["pairs"], runs)


def _files(folder: Path) -> tuple[list[Path], bool]:
    """The recipes in a folder, and whether it has a `study.yaml`; raises RecipeError where there are none."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise RecipeError(f"could not read the folder {folder}: {error.strerror or error}") from error
    for path in found:
        if path.suffix == ".yml":
            raise RecipeError(f"{path} would not be read: a study takes *.yaml; rename it, or move it elsewhere")
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
        try:
            # Once a fold and not a seed: each builds the model.
            recipes = {f: load(file, [*common, *settings, f"seed={seeds[0]}"]) for f, settings in folds.items()}
        except RecipeError as error:
            problems.found.extend(str(error).splitlines())
            continue
        name = next(iter(recipes.values())).name
        if owner.setdefault(name, file) != file:
            problems.add(file.name, f"its name is {name!r}, as is that of {owner[name].name}")
        for seed in seeds:
            place = out / name / f"seed-{seed}"
            for fold, recipe in recipes.items():
                mine = replace(recipe, seed=seed, document={**recipe.document, "seed": seed})
                found.append(Run(mine, fold, place if fold is None else place / f"fold-{fold}"))
    problems.stop("recipes")
    return tuple(found)
