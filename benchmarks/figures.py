"""The embedded action set: clips a second, and what standard models reach on each regime.

python benchmarks/figures.py                          # speed
python benchmarks/figures.py --accuracy               # the demo's standard models, trained on every regime
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date
from importlib import resources
from pathlib import Path

import torch

from crossguard.core.model import forward
from crossguard.data import Loader
from crossguard.data.figures import generate
from crossguard.data.figures.regimes import REGIMES
from crossguard.evaluation.statistics import share
from crossguard.recipe import build_model, load, load_splits
from crossguard.recipe.run import task_of
from crossguard.training import train


def speed(clips: int, size: int, frames: int) -> None:
    """Motion, drawing and tracking of `clips` clips, without the cache."""
    generate("train", 16, regime="balanced", size=size, frames=frames, seed=0)
    for regime in REGIMES:
        start = time.perf_counter()
        generate("train", clips, regime=regime, size=size, frames=frames, seed=0)
        took = time.perf_counter() - start
        print(
            f"{regime}: {clips} clips of {frames} frames at {size}x{size} in {took:.2f} s, {clips / took:.0f} clips/s"
        )


def accuracy(recipe: Path, settings: list[str]) -> str:
    """Train one recipe; its test accuracy with a 95 % interval over performers."""
    checked = load(recipe, settings)
    splits = load_splits(checked)
    model = build_model(checked, len(splits.classes))
    result = train(
        model,
        splits,
        task=task_of(splits),
        threat=checked.threat,
        objective=checked.objective,
        config=checked.train,
        seed=checked.seed,
    )
    with torch.no_grad():
        right = [
            forward(result.model, b.inputs, b.mask).logits.argmax(1) == b.targets for b in Loader(splits.test, 100)
        ]
    found = share(torch.cat(right).numpy(), splits.test.groups)
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%}, n = {found.n}, {result.price.seconds:.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--size", type=int, default=48, help="pixels")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{date.today()}, {platform.machine()}, {options.threads} threads, torch {torch.__version__}")
    if not options.accuracy:
        speed(options.clips, options.size, options.frames)
        return
    for regime in REGIMES:
        for name in ("rgb-standard", "skeleton-standard", "concat-standard"):
            with resources.as_file(resources.files("crossguard") / "recipes" / "demo" / f"{name}.yaml") as recipe:
                reached = accuracy(recipe, [f"data.regime={regime}", "data.test=600"])
            print(f"{regime}: {name} {reached}", flush=True)


if __name__ == "__main__":
    main()
