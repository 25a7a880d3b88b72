"""CORSMAL: containers that are being filled, as frame-level features of sound and two cameras.

The features are those of Iashin et al. (github.com/v-iashin/CORSMAL) for the CORSMAL containers manipulation challenge
(Xompero et al., 2020): VGGish of the sound, R(2+1)D of the pictures.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from crossguard.core.errors import DataError
from crossguard.data.base import Splits, hold_out
from crossguard.data.faults import Bad, Faults
from crossguard.data.manifest import look_at
from crossguard.data.recordings import File, Row, open_recordings
from crossguard.data.source import Check

LAYOUT = """\
vggish/C/NAME_audio_vggish.npy   T x 128, of the sound of container C (1 to 9)
r21d_c1/C/NAME_c1_rgb.npy        T' x 512, of camera 1; r21d_c4 likewise of camera 4
NAME: sS_fiA_fuB_bC_lD, A the filling type (0 none, 1 pasta, 2 rice, 3 water), B its level (0, 1 half, 2 full)"""

TYPES = ("none", "pasta", "rice", "water")
LEVELS = ("empty", "half", "full")
FOLDS = ((1, 4, 7), (2, 5, 8), (3, 6, 9))
# Modality -> folder and ending of its files.
FOLDERS = {
    "audio": ("vggish", "_audio_vggish.npy"),
    "camera1": ("r21d_c1", "_c1_rgb.npy"),
    "camera4": ("r21d_c4", "_c4_rgb.npy"),
}
_NAME = re.compile(r"s\d+_fi([0-3])_fu([0-2])_b\d+_l\d+")
Task = Literal["type", "type_level"]


def corsmal(
    path: Path,
    *,
    task: Task = "type",
    inputs: tuple[str, ...] = ("audio", "camera4"),
    fold: Annotated[int, Field(ge=0, le=2)] = 0,
    validation_containers: Annotated[int, Field(ge=1, le=5)] = 1,
    bad: Bad = "error",
    cache: Path | None = None,
) -> Splits:
    """What is filled in (`type`: 4 classes) and how much of it (`type_level`: the 7 that occur), from features.

    `inputs`: `audio` (N, T, 128), `camera1` and `camera4` (N, T', 512), each of its own length, padded with a mask;
    clips that lack one have it masked out. `fold` 0, 1, 2 tests on containers 1 4 7, 2 5 8 and 3 6 9 (the challenge's
    three folds), which training never sees; of the others, `validation_containers` are held out. Groups are the
    containers. Raises DataError, naming the file, for what is not in this layout.
    """
    unknown = [name for name in inputs if name not in FOLDERS]
    if unknown or not inputs or len(set(inputs)) != len(inputs):
        raise DataError(f"inputs are {list(inputs)}, expected some of {', '.join(FOLDERS)}, each once")
    rows = find(path, inputs, task)
    faults = Faults()
    everything = open_recordings("corsmal", rows, _classes(rows), faults, cache=cache)
    faults.settle(str(path), bad)
    tested = {f"container{c}" for c in FOLDS[fold]}
    test = [i for i, group in enumerate(everything.groups) if group in tested]
    rest = [i for i, group in enumerate(everything.groups) if group not in tested]
    kept, held = hold_out([everything.groups[i] for i in rest], count=validation_containers)
    return Splits(
        everything.subset([rest[i] for i in kept]), everything.subset([rest[i] for i in held]), everything.subset(test)
    )


def find(path: Path, inputs: tuple[str, ...], task: Task) -> list[Row]:
    """The clips of a folder, in order of container and name."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected:\n{LAYOUT}")
    found: dict[tuple[int, str], dict[str, File]] = {}
    for name in inputs:
        folder, ending = FOLDERS[name]
        for file in path.glob(f"{folder}/*/*{ending}"):
            clip = file.name.removesuffix(ending)
            if file.parent.name not in "123456789" or not _NAME.fullmatch(clip):
                raise DataError(f"{file}: not named as expected:\n{LAYOUT}")
            found.setdefault((int(file.parent.name), clip), {})[name] = File(file)
    if not found:
        raise DataError(f"{path}: no features of {', '.join(inputs)}; expected:\n{LAYOUT}")
    return [
        Row(f"{container}/{clip}", f"container{container}", (_label(clip, task),), files)
        for (container, clip), files in sorted(found.items())
    ]


def _label(clip: str, task: Task) -> str:
    numbers = _NAME.fullmatch(clip)
    assert numbers is not None, "names were checked"
    kind, level = int(numbers[1]), int(numbers[2])
    return TYPES[kind] if task == "type" or kind == 0 else f"{TYPES[kind]} {LEVELS[level]}"


def _classes(rows: list[Row]) -> list[str]:
    order = [*TYPES, *(f"{kind} {level}" for kind in TYPES for level in LEVELS)]
    there = {row.labels[0] for row in rows}
    return [name for name in order if name in there]


def look(path: Path) -> Check:
    """Read every file: clips by modality and fold, and what is wrong with any."""
    rows = find(path, tuple(FOLDERS), "type_level")
    folds = [f"fold {i}" for i in range(len(FOLDS))]
    part = {f"container{c}": name for name, containers in zip(folds, FOLDS, strict=True) for c in containers}
    return look_at("corsmal", path, rows, _classes(rows), lambda row: part[row.group], folds)
