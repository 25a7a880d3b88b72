"""What an undefended unimodal model keeps under growing budgets, on validation data: what budgets of sound are set by.

    python benchmarks/budgets_audio_visual.py recipes/avmnist/audio-standard.yaml 40 30 20 --set data.path=/data/avmnist

Trains the recipe on its training split, the last epoch's weights kept (no checkpoint is chosen on what is then looked
at), and attacks its validation split by `cg.worst_case` under its own norm at each budget named, weakest first. The
test split is not read from. Of several labels: a clip is right where its top-scored class is one of its own.
`--samples` looks at the first so many.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import crossguard as cg
from crossguard.core.memory import keep_freed_memory
from crossguard.recipe import load
from crossguard.recipe.run import build_model, load_splits, task_of
from crossguard.training import train


def kept(recipe_file: Path, grid: list[float], settings: list[str], samples: int | None) -> tuple[list[int], int]:
    """How many validation samples stay right, clean and at each budget; then how many there are."""
    recipe = load(recipe_file, [*settings, "train.validate_every=1000"])
    (name,) = recipe.threat.names
    splits = load_splits(recipe)
    task = task_of(splits)
    result = train(
        build_model(recipe, len(splits.classes)), splits, task=task, threat=recipe.threat, objective=recipe.objective,
        config=recipe.train, seed=recipe.seed,
    )  # fmt: skip
    batch = splits.validation.read(range(min(len(splits.validation), samples or len(splits.validation))))
    with torch.no_grad():
        clean = task.margin(result.model(batch.inputs, batch.mask).logits, batch.targets) > 0
    found, left = [int(clean.sum())], clean
    for eps in grid:
        threat = cg.ThreatModel({name: replace(recipe.threat.budgets[name], eps=eps)})
        worst = cg.worst_case(
            result.model, batch.inputs, batch.targets, threat, task=task, mask=batch.mask, ids=batch.ids,
            effort="standard",
        )  # fmt: skip
        left = left & ~worst.success
        found.append(int(left.sum()))
    return found, len(batch)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path, help="of a single modality")
    parser.add_argument("grid", type=float, nargs="+", help="budgets in its norm, weakest first")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--samples", type=int, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    counts, total = kept(given.recipe, given.grid, given.settings, given.samples)
    print(f"{given.recipe}: {total} clips of the validation split")
    for eps, count in zip(("clean", *given.grid), counts, strict=True):
        print(f"  {eps!s:>6}  {100 * count / total:5.1f} % right", flush=True)


if __name__ == "__main__":
    main()
