"""AudioSet: 10 s clips of YouTube, 527 classes of an ontology (Gemmeke et al., ICASSP 2017); what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from crossguard.core.errors import DataError
from crossguard.data import clips
from crossguard.data.audioset_files import Segment, Vocabulary, read_segments, read_vocabulary
from crossguard.data.base import Splits
from crossguard.data.faults import Bad, Faults
from crossguard.data.manifest import split_problems, split_rows
from crossguard.data.media import Silent, media_decoders
from crossguard.data.recordings import Recordings, Row, open_recordings
from crossguard.data.source import Check

LAYOUT = f"""\
balanced_train_segments.csv, eval_segments.csv, class_labels_indices.csv as published (unbalanced_train_segments.csv
and ontology.json where they are asked for), and the clips that could be fetched, in
{clips.LAYOUT}
NAME: YTID, YTID_30, YTID_30.000, YTID_30000, YTID_30_40, YTID_000030_000040, any of them with a Y before it"""


def audioset(
    path: Path,
    *,
    inputs: tuple[str, ...] = ("audio", "rgb"),
    classes: tuple[str, ...] = (),
    train: Literal["balanced", "unbalanced", "both"] = "balanced",
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
    """The clips that are there, multi-label: `audio` (N, T) in [-1, 1], `rgb` (N, 3, frames, H, W) in [0, 1], features.

    `classes` picks some by name or id, one of the ontology standing for all below it too ("Music"); clips of no such
    class are left out. Clips that are not there are the normal case: with `leave_out` a clip needs all `inputs`, with
    `mask` one, the others masked out. Trained on the segments that `train` names, of whose videos a `validation` share
    is held out, tested on the evaluation segments. `bad` and `silent` say what is done about clips that cannot be
    taken; `rate`, `seconds`, `frames`, `size` are those of `media_decoders`. Raises DataError, naming file and line.
    """
    vocabulary = read_vocabulary(path, classes)
    names = [f"{kind}_train" for kind in (("balanced", "unbalanced") if train == "both" else (train,))]
    faults = Faults()
    segments = [s for name in (*names, "eval") for s in read_segments(path / f"{name}_segments.csv", vocabulary)]
    rows, split = rows_of(path, inputs, segments, faults)
    there = clips.those_there(path, rows, inputs, missing)
    decoders = media_decoders(rate=rate, seconds=seconds, frames=frames, size=size, silent=silent, cache=cache)
    everything: Recordings = open_recordings(
        "audioset", there, vocabulary.classes, faults, multi_label=True, decoders=decoders, cache=cache
    )
    faults.settle(str(path), bad)
    return split_rows(everything, lambda row: split[row.id], validation)


def rows_of(
    path: Path, inputs: Sequence[str], segments: Sequence[Segment], faults: Faults
) -> tuple[list[Row], dict[str, str]]:
    """A row a segment with the files that are there, and the split of each id."""
    files = clips.find_clips(path, inputs, {s.id: s.names for s in segments}, faults)
    rows = [Row(s.id, s.video, s.labels, files[s.id]) for s in segments]
    return rows, {s.id: "test" if s.evaluation else "train" for s in segments}


def look(path: Path) -> Check:
    """Read every file that is there: what share of each class's clips that is, and which are damaged."""
    vocabulary = read_vocabulary(path, ())
    lists = [f for f in ("balanced_train", "unbalanced_train", "eval") if (path / f"{f}_segments.csv").is_file()]
    segments = [s for name in lists for s in read_segments(path / f"{name}_segments.csv", vocabulary)]
    if not segments:
        raise DataError(f"{path}: no *_segments.csv; expected:\n{LAYOUT}")
    faults = Faults()
    rows, split = rows_of(path, inputs_of(path), segments, faults)
    return share_by_class("audioset", path, rows, split, vocabulary, faults)


def inputs_of(path: Path) -> list[str]:
    """Everything that a folder of clips may be asked for."""
    media = [n for n, fs in {"audio": ("audio", "video"), "rgb": ("frames", "video")}.items()
             if any((path / f).is_dir() for f in fs)]  # fmt: skip
    # What a system leaves in a folder (.DS_Store) is no kind of features.
    kinds = sorted(p.name for p in (path / "features").glob("[!.]*") if p.is_dir())
    if not media and not kinds:
        raise DataError(f"{path}: no clip at all; expected:\n{clips.LAYOUT}")
    return media + kinds


def share_by_class(
    name: str, path: Path, rows: Sequence[Row], split: dict[str, str], vocabulary: Vocabulary, faults: Faults
) -> Check:
    """By class, how many clips of each split are listed, and what share of them is there whole."""
    inputs = inputs_of(path)
    some = clips.those_there(path, rows, inputs, "mask")
    decoders = media_decoders()
    kept = open_recordings(name, some, vocabulary.classes, faults, multi_label=True, decoders=decoders)
    taken = {row.id for row in kept.rows if len(row.files) == len(inputs)}
    table: list[tuple[str, ...]] = []
    for label in vocabulary.classes:
        cells: list[str] = []
        for part in ("train", "test"):
            of = [row.id for row in rows if label in row.labels and split[row.id] == part]
            here = sum(i in taken for i in of)
            cells += [str(len(of)), f"{100 * here / len(of):.0f} %" if of else "–"]
        table.append((label, *cells))
    whole = 100 * len(taken) / len(rows)
    lacking = [f"{n}: {sum(n not in row.files for row in rows)} of {len(rows)} clips have none" for n in inputs]
    return Check(
        name,
        path,
        ("class", "train", "there", "test", "there"),
        tuple(table),
        (f"{len(taken)} of {len(rows)} clips ({whole:.1f} %) have all of {', '.join(inputs)}", *lacking),
        (
            *(f"{kind}: {what}" for kind, named in faults.found.items() for what in named),
            *split_problems(name, kept.rows, lambda row: split[row.id]),
        ),
    )
