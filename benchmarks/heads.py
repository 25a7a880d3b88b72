"""A committee attacked by way of its heads, all modalities together: does it keep what its Record says?

    python benchmarks/heads.py runs/utd_mhad/sensors-witness-adversarial/seed-0

Takes run folders (trained and evaluated). Of the test samples that the Record calls right with all modalities attacked,
how many survive, one attack after the other: APGD of `--steps` steps on the margin of the answer from three random
starts; on the losses of the answer and of every head together, so that no head is spared because the answer does not
listen to it now; on the answer without its doubt, whose bound on a sure head also makes its gradient small; and random
search.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import crossguard as cg
from crossguard.attacks import apgd, square
from crossguard.core.memory import keep_freed_memory
from crossguard.defences.stacked import Stacked, StackedTask
from crossguard.models import FusionModel
from crossguard.recipe.run import open_run, task_of
from crossguard.training.checks import readable


def attempts(
    model: FusionModel, batch: cg.Batch, threat: cg.ThreatModel, task: cg.Task, steps: int
) -> Iterator[tuple[str, cg.Inputs]]:
    """What each attack found, by the attack's name."""

    def climb(net: torch.nn.Module, of: cg.Task, **options: Any) -> cg.Inputs:
        return apgd(
            net, batch.inputs, batch.targets, threat, task=of, mask=batch.mask, ids=batch.ids, steps=steps, **options
        ).inputs  # fmt: skip

    yield "margin, three starts", climb(model, task, objective="margin", restarts=3, seed=7)
    stacked = Stacked(model)
    yield "every head's loss", climb(stacked, StackedTask(task, 1.0, stacked), seed=8)
    doubt, model.doubt = model.doubt, 0.0
    without = climb(model, task, objective="margin", seed=9)
    model.doubt = doubt
    yield "without the doubt", without
    yield "random search", square(
        model, batch.inputs, batch.targets, threat, task=task, mask=batch.mask, ids=batch.ids, queries=2000, seed=10
    ).inputs  # fmt: skip


def main() -> None:
    """Print a line a run and attack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for folder in given.runs:
        recipe, splits, model = open_run(folder)
        model.eval()
        task, threat = task_of(splits), readable(model, recipe.threat)
        assert threat is not None, f"{folder}: nothing that the model reads has a budget"
        right = dict(zip(*(cg.Record.load(folder).samples[k].tolist() for k in ("ids", "margin/joint")), strict=True))
        batch = splits.test.read(range(len(splits.test)))
        batch = batch.take([i for i, name in enumerate(batch.ids) if right[name] > 0])
        left = torch.ones(len(batch), dtype=torch.bool)
        print(f"{folder}: {len(batch)} of {len(splits.test)} right in the Record with all attacked")
        for name, inputs in attempts(model, batch, threat, task, given.steps):
            with torch.no_grad():
                left &= task.margin(model(inputs, batch.mask).logits, batch.targets) > 0
            print(f"  {int(left.sum()):4d} left after {name}", flush=True)


if __name__ == "__main__":
    main()
