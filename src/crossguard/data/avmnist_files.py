"""The files of AV-MNIST: pairs of recordings and pictures, read and checked."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossguard.core.errors import DataError, RunError
from crossguard.core.files import read_npz
from crossguard.data.faults import SampleError
from crossguard.data.lists import open_list
from crossguard.data.sound import read_sound
from crossguard.data.source import Check

LAYOUT = """\
pairs.csv       wav, mnist_index, label, speaker, split (train or test): which recording goes with which picture
recordings/*.wav  D_SPEAKER_I.wav of the Free Spoken Digit Dataset, 8 kHz
mnist10k.npz    x (10000, 28, 28) uint8 and y (10000,) of MNIST's test set"""
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 8000
COLUMNS = ("wav", "mnist_index", "label", "speaker", "split")


@dataclass(frozen=True)
class Pair:
    """One sample: a recording, a picture's number, the digit that both show, who speaks, and the official split."""

    wav: Path
    picture: int
    label: int
    speaker: str
    split: str

    @property
    def id(self) -> str:
        return self.wav.stem


def read_pairs(path: Path) -> list[Pair]:
    """The rows of pairs.csv in order; raises DataError, naming file and line."""
    file = path / "pairs.csv"
    with open_list(file, f"expected:\n{LAYOUT}") as stream:
        reader = csv.DictReader(stream, strict=True)
        columns = tuple(reader.fieldnames or ())
        lines = [(reader.line_num, line) for line in reader]
    if not set(COLUMNS) <= set(columns) or not lines:
        raise DataError(f"{file}: found the columns {', '.join(columns)} and {len(lines)} lines; expected:\n{LAYOUT}")
    pairs: list[Pair] = []
    for number, line in lines:
        try:
            pair = Pair(
                path / "recordings" / line["wav"],
                int(line["mnist_index"]),
                int(line["label"]),
                line["speaker"],
                line["split"],
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"{file}, line {number}: found {dict(line)}, expected numbers ({error})") from error
        if not 0 <= pair.label < len(CLASSES) or pair.split not in ("train", "test") or pair.picture < 0:
            raise DataError(
                f"{file}, line {number}: label {pair.label}, split {pair.split!r}; expected 0 to 9, train or test"
            )
        pairs.append(pair)
    repeated = [i for i, times in Counter(pair.id for pair in pairs).items() if times > 1]
    if repeated:
        raise DataError(f"{file}: the recording {repeated[0]!r} occurs twice; a sample must be in one split alone")
    return pairs


def read_pictures(path: Path, pairs: list[Pair]) -> NDArray[np.uint8]:
    """(N, 1, 28, 28) of the pairs; raises DataError where a picture is missing or shows another digit than is said."""
    file = path / "mnist10k.npz"
    try:
        arrays = read_npz(file)
    except RunError as error:
        raise DataError(f"{error}; expected:\n{LAYOUT}") from error
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or y is None or x.dtype != np.uint8 or x.shape != (len(y), 28, 28):
        found = {name: f"{a.dtype} {a.shape}" for name, a in arrays.items()}
        raise DataError(f"{file}: found {found}, expected x (N, 28, 28) uint8 and y (N,)")
    index = np.array([pair.picture for pair in pairs])
    wrong = [p for p in pairs if p.picture >= len(y) or int(y[p.picture]) != p.label]
    if wrong:
        raise DataError(
            f"{file}: {len(wrong)} pairs name a picture that is not there or shows another digit ({wrong[0].id}: "
            f"{wrong[0].picture}, label {wrong[0].label}); fetch pairs.csv and mnist10k.npz again, both together"
        )
    return x[index][:, None]


def look(path: Path) -> Check:
    """Read every recording and picture: by speaker how many there are in each split, are missing or damaged."""
    pairs = read_pairs(path)
    problems: list[str] = []
    try:
        read_pictures(path, pairs)
    except DataError as error:
        problems.append(str(error))
    rows: list[tuple[str, ...]] = []
    for speaker in sorted({pair.speaker for pair in pairs}):
        of = [pair for pair in pairs if pair.speaker == speaker]
        missing = [pair for pair in of if not pair.wav.is_file()]
        damaged = [p for p in (_problem(pair.wav) for pair in of if pair not in missing) if p]
        problems += [f"{pair.wav}: missing" for pair in missing] + damaged
        split = [sum(pair.split == name for pair in of) for name in ("train", "test")]
        rows.append((speaker, *map(str, (*split, len(missing), len(damaged)))))
    return Check("avmnist", path, ("speaker", "train", "test", "missing", "damaged"), tuple(rows), (), tuple(problems))


def _problem(wav: Path) -> str | None:
    try:
        read_sound(wav, RATE)
    except SampleError as error:
        return str(error)
    return None
