"""The embedded frame-feature set, shipped as YouTube-8M is: videos of whose frames few tell, among many that distract.

A video is a row of shots. Each shows a class at random and says nothing; what counts is marked: for each label of the
video one moment of one to four frames shows its class together with the mark, a direction of its own that is the same
in all videos. So the mean over frames says which classes were shown, not which are meant; whoever is to answer must
look for the mark and attend to those frames alone. Labels are drawn by Zipf's law, as those of YouTube-8M nearly are;
in one of four moments a modality misses it.

All is integer arithmetic in units of a code on keys of (seed, split, video): the same bytes on any machine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from crossguard.core.errors import InputError
from crossguard.core.random import bits, combine, text_key
from crossguard.data.base import Splits
from crossguard.data.cache import cache_key, folder_or_build
from crossguard.data.sequence_example import build
from crossguard.data.tfrecord import write_records
from crossguard.data.youtube8m_examples import MOST_FRAMES, WIDTHS
from crossguard.data.youtube8m_index import youtube8m

VERSION = 1  # of the generator: raise it with any change of what comes out
SHARD = 256  # videos a file
HIDDEN = 64  # dimensions in which classes differ
# In codes (one is 4/255): standard deviations of a class's picture and of the noise, and the mark's size.
CONTENT, NOISE, MARK = 10, 24, 10
_LABELS = (1, 2, 2, 3, 3, 3, 4, 5)  # how many a video has, each as likely
_SHOT = 8  # frames
_HEAD = 3  # Zipf's law begins at this rank

Codes = NDArray[np.int64]
Count = Annotated[int, Field(ge=1)]


def moments(
    *,
    path: Path | None = None,
    classes: Annotated[int, Field(ge=8, le=3862)] = 1024,
    train: Count = 3000,
    test: Count = 1000,
    frames: Annotated[int, Field(ge=16, le=MOST_FRAMES)] = MOST_FRAMES,
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    cache: Path | None = None,
) -> Splits:
    """Generated videos of 16 to `frames` seconds with 1 to 5 labels: `rgb` (N, T, 1024) and `audio` (N, T, 128).

    They lie in the cache as TFRecord shards and are read as YouTube-8M is; with `path` the set in that folder, the real
    one say, is read in their place, and nothing generated: a recipe goes from one to the other by that path. Of the
    training videos, the share `validation` is held out. Raises InputError for sizes that cannot be, RunError where the
    cache cannot be written.
    """
    if path is None:
        path = generate(classes=classes, train=train, test=test, frames=frames, seed=seed, cache=cache)
    return youtube8m(path, validation=validation, cache=cache)


def generate(*, classes: int, train: int, test: int, frames: int, seed: int = 0, cache: Path | None = None) -> Path:
    """The folder of such a set, written if it is not in the cache."""
    if not (classes >= 8 and min(train, test) >= 1 and 16 <= frames <= MOST_FRAMES and 0 <= seed < 2**63):
        raise InputError(
            f"moments: classes {classes}, train {train}, test {test}, frames {frames}, seed {seed}; expected at least "
            f"8 classes, 1 video, 16 to {MOST_FRAMES} frames and a seed from 0 to 2^63 - 1"
        )
    options = {"classes": classes, "train": train, "test": test, "frames": frames, "seed": seed}

    def write(folder: Path) -> None:
        lines = ["Index,Name", *(f"{c},moment {c}" for c in range(classes))]
        (folder / "vocabulary.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for split, count in (("train", train), ("validate", test)):
            for shard, first in enumerate(range(0, count, SHARD)):
                numbers = range(first, min(first + SHARD, count))
                payloads = (video(split, n, classes, frames, seed) for n in numbers)
                write_records(folder / f"{split}{shard:04d}.tfrecord", payloads)

    return folder_or_build(cache_key("moments", options, VERSION), write, cache)


def video(split: str, number: int, classes: int, frames: int, seed: int) -> bytes:
    """One SequenceExample, a function of its arguments alone."""
    draw = _Draws(combine(torch.tensor([text_key(f"moments {split}")]), seed, number))
    # Short ones are the most frequent: the smaller of two.
    length = 16 + min(draw.below(frames - 15), draw.below(frames - 15))
    labels = _distinct(draw, _LABELS[draw.below(len(_LABELS))], classes)
    shown = np.repeat([draw.zipf(classes) for _ in range(-(-length // _SHOT))], _SHOT)[:length]
    seen = {name: shown.copy() for name in WIDTHS}
    marked = {name: np.zeros(length, np.int64) for name in WIDTHS}
    room = length // len(labels)
    for i, label in enumerate(labels):
        lasts = min(1 + draw.below(4), room)
        start = i * room + draw.below(room - lasts + 1)
        # rgb misses one of eight, audio another.
        missing = {0: "rgb", 1: "audio"}.get(draw.below(8))
        for name in WIDTHS:
            if name != missing:
                seen[name][start : start + lasts] = label
                marked[name][start : start + lasts] = 1
    tables: dict[str, NDArray[np.uint8]] = {}
    for name, width in WIDTHS.items():
        pictures, mark = _pictures(name, width, classes)
        codes = 127 + pictures[seen[name]] + MARK * marked[name][:, None] * mark + draw.noise((length, width), name)
        tables[name] = codes.clip(0, 255).astype(np.uint8)
    return build({"id": f"{split[0]}{number:06d}".encode(), "labels": labels}, tables)


def _distinct(draw: _Draws, count: int, classes: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        label = draw.zipf(classes)
        if label not in found:
            found.append(label)
    return sorted(found)


class _Draws:
    """Random numbers of one key, one after the other."""

    def __init__(self, key: torch.Tensor) -> None:
        self.key = key
        self.pool = iter(bits(key, 512)[0].tolist())

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        return next(self.pool) % count

    def zipf(self, classes: int) -> int:
        """A class, the r-th in proportion to 1 / (r + 3)."""
        steps = _zipf(classes)
        return int(np.searchsorted(steps, self.below(int(steps[-1])), side="right"))

    def noise(self, shape: tuple[int, int], name: str) -> Codes:
        """Normal to within a code, by the quantiles of a random byte."""
        count = shape[0] * shape[1]
        words = bits(combine(self.key, text_key(name)), -(-count // 8)).numpy().astype("<i8")
        return _normal(NOISE)[words.view(np.uint8)[:, :count].reshape(shape)]


@cache
def _zipf(classes: int) -> Codes:
    return np.cumsum([2**32 // (rank + _HEAD) for rank in range(classes)])


@cache
def _normal(deviation: int) -> Codes:
    normal = NormalDist(0, deviation)
    return np.array([round(normal.inv_cdf((byte + 0.5) / 256)) for byte in range(256)])


@cache
def _pictures(name: str, width: int, classes: int) -> tuple[Codes, Codes]:
    """(classes, width) what each class looks like, HIDDEN signs mixed by signs, and (width,) the mark's signs."""

    def signs(what: str, rows: int, columns: int) -> Codes:
        key = combine(torch.tensor([text_key(f"moments {what}")]), torch.arange(rows))
        return (bits(key, columns).numpy() >> 17 & 1) * 2 - 1

    mixed = signs("class", classes, HIDDEN) @ signs(f"mix {name}", HIDDEN, width)  # standard deviation 8
    return mixed * CONTENT // 8, signs(f"mark {name}", 1, width)[0]
