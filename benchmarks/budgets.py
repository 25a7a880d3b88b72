"""What an undefended unimodal model keeps under growing budgets, on validation data: what budgets are set by.

    python benchmarks/budgets.py recipes/avmnist/audio-standard.yaml 40 35 30 20 --set data.path=/data/avmnist
    python benchmarks/budgets.py recipes/utd_mhad/skeleton.yaml 0.002 0.005 0.01 0.02 0.03 0.05 0.07 \
        --set data.path=/data/UTD-MHAD --repeat data.validation_subjects=[1] data.validation_subjects=[3] \
        data.validation_subjects=[5] data.validation_subjects=[7]      # and depth.yaml: 5 10 20 30 50 70 100 125

Trains the recipe, once for each setting that is repeated, the last epoch's weights kept (no checkpoint is chosen on
what is then looked at), and attacks its validation split by `cg.worst_case` under its own norm at each budget named,
weakest first; of several trainings the samples are pooled. The test split is not read from. Of several labels: a
sample is right where its top-scored class is one of its own. `--samples` looks at the first so many of each split.
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
from crossguard.training.checks import readable


def kept(recipe_file: Path, grid: list[float], settings: list[str], samples: int | None) -> list[int]:
    """How many validation samples stay right, clean and at each budget; then how many there are."""
    recipe = load(recipe_file, [*settings, "train.validate_every=1000"])
    splits = load_splits(recipe)
    task = task_of(splits)
    model = build_model(recipe, len(splits.classes))
    threat = readable(model, recipe.threat)
    if threat is None or len(threat.names) != 1:
        raise SystemExit(
            f"{recipe_file}: found a model that can be attacked on {threat and threat.names}, expected one"
        )
    result = train(
        model, splits, task=task, threat=recipe.threat, objective=recipe.objective,
        config=recipe.train, seed=recipe.seed,
    )  # fmt: skip
    batch = splits.validation.read(range(min(len(splits.validation), samples or len(splits.validation))))
    with torch.no_grad():
        clean = task.margin(result.model(batch.inputs, batch.mask).logits, batch.targets) > 0
    found, left = [int(clean.sum())], clean
    for eps in grid:
        grown = cg.ThreatModel({name: replace(b, eps=eps) for name, b in threat.budgets.items()})
        worst = cg.worst_case(
            result.model, batch.inputs, batch.targets, grown, task=task, mask=batch.mask, ids=batch.ids,
            effort="standard",
        )  # fmt: skip
        left = left & ~worst.success
        found.append(int(left.sum()))
    return [*found, len(batch)]


def main() -> None:
    """Print a line a budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path, help="of a single modality")
    parser.add_argument("grid", type=float, nargs="+", help="budgets in its norm, weakest first")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--repeat", nargs="+", default=["seed=0"], metavar="KEY=VALUE", help="a training for each")
    parser.add_argument("--samples", type=int, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    each = [kept(given.recipe, given.grid, [*given.settings, one], given.samples) for one in given.repeat]
    *counts, total = torch.tensor(each).sum(dim=0).tolist()
    print(f"{given.recipe}: {total} validation samples")
    for eps, count in zip(("clean", *given.grid), counts, strict=True):
        print(f"  {eps!s:>6}  {100 * count / total:5.1f} % right", flush=True)


if __name__ == "__main__":
    main()
