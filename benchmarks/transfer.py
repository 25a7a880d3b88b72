"""Whether what fools one trained model fools others beyond what their own attacks had found: transfer must not win.

    python benchmarks/transfer.py runs/utd_mhad/*-adversarial/seed-0

Takes run folders of one data set (trained and evaluated), attacks all modalities that a model reads by MI-FGSM, and
shows what was found to every other. Prints by target how many samples withstood its own evaluation, and how many of
those fell to any of the other models' examples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import crossguard as cg
from crossguard.core.files import read_safetensors
from crossguard.core.memory import keep_freed_memory
from crossguard.models import FusionModel
from crossguard.recipe import load
from crossguard.recipe.run import WEIGHTS, build_model, load_splits
from crossguard.training.checks import readable


def trained(folder: Path, classes: int) -> FusionModel:
    """The model of a run folder, in eval mode."""
    model = build_model(load(folder / "recipe.yaml"), classes)
    model.load_state_dict(read_safetensors(folder / WEIGHTS))
    return model.eval()


def main() -> None:
    """Print a line a target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    recipes = {folder: load(folder / "recipe.yaml") for folder in given.runs}
    recipe = recipes[given.runs[0]]
    splits = load_splits(recipe)
    batch = splits.test.read(range(len(splits.test)))
    alike = [folder for folder in given.runs if recipes[folder].document["data"] == recipe.document["data"]]
    for folder in set(given.runs) - set(alike):
        print(f"{folder}: left out, its data are read in another way than those of {given.runs[0]}")
    models = {folder: trained(folder, len(splits.classes)) for folder in alike}
    found = {}
    for folder, model in models.items():
        threat = readable(model, recipe.threat)
        assert threat is not None
        found[folder] = cg.attacks.mi_fgsm(
            model, batch.inputs, batch.targets, threat, steps=given.steps, mask=batch.mask, ids=batch.ids, stop="never"
        ).inputs
    print("target, withstood its own attacks, fell to another model's examples")
    for folder, model in models.items():
        record = cg.Record.load(folder)
        order = {sample: row for row, sample in enumerate(record.samples["ids"].tolist())}
        stood = record.right("joint")[[order[sample] for sample in batch.ids]]
        fell = np.zeros(len(batch), dtype=bool)
        for source, inputs in found.items():
            if source != folder:
                with torch.no_grad():
                    fell |= (model(inputs, batch.mask).logits.argmax(dim=1) != batch.targets).numpy()
        print(f"{record.name}, {int(stood.sum())} of {len(batch)}, {int((stood & fell).sum())}")


if __name__ == "__main__":
    main()
