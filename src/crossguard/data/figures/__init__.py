"""The embedded action set: generated people who move in generated rooms, as RGB video and as skeletons.

Every clip is a function of (seed, split, number) and the regime: it is the same on any machine, whatever else is asked
for. Sines and cosines may differ in their last bit between machines, so joints and all that is projected are rounded
to 0.1 mm before anything is drawn, and from there on only operations are used that IEEE 754 rounds alike everywhere.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from crossguard.core.errors import InputError
from crossguard.core.modality import Modality
from crossguard.data.base import Splits, TensorDataset
from crossguard.data.cache import cache_key, load_or_build
from crossguard.data.figures.actions import CLASSES
from crossguard.data.figures.clips import Clips, action_of, make, performer_of
from crossguard.data.figures.regimes import REGIMES, Regime
from crossguard.data.figures.scene import CAMERA
from crossguard.data.figures.skeleton import BONES

VERSION = 1  # of the generator: raise it with any change of what comes out
SECONDS = 2.0  # length of a clip
_PICTURES = 256  # drawn at a time: what fits a processor's cache


def figures(
    *,
    regime: Regime = "balanced",
    train: int = 800,
    validation: int = 160,
    test: int = 200,
    size: int = 48,
    frames: int = 16,
    seed: int = 0,
    cache: Path | None = None,
) -> Splits:
    """Twelve actions by generated performers: `rgb` (N, 3, T, S, S) in [0, 1], `skeleton` (N, 2, T, 25, 3) in metres.

    Skeletons are in camera coordinates, joints in the order of NTU RGB+D, masked over (N, M, T) where a person is not
    there or not tracked; they project onto the figure in the picture by the modality's `camera`. Groups are
    performers, of whom no two splits share any. The regimes differ in how hard each modality is to read (regimes.py)
    and in nothing else. Kept in `cache` (None: the folder named by CROSSGUARD_CACHE, else ~/.cache/crossguard).
    Raises InputError for sizes that cannot be drawn or an unknown regime, RunError where the cache cannot be written.
    """
    for name, value, least in (
        *(("train", train, 1), ("validation", validation, 1), ("test", test, 1)),
        *(("size", size, 16), ("frames", frames, 2)),
    ):
        if value < least:
            raise InputError(f"figures: {name} is {value}, expected a whole number >= {least}")
    if regime not in REGIMES:
        raise InputError(f"figures: regime is {regime!r}, expected one of {', '.join(REGIMES)}")
    if not 0 <= seed < 2**63:
        raise InputError(f"figures: seed is {seed}, expected a whole number from 0 to 2^63 - 1")
    counts = {"train": train, "validation": validation, "test": test}
    return Splits(**{split: _split(split, n, regime, size, frames, seed, cache) for split, n in counts.items()})


def modalities(frames: int) -> dict[str, Modality]:
    """What the two inputs are, at `frames` a clip."""
    rate = frames / SECONDS
    return {
        "rgb": Modality("rgb", "NCTHW", "intensity", bounds=(0.0, 1.0), rate=rate),
        "skeleton": Modality("skeleton", "NMTVC", "metre", rate=rate, bones=BONES, camera=CAMERA),
    }


def generate(split: str, count: int, *, regime: Regime, size: int, frames: int, seed: int) -> Clips:
    """The first `count` clips of a split, a chunk at a time to bound the memory.

    Chunks share torch's threads, one each: threads within an operation wait for one another at its end, which costs
    several times the work where other programs hold a core.
    """
    each = max(1, _PICTURES // frames)

    def chunk(first: int) -> Clips:
        return make(torch.arange(first, min(first + each, count)), split, regime, size, frames, seed)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        chunks = list(pool.map(chunk, range(0, count, each)))
    torch.set_num_threads(threads)  # of this thread; the pool's are gone
    return Clips(*(torch.cat([getattr(c, name) for c in chunks]) for name in ("rgb", "skeleton", "mask", "true")))


def _split(
    split: str, count: int, regime: Regime, size: int, frames: int, seed: int, cache: Path | None
) -> TensorDataset:
    options = {"split": split, "count": count, "regime": regime, "size": size, "frames": frames, "seed": seed}

    def build() -> dict[str, NDArray[Any]]:
        clips = generate(split, count, regime=regime, size=size, frames=frames, seed=seed)
        return {"rgb": clips.rgb.numpy(), "skeleton": clips.skeleton.numpy(), "mask": clips.mask.numpy()}

    kept = load_or_build(cache_key(f"figures-{regime}-{split}", options, VERSION), build, cache)
    index = torch.arange(count)
    return TensorDataset(
        name=f"figures-{regime}",
        modalities=modalities(frames),
        classes=CLASSES,
        inputs={"rgb": torch.from_numpy(kept["rgb"]), "skeleton": torch.from_numpy(kept["skeleton"])},
        targets=action_of(index),
        mask={"skeleton": torch.from_numpy(kept["mask"])},
        ids=tuple(f"figures-{regime}-{split}-{i:05d}" for i in range(count)),
        groups=tuple(f"performer-{p:02d}" for p in performer_of(index, split).tolist()),
    )
