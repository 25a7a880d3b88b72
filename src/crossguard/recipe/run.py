"""What a recipe asks for, done: data, model, training, evaluation. The commands and the demo both come through here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from crossguard.core.errors import ModelError, RecipeError, RunError
from crossguard.core.files import read_json, read_safetensors
from crossguard.core.task import MultiLabel, SingleLabel, Task
from crossguard.data import Loader, Splits
from crossguard.evaluation import Record, evaluate
from crossguard.models import FusionModel
from crossguard.recipe.recipe import FILE, Recipe, load
from crossguard.recipe.validation import Problems
from crossguard.recipe.wording import suggestion
from crossguard.training import Progress, TrainResult, train
from crossguard.training.checkpoint import differences

WEIGHTS = "model.safetensors"


def load_splits(recipe: Recipe) -> Splits:
    """The recipe's data; raises DataError for bad files, RecipeError for modalities that the data
    lack, ThreatError for bounds that do not hold the data."""
    splits: Splits = recipe.data()
    problems = Problems()
    for section, names in (("model.encoders", recipe.encoders), ("threat", recipe.threat.declared)):
        for name in names:
            if name not in splits.modalities:
                known = list(splits.modalities)
                problems.add(f"{section}.{name}", f"the data have no such modality{suggestion(name, known)}")
    problems.stop(f"recipe {recipe.name}")
    for split in (splits.train, splits.validation, splits.test):  # a look: training and evaluation check every sample
        some = split.read(range(min(64, len(split))))
        recipe.threat.check(some.inputs, some.mask)
    return splits


def task_of(splits: Splits) -> Task:
    """Single-label where targets are (N,), multi-label where they are (N, C)."""
    kind = SingleLabel if splits.train.targets.dim() == 1 else MultiLabel
    return kind(len(splits.classes))


def build_model(recipe: Recipe, classes: int) -> FusionModel:
    """The recipe's model, its first weights a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoders = {name: encoder() for name, encoder in recipe.encoders.items()}
        return FusionModel(encoders, recipe.fusion(), classes, **recipe.flags)


def train_run(
    recipe: Recipe,
    out: Path,
    *,
    splits: Splits | None = None,
    device: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train into the run folder `out`, or go on there.

    Raises RunError where it holds another recipe's run or another process trains into it, RecipeError where the model
    does not fit the data; what is refused leaves the folder as it was.
    """
    _check_folder(out, recipe)
    splits = load_splits(recipe) if splits is None else splits
    model = build_model(recipe, len(splits.classes))
    try:
        return train(
            model,
            splits,
            task=task_of(splits),
            threat=recipe.threat,
            objective=recipe.objective,
            config=recipe.train,
            seed=recipe.seed,
            out=out,
            recipe={"model": recipe.document["model"]},
            progress=progress,
            device=device,
            # Not before the folder is held: another process may be training another recipe into it.
            begin=lambda: recipe.save(out),
        )
    except ModelError as error:
        raise RecipeError(f"recipe {recipe.name}: the model does not fit the data: {error}") from error


def trained(folder: Path) -> bool:
    """Whether the training in a run folder is finished."""
    return (folder / "train.json").exists() and (folder / WEIGHTS).exists()


def open_run(
    folder: Path, settings: Sequence[str] = (), *, splits: Splits | None = None
) -> tuple[Recipe, Splits, FusionModel]:
    """The recipe, the data and the trained model of a run folder.

    Raises RunError where no training is finished, or the data now have other classes than the model was trained on.
    """
    if not (folder / FILE).exists():
        raise RunError(
            f"{folder} is no run folder: it has no {FILE}; `crossguard train RECIPE --out {folder}` makes one"
        )
    recipe = load(folder / FILE, settings)
    if not trained(folder):
        raise RunError(
            f"the training in {folder} is not finished; `crossguard train {folder / FILE} --out {folder}` goes on"
        )
    splits = load_splits(recipe) if splits is None else splits
    # Of classes as many but named or ordered otherwise, the weights would fit and every answer be another one.
    known = read_json(folder / "train.json").get("classes", list(splits.classes))
    if known != list(splits.classes):
        at = next((i for i, (a, b) in enumerate(zip(known, splits.classes, strict=False)) if a != b), None)
        first = "" if at is None else f", class {at} was {known[at]!r}, is {splits.classes[at]!r}"
        raise RunError(
            f"the model in {folder} was trained on {len(known)} classes, the data have {len(splits.classes)}{first}; "
            f"give the data the classes in that order (a manifest: classes.txt beside it), or train again"
        )
    model = build_model(recipe, len(splits.classes))
    weights = read_safetensors(folder / WEIGHTS)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{folder / WEIGHTS} does not fit the recipe's model: {error}") from error
    return recipe, splits, model


def evaluate_run(
    folder: Path,
    settings: Sequence[str] = (),
    *,
    out: Path | None = None,
    splits: Splits | None = None,
    device: str | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Record:
    """Attack the model that was trained in `folder`; the Record goes to `out`, else beside it.

    Raises RunError where there is no finished training.
    """
    recipe, splits, model = open_run(folder, settings, splits=splits)
    return evaluate(
        model if device is None else model.to(device),
        Loader(splits.test, recipe.batch_size),
        recipe.threat,
        task=task_of(splits),
        protocol=recipe.protocol,
        seed=recipe.seed,
        out=folder if out is None else out,
        name=recipe.name,
        recipe={**recipe.document, "digest": recipe.digest},
        training=_price(folder, recipe),
        modalities=splits.modalities,
        classes=splits.classes,
        progress=progress,
    )


def _price(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What the Record says of the training."""
    result = read_json(folder / "train.json")
    objective = recipe.document["objective"]
    return {
        "objective": objective["name"],
        "attacked": objective.get("attacked"),
        **result["price"],
        "epochs": result["epochs"],
        "best_epoch": result["best_epoch"],
        "validation": result["accuracy"],
    }


def _check_folder(folder: Path, recipe: Recipe) -> None:
    """Raise RunError where `folder` holds a started run of a recipe that trains otherwise."""
    if not (folder / FILE).exists() or not (folder / "checkpoint" / "latest.json").exists():
        return
    changes = differences(_training_part(load(folder / FILE)), _training_part(recipe))
    if changes:
        raise RunError(
            f"{folder} holds a run of another recipe: {'; '.join(changes[:8])}{'; …' if len(changes) > 8 else ''}. "
            f"Train into another folder (--out), or remove this one"
        )


def _training_part(recipe: Recipe) -> dict[str, Any]:
    """What decides the weights."""
    parts = {key: recipe.document[key] for key in ("seed", "data", "model", "objective", "threat")}
    return {**parts, "train": recipe.train.outcome()}
