"""Kinetics-Sounds: 10 s clips of actions that are seen and heard (Arandjelovic & Zisserman, ICCV 2017)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossguard.core.errors import DataError
from crossguard.data import clips
from crossguard.data.audioset import inputs_of, share_by_class
from crossguard.data.audioset_files import Vocabulary
from crossguard.data.base import Splits
from crossguard.data.faults import Bad, Faults
from crossguard.data.lists import open_list, read_names
from crossguard.data.manifest import split_rows
from crossguard.data.media import Silent, media_decoders
from crossguard.data.recordings import Row, open_recordings
from crossguard.data.source import Check

CLASSES = 31
LAYOUT = f"""\
my_train.txt, my_test.txt   NAME,10,CLASS (0 to {CLASSES - 1}) a line, as OGM-GE has them; and the clips, in
{clips.LAYOUT}
classes.txt   optional: the names of the classes, one a line, in the order of their numbers"""
LISTS = {"train": "my_train.txt", "test": "my_test.txt"}


def kinetics_sounds(
    path: Path,
    *,
    inputs: tuple[str, ...] = ("audio", "rgb"),
    missing: clips.Missing = "leave_out",
    rate: Annotated[int, Field(ge=1)] = 16000,
    seconds: Annotated[float, Field(gt=0)] = 10.0,
    frames: Annotated[int, Field(ge=1)] = 10,
    size: int | tuple[int, int] = 64,
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    bad: Bad = "error",
    silent: Silent = "bad",
    cache: Path | None = None,
) -> Splits:
    """The clips that are there, one class each: `audio` (N, T) in [-1, 1], `rgb` (N, 3, frames, H, W) in [0, 1].

    Split as by OGM-GE (Peng et al., CVPR 2022: 14,799 and 2,597 clips, 31 classes); groups are the videos, of which a
    `validation` share of the training ones is held out. Classes are numbered unless classes.txt names them. The other
    options are those of `audioset`. Raises DataError, naming file and line.
    """
    rows, split, names = _rows(path, inputs, faults := Faults())
    there = clips.those_there(path, rows, inputs, missing)
    decoders = media_decoders(rate=rate, seconds=seconds, frames=frames, size=size, silent=silent, cache=cache)
    everything = open_recordings("kinetics_sounds", there, names, faults, decoders=decoders, cache=cache)
    faults.settle(str(path), bad)
    return split_rows(everything, lambda row: split[row.id], validation)


def look(path: Path) -> Check:
    """Read every file that is there: what share of each class's clips that is, and which are damaged."""
    rows, split, names = _rows(path, inputs_of(path), faults := Faults())
    return share_by_class("kinetics_sounds", path, rows, split, Vocabulary(tuple(names), {}), faults)


def _rows(
    path: Path, inputs: tuple[str, ...] | list[str], faults: Faults
) -> tuple[list[Row], dict[str, str], list[str]]:
    names = _names(path)
    label: dict[str, str] = {}
    split: dict[str, str] = {}
    for part, file in LISTS.items():
        with open_list(path / file, f"expected:\n{LAYOUT}") as stream:
            lines = stream.read().splitlines()
        for number, line in enumerate(lines, start=1):
            fields = line.split(",")
            if len(fields) != 3 or not fields[2].strip().isdecimal() or int(fields[2]) >= len(names):
                raise DataError(
                    f"{path / file}, line {number}: found {line!r}, expected NAME,10,CLASS (0 to {len(names) - 1})"
                )
            if fields[0] in label:
                raise DataError(f"{path / file}, line {number}: the clip {fields[0]} occurs twice")
            label[fields[0]], split[fields[0]] = names[int(fields[2])], part
    files = clips.find_clips(path, inputs, {clip: (clip,) for clip in label}, faults)
    # The video's id has eleven characters, some of which may be underscores.
    return [Row(clip, clip[:11], (label[clip],), files[clip]) for clip in label], split, names


def _names(path: Path) -> list[str]:
    if not (path / "classes.txt").is_file():
        return [f"class {i}" for i in range(CLASSES)]
    names = read_names(path / "classes.txt", f"expected:\n{LAYOUT}")
    if len(names) != CLASSES:
        raise DataError(f"{path / 'classes.txt'}: {len(names)} different names, expected {CLASSES}, one a line")
    return names
