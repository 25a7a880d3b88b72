"""Features (or recordings) of one's own: files that a CSV manifest lists.

One line a sample, one pair of columns a modality:

    id,targets,group,split,rgb,rgb:length,audio
    clip7,walk|talk,speaker3,train,rgb/clip7.npy,120,features.h5#clip7/audio

`targets` are class names, several joined by "|"; `split` is train, validation or test; paths are relative to the
manifest, `#` names an array within a file, and an empty path means that the sample lacks that modality.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossguard.core.errors import DataError
from crossguard.data.base import Splits, hold_out
from crossguard.data.faults import Bad, Faults
from crossguard.data.lists import open_list, read_names
from crossguard.data.media import Silent, media_decoders
from crossguard.data.recordings import File, Recordings, Row, open_recordings
from crossguard.data.source import Check

FIXED = ("id", "targets", "group", "split")
SPLITS = ("train", "validation", "test")
LAYOUT = """\
manifest.csv   one line a sample: id, targets (class names, several joined by |), group, split (train, validation or
               test), then one column a modality: the path of its file, relative to the manifest, empty where it is
               absent; NAME:length beside it may announce its length in frames
*.npy          T x D numbers; an array in a .npz or .h5 is named behind a #: features.h5#clip7/rgb
*.wav, *.mp4   recordings (flac, ogg; mkv, webm, avi, mov; a folder of jpg or png): clip7.mp4 are the pictures,
               clip7.mp4#audio is the sound
classes.txt    optional: the vocabulary, one class a line, in the order of the logits"""


def manifest(
    path: Path,
    *,
    multi_label: bool = False,
    max_frames: Annotated[int, Field(ge=1)] | None = None,
    bad: Bad = "error",
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    rate: Annotated[int, Field(ge=1)] = 16000,
    seconds: Annotated[float, Field(gt=0)] | None = None,
    frames: Annotated[int, Field(ge=1)] = 16,
    size: int | tuple[int, int] = 64,
    silent: Silent = "bad",
    cache: Path | None = None,
) -> Splits:
    """What the manifest `path` (a CSV file, or a folder with a manifest.csv) lists: features (N, T, D), sound, video.

    Classes are the lines of classes.txt beside it, else the names that occur, sorted. Without lines of the split
    `validation`, that share of the training groups is held out. `bad` says what is done about samples that cannot be
    taken (see `open_recordings`). Raises DataError, naming file and line, for a manifest that cannot be meant, and
    where a group or a file is in two splits. `rate`, `seconds`, `frames`, `size` and `silent` are those of
    `media_decoders`, for recordings.
    """
    file = path / "manifest.csv" if path.is_dir() else path
    rows, splits = read_manifest(file)
    faults = Faults()
    decoders = media_decoders(rate=rate, seconds=seconds, frames=frames, size=size, silent=silent, cache=cache)
    everything = open_recordings(
        file.stem,
        rows,
        _classes(file, rows),
        faults,
        multi_label=multi_label,
        max_frames=max_frames,
        decoders=decoders,
        cache=cache,
    )
    faults.settle(str(file), bad)
    return split_rows(everything, lambda row: splits[row.id], validation)


def split_rows(everything: Recordings, split: Callable[[Row], str], validation: float) -> Splits:
    """Splits as `split` says by row; raises DataError where a group is in two of them, or one has no sample."""
    members = _members(everything.name, everything.rows, split, validation)
    return Splits(*(everything.subset(members[name]) for name in SPLITS))


def split_problems(name: str, rows: Sequence[Row], split: Callable[[Row], str]) -> tuple[str, ...]:
    """What keeps rows from being split, which `split_rows` raises, as a look says it."""
    try:
        _members(name, rows, split, validation=0.1)
    except DataError as error:
        return (str(error),)
    return ()


def _members(name: str, rows: Sequence[Row], split: Callable[[Row], str], validation: float) -> dict[str, list[int]]:
    """The rows of each split, by number."""
    members: dict[str, list[int]] = {part: [] for part in SPLITS}
    where: dict[str, str] = {}
    astray: dict[str, str] = {}
    for i, row in enumerate(rows):
        part = split(row)
        if where.setdefault(row.group, part) != part:
            astray.setdefault(row.group, part)
        members[part].append(i)
    if astray:
        group, other = next(iter(astray.items()))
        raise DataError(
            f"{name}: group {group!r} is in the splits {where[group]} and {other} ({len(astray)} such); what is alike "
            f"must not be on both sides"
        )
    for part in ("train", "test"):
        if not members[part]:
            raise DataError(f"{name}: no sample that can be taken is in the split {part!r}")
    if not members["validation"]:
        kept, held = hold_out([rows[i].group for i in members["train"]], share=validation)
        members["validation"] = [members["train"][i] for i in held]
        members["train"] = [members["train"][i] for i in kept]
    return members


def read_manifest(file: Path) -> tuple[list[Row], dict[str, str]]:
    """The rows of a manifest, and the split of each id; raises DataError, naming the line."""
    with open_list(file, f"expected:\n{LAYOUT}") as stream:
        reader = csv.DictReader(stream, strict=True)
        columns = list(reader.fieldnames or ())
        names = _modalities(file, columns)
        rows = [(reader.line_num, line) for line in reader]
    if not rows:
        raise DataError(f"{file}: no line below the header; expected one a sample")
    found = [_row(file, number, line, names) for number, line in rows]
    repeated = [i for i, times in Counter(row.id for row, _ in found).items() if times > 1]
    if repeated:
        raise DataError(f"{file}: the id {repeated[0]!r} occurs twice; ids must be unique")
    _check_apart(file, found)
    return [row for row, _ in found], {row.id: split for row, split in found}


def _check_apart(file: Path, rows: Sequence[tuple[Row, str]]) -> None:
    """Raises DataError where one file, or one part of it, is in two splits."""
    # Links are not followed: that takes as long as all the rest.
    first: dict[tuple[str, str | None], tuple[str, str]] = {}
    for row, split in rows:
        for one in row.files.values():
            other, before = first.setdefault((os.path.abspath(one.path), one.part), (row.id, split))
            if before != split:
                raise DataError(
                    f"{file}: {one} is in the splits {before} (id {other!r}) and {split} (id {row.id!r}); what is "
                    f"alike must not be on both sides"
                )


def _modalities(file: Path, columns: Sequence[str]) -> list[str]:
    names = [c for c in columns if c not in FIXED and not c.endswith(":length")]
    lacking = [c for c in FIXED if c not in columns]
    astray = [c for c in columns if c.endswith(":length") and c.removesuffix(":length") not in names]
    if lacking or astray or not names or len(set(columns)) != len(columns):
        raise DataError(f"{file}: found the columns {', '.join(columns) or 'none'}; expected:\n{LAYOUT}")
    return names


def _row(file: Path, number: int, line: Mapping[str | None, str | None], names: Sequence[str]) -> tuple[Row, str]:
    where = f"{file}, line {number}"
    if None in line or None in line.values():
        raise DataError(f"{where}: more or fewer fields than the header has columns")
    cell = {str(key): str(value).strip() for key, value in line.items()}
    if not cell["id"] or not cell["group"]:
        raise DataError(f"{where}: id and group must not be empty (a sample of its own: give it its id as group)")
    if cell["split"] not in SPLITS:
        raise DataError(f"{where}: split is {cell['split']!r}, expected one of {', '.join(SPLITS)}")
    files: dict[str, File] = {}
    for name in names:
        length = cell.get(f"{name}:length", "")
        if length and not length.isdecimal():
            raise DataError(f"{where}: {name}:length is {length!r}, expected a whole number of frames")
        if cell[name]:
            path, _, part = cell[name].partition("#")
            files[name] = File(file.parent / path, part or None, int(length) if length else None)
    labels = tuple(label.strip() for label in cell["targets"].split("|") if label.strip())
    return Row(cell["id"], cell["group"], labels, files), cell["split"]


def _classes(file: Path, rows: Sequence[Row]) -> list[str]:
    vocabulary = file.parent / "classes.txt"
    if not vocabulary.exists():
        return sorted({label for row in rows for label in row.labels})
    names = read_names(vocabulary, f"expected:\n{LAYOUT}")
    if not names:
        raise DataError(f"{vocabulary}: no class; expected one a line, or no such file")
    return names


def look(path: Path) -> Check:
    """Read every file that a manifest lists: samples by modality and split, and what is wrong with any."""
    file = path / "manifest.csv" if path.is_dir() else path
    rows, splits = read_manifest(file)
    found = look_at("manifest", path, rows, _classes(file, rows), lambda row: splits[row.id], SPLITS, multi_label=True)
    problems = split_problems(file.stem, rows, lambda row: splits[row.id])
    several = sum(len(row.labels) > 1 for row in rows)
    note = f"{several} of {len(rows)} samples name several classes: a recipe must say multi_label: true, under data"
    notes = (note,) if several else ()
    return replace(found, notes=(*found.notes, *notes), problems=(*found.problems, *problems))


def look_at(
    name: str,
    path: Path,
    rows: Sequence[Row],
    classes: Sequence[str],
    part: Callable[[Row], str],
    parts: Sequence[str],
    *,
    multi_label: bool = False,
) -> Check:
    """The same for rows that are known, counted by the `parts` that `part` puts them into."""
    faults = Faults()
    kept = open_recordings(name, rows, classes, faults, multi_label=multi_label, decoders=media_decoders())
    table: list[tuple[str, ...]] = []
    for modality, shape in kept.shapes.items():
        have = [part(row) for row in rows if modality in row.files]
        counts = (len(have), *(have.count(one) for one in parts))
        table.append((modality, *map(str, counts), " x ".join(map(str, shape))))
    return Check(
        name,
        path,
        ("modality", "files", *parts, "one frame"),
        tuple(table),
        (f"{len(kept)} of {len(rows)} samples can be taken; {len(classes)} classes",),
        tuple(f"{kind}: {what}" for kind, named in faults.found.items() for what in named),
    )
