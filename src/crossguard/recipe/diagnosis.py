"""A trained run looked into: its latents and modalities, and universal perturbations of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossguard.core.estimate import Estimate
from crossguard.core.files import write_json
from crossguard.data import Loader
from crossguard.diagnostics.diagnose import diagnose, plain
from crossguard.diagnostics.projection import Method
from crossguard.evaluation.universal import Universal, transfer_matrix, universal_attacks
from crossguard.recipe.run import open_run, task_of
from crossguard.training.checks import readable

DIAGNOSIS = "diagnosis.json"
Progress = Callable[[str, int, int | None], object]


def diagnose_run(
    folder: Path,
    settings: Sequence[str] = (),
    *,
    samples: int = 400,
    steps: int = 50,
    projection: Method | None = "pca",
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`diagnostics.diagnose` of the model trained in `folder` on its test data, kept in `folder`/diagnosis.json."""
    recipe, splits, model = open_run(folder, settings)
    threat = readable(model, recipe.threat) or recipe.threat
    found = diagnose(
        model if device is None else model.to(device), splits.test, threat, task=task_of(splits), samples=samples,
        steps=steps, batch_size=recipe.batch_size, projection=projection, seed=recipe.seed, progress=progress,
    )  # fmt: skip
    write_json(folder / DIAGNOSIS, {"name": recipe.name, "recipe": recipe.digest, **found})
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

    The runs read the same test data; the matrix, which is of all runs' joint (or only) perturbations shown to every
    model, is written into each folder.
    """
    found: dict[str, Universal] = {}
    models: dict[str, Any] = {}
    loader: Loader | None = None
    task: Any = None
    for folder in folders:
        recipe, splits, model = open_run(folder)
        threat = readable(model, recipe.threat) or recipe.threat
        models[folder.name] = model if device is None else model.to(device)
        loader, task = Loader(splits.test, recipe.batch_size), task_of(splits)
        train = Loader(splits.train, recipe.batch_size, shuffle=True, seed=recipe.seed)
        found[folder.name] = universal_attacks(
            model, train, loader, threat, task=task, out=folder / "universal", modalities=splits.modalities,
            seed=recipe.seed, progress=progress, epochs=epochs, step_size=step_size,
        )  # fmt: skip
    assert loader is not None, "there is a folder at least"
    shown = {f"{name} / {c}": p for name, u in found.items() for c, p in list(u.perturbations.items())[-1:]}
    matrix = transfer_matrix(models, shown, loader, task=task)
    if len(folders) > 1:
        table = {m: {p: plain(asdict(e)) for p, e in row.items()} for m, row in matrix.items()}
        for folder in folders:
            write_json(folder / "universal" / "transfer.json", table)
    return found, matrix
