"""A trained run looked into: its latents and modalities, and universal perturbations of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from crossguard.core.errors import InputError
from crossguard.core.estimate import Estimate
from crossguard.core.files import write_json
from crossguard.data import Dataset, Loader, Splits
from crossguard.diagnostics.diagnose import diagnose, plain
from crossguard.diagnostics.projection import Method
from crossguard.evaluation.store import model_hash
from crossguard.evaluation.stream import digest as content
from crossguard.evaluation.universal import Universal, transfer_matrix, universal_attacks
from crossguard.models import FusionModel
from crossguard.recipe.recipe import FILE, Recipe, load
from crossguard.recipe.run import open_run, task_of
from crossguard.training.checks import digest, readable

DIAGNOSIS = "diagnosis.json"
Progress = Callable[[str, int, int | None], object]
Run: TypeAlias = tuple[Recipe, Splits, FusionModel]


def diagnose_run(
    folder: Path,
    settings: Sequence[str] = (),
    *,
    out: Path | None = None,
    samples: int = 400,
    steps: int = 50,
    projection: Method | None = "pca",
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`diagnostics.diagnose` of the model trained in `folder` on its test data, kept in `out`/diagnosis.json (None:
    `folder`), with what it is `of`, by which a page tells whether it belongs to the Record there."""
    recipe, splits, model = open_run(folder, settings)
    threat = readable(model, recipe.threat) or recipe.threat
    found = diagnose(
        model if device is None else model.to(device), splits.test, threat, task=task_of(splits), samples=samples,
        steps=steps, batch_size=recipe.batch_size, projection=projection, seed=recipe.seed, progress=progress,
    )  # fmt: skip
    of = {"weights": model_hash(model), "data": recipe.document["data"], "budgets": recipe.threat.to_dict()}
    write_json((out or folder) / DIAGNOSIS, {"name": recipe.name, "recipe": recipe.digest, "of": of, **found})
    return found


def universal_runs(
    folders: Sequence[Path],
    *,
    epochs: int = 5,
    step_size: float = 0.1,
    device: str | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Universal], dict[str, dict[str, Estimate]]]:
    """Universal perturbations of each run, in FOLDER/universal, and model -> "run / condition" -> accuracy left.

    The matrix, which is of all runs' joint (or only) perturbations shown to every model, is written into each folder.
    Raises InputError before any work where the runs read different test data.
    """
    run: Run | None = None
    for folder in folders:
        opened = _open(folder, run)
        if run is not None:
            _check_same(folders[0], run[1].test, folder, opened[1].test)
        run = opened
    found: dict[str, Universal] = {}
    models: dict[str, Any] = {}
    for folder in folders:
        recipe, splits, model = run = _open(folder, run)
        threat = readable(model, recipe.threat) or recipe.threat
        models[folder.name] = model if device is None else model.to(device)
        train = Loader(splits.train, recipe.batch_size, shuffle=True, seed=recipe.seed)
        found[folder.name] = universal_attacks(
            model, train, Loader(splits.test, recipe.batch_size), threat, task=task_of(splits),
            out=folder / "universal", modalities=splits.modalities, seed=recipe.seed, progress=progress, epochs=epochs,
            step_size=step_size,
        )  # fmt: skip
    assert run is not None, "there is a folder at least"
    shown = {f"{name} / {c}": p for name, u in found.items() for c, p in list(u.perturbations.items())[-1:]}
    matrix = transfer_matrix(models, shown, Loader(run[1].test, run[0].batch_size), task=task_of(run[1]))
    if len(folders) > 1:
        table = {m: {p: plain(asdict(e)) for p, e in row.items()} for m, row in matrix.items()}
        for folder in folders:
            write_json(folder / "universal" / "transfer.json", table)
    return found, matrix


def _open(folder: Path, before: Run | None) -> Run:
    """`open_run`; where its data are those of the run `before`, they are not read again."""
    if before is None or not (folder / FILE).exists():
        return open_run(folder)
    same = load(folder / FILE).document["data"] == before[0].document["data"]
    return open_run(folder, splits=before[1] if same else None)


def _check_same(first: Path, known: Dataset, folder: Path, test: Dataset) -> None:
    """Raise InputError where the test data of a run are not those that the runs from the `first` on read."""
    if test is known:
        return
    differs = {
        "classes": test.classes != known.classes,
        "sample ids": test.ids != known.ids,
        "targets": digest(test)["key"] != digest(known)["key"],
        "inputs": content(test.read([0])) != content(known.read([0])),
    }
    what = next((name for name, other in differs.items() if other), None)
    if what is not None:
        raise InputError(
            f"the test data of {folder} ({len(test)} samples) have other {what} than those of {first} ({len(known)}); "
            f"expected the same, since each model is shown what was found on the others: give runs whose recipes say "
            f"the same of their test data (section data), or each run to a command of its own"
        )
