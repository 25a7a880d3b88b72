"""The embedded audio-visual event set: generated scenes in which what is heard follows from what is seen.

A ball is heard when it meets the floor, a pitch is a rocket's height, a whoosh is a pendulum's speed. Every clip is a
function of (seed, split, number) and the regime, the same on any machine.
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
from crossguard.data.events.clips import RATE, Clips, make, scene_of
from crossguard.data.events.kinds import CLASSES
from crossguard.data.events.regimes import REGIMES, Regime

VERSION = 1  # of the generator: raise it with any change of what comes out
_CLIPS = 32  # made at a time, to bound the memory


def events(
    *,
    regime: Regime = "balanced",
    train: int = 1000,
    validation: int = 200,
    test: int = 300,
    size: int = 32,
    frames: int = 10,
    seconds: float = 2.0,
    seed: int = 0,
    cache: Path | None = None,
) -> Splits:
    """One to three of ten kinds of events a clip: `audio` (N, T) in [-1, 1], 16 kHz; `rgb` (N, 3, F, S, S) in [0, 1].

    Multi-label: a class is there where its event happens, even where it is out of view or makes no sound (never both);
    things at rest, room noise and hums are there to mislead. Clips last 3/4 to all of `seconds`, the rest is masked,
    (N, T) and (N, 1, F). Groups are scenes, with colours and a pitch of their own, of which no two splits share any.
    The regimes differ in how hard each modality is to read (regimes.py) and in nothing else. Kept in `cache` (None: the
    folder named by CROSSGUARD_CACHE, else ~/.cache/crossguard). Raises InputError for sizes that cannot be made or an
    unknown regime, RunError where the cache cannot be written.
    """
    for name, value, least in (
        *(("train", train, 1), ("validation", validation, 1), ("test", test, 1)),
        *(("size", size, 16), ("frames", frames, 2), ("seconds", seconds, 1)),
    ):
        if not least <= value < float("inf"):
            raise InputError(f"events: {name} is {value}, expected a number >= {least}")
    if round(seconds * RATE) % frames:
        raise InputError(f"events: {seconds:g} s at {RATE} Hz do not divide into {frames} frames; take 10, or 16")
    if regime not in REGIMES:
        raise InputError(f"events: regime is {regime!r}, expected one of {', '.join(REGIMES)}")
    if not 0 <= seed < 2**63:
        raise InputError(f"events: seed is {seed}, expected a whole number from 0 to 2^63 - 1")
    samples = round(seconds * RATE)
    counts = {"train": train, "validation": validation, "test": test}
    return Splits(
        **{split: _split(split, n, regime, size, frames, samples, seed, cache) for split, n in counts.items()}
    )


def modalities(frames: int, samples: int) -> dict[str, Modality]:
    """What the two inputs are."""
    return {
        "audio": Modality("audio", "NT", "1", bounds=(-1.0, 1.0), rate=RATE),
        "rgb": Modality("rgb", "NCTHW", "1", bounds=(0.0, 1.0), rate=frames * RATE / samples),
    }


def generate(split: str, count: int, *, regime: Regime, size: int, frames: int, samples: int, seed: int) -> list[Clips]:
    """The first `count` clips of a split, some at a time, which share torch's threads, one each."""

    def chunk(first: int) -> Clips:
        return make(torch.arange(first, min(first + _CLIPS, count)), split, regime, size, frames, samples, seed)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        chunks = list(pool.map(chunk, range(0, count, _CLIPS)))
    torch.set_num_threads(threads)  # of this thread; the pool's are gone
    return chunks


def _split(
    split: str, count: int, regime: Regime, size: int, frames: int, samples: int, seed: int, cache: Path | None
) -> TensorDataset:
    options = {
        "split": split,
        "count": count,
        "regime": regime,
        "size": size,
        "frames": frames,
        "samples": samples,
        "seed": seed,
    }

    def build() -> dict[str, NDArray[Any]]:
        chunks = generate(split, count, regime=regime, size=size, frames=frames, samples=samples, seed=seed)
        parts = {
            "rgb": [c.rgb for c in chunks],
            "audio": [c.audio for c in chunks],
            "length": [c.plan.length for c in chunks],
            "targets": [c.plan.targets for c in chunks],
        }
        return {name: torch.cat(several).numpy() for name, several in parts.items()}

    kept = load_or_build(cache_key(f"events-{regime}-{split}", options, VERSION), build, cache)
    length = torch.from_numpy(kept["length"])
    index = torch.arange(count)
    return TensorDataset(
        name=f"events-{regime}",
        modalities=modalities(frames, samples),
        classes=CLASSES,
        inputs={
            "audio": torch.from_numpy(kept["audio"]).to(torch.float32) / 32768,
            "rgb": torch.from_numpy(kept["rgb"]),
        },
        targets=torch.from_numpy(kept["targets"]),
        mask={
            "audio": torch.arange(samples) < (length * (samples // frames))[:, None],
            "rgb": (torch.arange(frames) < length[:, None])[:, None],
        },
        ids=tuple(f"events-{regime}-{split}-{i:05d}" for i in range(count)),
        groups=tuple(f"scene-{s:02d}" for s in scene_of(index, split).tolist()),
    )
