"""What a model that sees outlines keeps where the attacker may redraw them, beyond the threat model of its recipe.

    python benchmarks/outline.py runs/utd_mhad/witness-adversarial/seed-*

Takes run folders (trained) of models whose branch `--modality` sees the outline alone. Flips a share of the pixels on
the outline's border, in ten rounds those that lower the margin most by its gradient (ours: a pixel may leave the body
or join it, where it touches the other side), then attacks what else the model reads by 50 steps of APGD on the margin
with the outline as it is drawn. Prints how many clips stay right: the redrawn outline alone, and with that attack; and
with every outline grown or shrunk by one pixel. Of several runs a mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core import Feature, Task
from crossguard.core.memory import keep_freed_memory
from crossguard.models import FusionModel, OutlineNet
from crossguard.recipe.run import open_run, task_of
from crossguard.training.checks import readable

SHARES = (0.0, 0.01, 0.02, 0.05)
ROUNDS = 10


def grown(mask: Tensor) -> Tensor:
    """A (N, 1, T, H, W) bool mask and the pixels that touch it by a side, in each frame."""
    x = mask.float().flatten(1, 2)
    up = nn.functional.max_pool2d(x, (3, 1), 1, (1, 0))
    aside = nn.functional.max_pool2d(x, (1, 3), 1, (0, 1))
    return torch.maximum(up, aside).view_as(mask) > 0


def border(mask: Tensor) -> Tensor:
    """The pixels on either side of the outline; in a frame without a body there are none."""
    return grown(mask) & grown(~mask)


def slopes(model: FusionModel, batch: cg.Batch, mask: Tensor, modality: str, task: Task) -> tuple[Tensor, Tensor]:
    """(N,) margins with this mask, and their gradients at the outline that the branch is shown."""
    encoder = model.encoders[modality]
    assert isinstance(encoder, OutlineNet)
    shown = mask.float().requires_grad_()
    branches = {n: model.encode(n, batch.inputs[n], batch.mask.get(n)) for n in model.modalities if n != modality}
    seen = Feature(encoder.mix(encoder.pace(encoder.cells(shown))))
    margin = task.margin(model.fuse({**branches, modality: seen}).logits, batch.targets)
    return margin.detach(), torch.autograd.grad(margin.sum(), shown)[0]


def redrawn(model: FusionModel, batch: cg.Batch, modality: str, share: float, task: Task) -> Tensor:
    """The mask with at most this share of each clip's border pixels flipped, at the lowest margin seen."""
    clean = batch.mask[modality]
    room = (share * border(clean).flatten(1).sum(dim=1)).long()
    mask = best = clean
    lowest = torch.full((len(batch),), torch.inf)
    for turn in range(ROUNDS + 1):
        margin, slope = slopes(model, batch, mask, modality, task)
        better = margin < lowest
        best = torch.where(better.view(-1, 1, 1, 1, 1), mask, best)
        lowest = torch.minimum(lowest, margin)
        if turn < ROUNDS:
            # What a flip takes from the margin, to first order: a pixel that leaves the body, or one that joins it.
            gain = torch.where(mask, slope, -slope)
            gain = gain.masked_fill(~border(mask) | (mask != clean) | (gain <= 0), 0.0).flatten(1)
            rank = gain.argsort(dim=1, descending=True).argsort(dim=1)
            take = (rank < (room * (turn + 1) // ROUNDS - room * turn // ROUNDS)[:, None]) & (gain > 0)
            mask = mask ^ take.view_as(mask)
    return best


def kept(
    model: FusionModel, batch: cg.Batch, mask: Tensor, modality: str, threat: cg.ThreatModel | None
) -> list[Tensor]:
    """Which clips stay right with this mask, and then with the rest attacked as well."""
    masks = {**batch.mask, modality: mask}
    with torch.no_grad():
        right = model(batch.inputs, masks).logits.argmax(dim=1) == batch.targets
    if threat is None:
        return [right, right]
    found = cg.attacks.apgd(
        model, batch.inputs, batch.targets, threat, mask=masks, ids=batch.ids, steps=50, objective="margin"
    )
    return [right, right & ~found.success]


def main() -> None:
    """Print a line an outline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--modality", default="depth")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    total: dict[str, Tensor] = {}
    for folder in given.runs:
        recipe, splits, model = open_run(folder)
        model.eval()
        task, threat = task_of(splits), readable(model, recipe.threat)
        batch, name = splits.test.read(range(len(splits.test))), given.modality
        clean = batch.mask[name]
        masks = {f"{100 * share:g} % of the border": redrawn(model, batch, name, share, task) for share in SHARES}
        masks |= {"grown by a pixel": grown(clean), "shrunk by a pixel": ~grown(~clean)}
        for what, mask in masks.items():
            shares = torch.stack([x.float().mean() for x in kept(model, batch, mask, name, threat)])
            total[what] = total.get(what, torch.zeros(2)) + shares / len(given.runs)
    print("right, in per cent: with the outline redrawn, and with the rest attacked as well")
    for what, shares in total.items():
        print(f"  {what:>22}  {100 * float(shares[0]):5.1f}  {100 * float(shares[1]):5.1f}")


if __name__ == "__main__":
    main()
