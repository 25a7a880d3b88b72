"""What a committee keeps on validation samples under several sets of trust: what a recipe's `trust` is chosen by.

    python benchmarks/trust.py recipes/utd_mhad/sensors-witness-adversarial.yaml --set data.path=/data/UTD-MHAD \
        --trust fused=0 --trust fused=0,skeleton=0.5,accelerometer=0.5 \
        --repeat data.validation_subjects=[1] data.validation_subjects=[3] data.validation_subjects=[5] \
        data.validation_subjects=[7]

Trains the recipe, once for each setting that is repeated, keeps the weights of the last epoch, and attacks its
validation split by 30 steps of APGD on the margin: each modality alone, all together, and, in the last column, whether
any of these wins. Trust is no part of training, so that one training serves all of them. Of several trainings the
samples are pooled; the test split is not read. Without `--trust` the recipe's own is taken (a unimodal one has none).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from crossguard.attacks import apgd
from crossguard.core.memory import keep_freed_memory
from crossguard.models.committee import trusted
from crossguard.recipe import load
from crossguard.recipe.run import build_model, load_splits, task_of
from crossguard.training import train
from crossguard.training.checks import readable


def kept(recipe_file: Path, settings: list[str], trusts: list[dict[str, float]]) -> list[dict[str, Tensor]]:
    """By set of trust: condition -> (N,) which validation samples stay right."""
    recipe = load(recipe_file, [*settings, "train.validate_every=1000"])
    splits = load_splits(recipe)
    task = task_of(splits)
    model = build_model(recipe, len(splits.classes))
    train(
        model, splits, task=task, threat=recipe.threat, objective=recipe.objective, config=recipe.train,
        seed=recipe.seed,
    )  # fmt: skip
    threat = readable(model, recipe.threat)
    assert threat is not None, f"{recipe_file}: nothing that the model reads has a budget"
    batch = splits.validation.read(range(len(splits.validation)))
    found: list[dict[str, Tensor]] = []
    for trust in trusts or [None]:
        if trust is not None:
            model.trust = trusted(trust, model.modalities, model.doubt)
        with torch.no_grad():
            clean = task.margin(model(batch.inputs, batch.mask).logits, batch.targets) > 0
        rows = {"clean": clean}
        for name, some in {**{m: threat.only(m) for m in threat.names}, "all": threat}.items():
            rows[name] = clean & ~apgd(
                model, batch.inputs, batch.targets, some, task=task, mask=batch.mask, ids=batch.ids, steps=30,
                objective="margin",
            ).success  # fmt: skip
        found.append({**rows, "any of these": torch.stack(list(rows.values())).all(dim=0)})
    return found


def main() -> None:
    """Print a line a set of trust."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME=NUMBER,…")
    parser.add_argument("--repeat", nargs="+", default=["seed=0"], metavar="KEY=VALUE", help="a training for each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    trusts = [{n: float(v) for n, v in (pair.split("=") for pair in text.split(","))} for text in given.trust]
    each = [kept(given.recipe, [*given.settings, one], trusts) for one in given.repeat]
    for i, text in enumerate(given.trust or ["as the recipe says"]):
        shares = {c: torch.cat([found[i][c] for found in each]).float().mean().item() for c in each[0][i]}
        print(text)
        print("  " + ", ".join(f"{c} {100 * share:.1f}" for c, share in shares.items()), flush=True)


if __name__ == "__main__":
    main()
