"""What an undefended model keeps as the budgets of its recipe grow, on validation samples: what budgets are set by.

    python benchmarks/scales.py recipes/moments/plain.yaml
    python benchmarks/scales.py recipes/corsmal/plain.yaml --set data.path=/data/corsmal --repeat data.fold=0,1,2

Trains the recipe, once for each setting that is repeated, keeps the weights of the last epoch (no checkpoint is chosen
on what is then looked at), and attacks all modalities together at each scale by PGD on several losses from random
starts. A column is a loss, "worst" the lowest: of several labels GAP@20 over the whole set, else the share right
under all of them. The test split is not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import crossguard as cg
from crossguard.core.memory import keep_freed_memory
from crossguard.recipe import load
from crossguard.recipe.run import build_model, load_splits, task_of
from crossguard.training import train
from crossguard.training.validation import drawn

LOSSES = ("cross_entropy", "ranking", "margin")  # binary cross-entropy and LSEP, where there are several labels


def logits_of(
    recipe_path: Path, settings: list[str], scales: list[float], samples: int, steps: int
) -> dict[str, Tensor]:
    """ "targets", "clean", and "scale loss" -> what the trained model says of validation samples there."""
    recipe = load(recipe_path, [*settings, "train.validate_every=1000"])
    splits = load_splits(recipe)
    task = task_of(splits)
    model = train(
        build_model(recipe, len(splits.classes)), splits, task=task, threat=recipe.threat, objective=recipe.objective,
        config=recipe.train, seed=recipe.seed,
    ).model  # fmt: skip
    found: dict[str, list[Tensor]] = {}
    rows = drawn(splits.validation, samples)
    for first in range(0, len(rows), recipe.batch_size):
        batch = splits.validation.read(rows[first : first + recipe.batch_size])

        def say(name: str, inputs: cg.Inputs, batch: cg.Batch = batch) -> None:
            with torch.no_grad():
                found.setdefault(name, []).append(model(inputs, batch.mask).logits)

        found.setdefault("targets", []).append(batch.targets)
        say("clean", batch.inputs)
        for scale in scales:
            threat = recipe.threat.scaled(scale)
            for loss in LOSSES:
                say(f"{scale:g} {loss}", cg.attacks.pgd(
                    model, batch.inputs, batch.targets, threat, steps=steps, step_size=2.5 / steps, objective=loss,
                    task=task, mask=batch.mask, ids=batch.ids, stop="never", select="last",
                ).inputs)  # fmt: skip
    return {name: torch.cat(parts) for name, parts in found.items()}


def main() -> None:
    """Print a line a scale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--repeat", default="seed=0", metavar="KEY=VALUES", help="trainings whose samples are pooled")
    parser.add_argument("--scales", default="0.125,0.25,0.5,1,2,4")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    scales = [float(s) for s in given.scales.split(",")]
    key, _, values = given.repeat.partition("=")
    each = [
        logits_of(given.recipe, [*given.set, f"{key}={value}"], scales, given.samples, given.steps)
        for value in values.split(",")
    ]
    said = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    targets = said["targets"]

    def figure(*names: str) -> float:
        """The lowest GAP, or the share that is right in all."""
        if targets.dim() == 2:
            return min(cg.metrics.gap(said[name], targets) for name in names)
        right = torch.stack([said[name].argmax(dim=1) == targets for name in names]).all(dim=0)
        return float(right.float().mean())

    clean = figure("clean")
    print(f"{given.recipe}: {len(targets)} validation samples, clean {100 * clean:.1f} %, PGD of {given.steps} steps")
    print("   scale " + "".join(f"{loss:>15}" for loss in (*LOSSES, "worst", "of clean")))
    for scale in scales:
        names = [f"{scale:g} {loss}" for loss in LOSSES]
        columns = [*(figure(name) for name in names), figure(*names), figure(*names) / clean]
        print(f"{scale:8g} " + "".join(f"{100 * c:15.1f}" for c in columns), flush=True)


if __name__ == "__main__":
    main()
