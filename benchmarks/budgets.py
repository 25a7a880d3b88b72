"""What undefended unimodal models keep under growing budgets, on validation subjects alone: what budgets are set by.

    python benchmarks/budgets.py --path /data/UTD-MHAD

Trains `recipes/utd_mhad/depth.yaml` and `skeleton.yaml` (standard) four times, each of the training subjects 1 3 5 7
held out once and the last epoch's weights kept (no checkpoint is chosen on what is then looked at), and attacks each
held-out subject by `cg.worst_case`. The budget of a modality is the smallest of the grid that leaves at most a tenth
right. Test subjects are not read from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import crossguard as cg
from crossguard.core.memory import keep_freed_memory
from crossguard.recipe import load
from crossguard.recipe.run import build_model, load_splits, task_of
from crossguard.training import train

GRIDS = {
    "depth": (5.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 125.0),  # mm
    "skeleton": (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07),  # metres
}
SUBJECTS = (1, 3, 5, 7)
KEPT = 0.1
ROOT = Path(__file__).parents[1]


def kept(modality: str, subject: int, path: Path, seed: int) -> list[int]:
    """How many clips of the held-out subject stay right, clean and at each budget; then how many there are."""
    settings = [f"data.path={path}", f"data.validation_subjects=[{subject}]", f"seed={seed}"]
    recipe = load(ROOT / "recipes" / "utd_mhad" / f"{modality}.yaml", [*settings, "train.validate_every=1000"])
    splits = load_splits(recipe)
    task = task_of(splits)
    result = train(
        build_model(recipe, len(splits.classes)), splits, task=task, threat=recipe.threat, objective=recipe.objective,
        config=recipe.train, seed=seed,
    )  # fmt: skip
    batch = splits.validation.read(range(len(splits.validation)))
    with torch.no_grad():
        clean = task.margin(result.model(batch.inputs, batch.mask).logits, batch.targets) > 0
    found, left = [int(clean.sum())], clean
    for eps in GRIDS[modality]:
        threat = cg.ThreatModel({modality: cg.Linf(eps, bounds=recipe.threat.budgets[modality].bounds)})
        worst = cg.worst_case(
            result.model, batch.inputs, batch.targets, threat, mask=batch.mask, ids=batch.ids, effort="standard"
        )
        left = left & ~worst.success
        found.append(int(left.sum()))
    return [*found, len(batch)]


def main() -> None:
    """Print a table a modality."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--path", type=Path, required=True, help="where UTD-MHAD lies")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for modality, grid in GRIDS.items():
        counts = torch.tensor([kept(modality, subject, given.path, given.seed) for subject in SUBJECTS]).sum(dim=0)
        shares = (counts[:-1] / counts[-1]).tolist()
        print(f"{modality} alone, standard training, {int(counts[-1])} clips of held-out training subjects")
        for eps, share in zip(("clean", *grid), shares, strict=True):
            print(f"  {eps!s:>6}  {100 * share:5.1f} % right")
        chosen = next((eps for eps, share in zip(grid, shares[1:], strict=True) if share <= KEPT), None)
        print(f"  budget: {chosen}", flush=True)


if __name__ == "__main__":
    main()
