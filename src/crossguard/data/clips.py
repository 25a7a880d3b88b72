"""Where the recordings of a list of clips lie: one folder a kind, one file (or folder of pictures) a clip."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from crossguard.core.errors import DataError
from crossguard.data.faults import Faults
from crossguard.data.media import VIDEOS
from crossguard.data.recordings import File, Row
from crossguard.data.sound import SOUNDS

Missing: TypeAlias = Literal["leave_out", "mask"]
LAYOUT = """\
audio/NAME.wav         (flac, ogg) the sound; where there is none, that of the video
video/NAME.mp4         (mkv, webm, avi, mov) the pictures, where frames has none
frames/NAME/0001.jpg   (png, bmp) the pictures
features/KIND/NAME.npy T x D features of any KIND, asked for by that name"""
FEATURES = (".npy", ".npz", ".h5", ".hdf5")


def find_clips(
    path: Path, inputs: Sequence[str], names: Mapping[str, Iterable[str]], faults: Faults
) -> dict[str, dict[str, File]]:
    """The files of each clip by input: `audio`, `rgb`, or else features. `names` are those that a clip may go by.

    Folders within folders are looked through. A file whose name is not UTF-8 is noted in `faults`. Raises DataError
    where `path` has none of the folders.
    """
    if not inputs or len(set(inputs)) != len(inputs):
        raise DataError(f"inputs are {list(inputs)}, expected audio, rgb or kinds of features, each once")
    places = {
        name: {"audio": (("audio", SOUNDS), ("video", VIDEOS)), "rgb": (("frames", ("",)), ("video", VIDEOS))}.get(
            name, ((f"features/{name}", FEATURES),)
        )
        for name in inputs
    }
    wanted = {place for several in places.values() for place in several}
    listed = {place: _listed(path / place[0], place[1], faults) for place in sorted(wanted)}
    if not any((path / folder).is_dir() for folder, _ in wanted):
        raise DataError(f"{path}: none of {', '.join(sorted(f for f, _ in wanted))} is there; expected:\n{LAYOUT}")
    found: dict[str, dict[str, File]] = {}
    for clip, candidates in names.items():
        files: dict[str, File] = {}
        for name in inputs:
            spots = (listed[place].get(c) for place in places[name] for c in candidates)
            file = next((spot for spot in spots if spot is not None), None)
            if file is not None:
                files[name] = File(file, "audio" if name == "audio" and file.suffix.lower() in VIDEOS else None)
        found[clip] = files
    return found


def _listed(folder: Path, suffixes: tuple[str, ...], faults: Faults) -> dict[str, Path]:
    """Name without suffix -> path of every file (of every folder that holds no folder, for the suffix "")."""
    found: dict[str, Path] = {}
    for root, folders, files in os.walk(folder):
        here = [root] if suffixes == ("",) and files and not folders else []
        for name in here or (() if suffixes == ("",) else files):
            file = Path(root) if here else Path(root, name)
            if not here and file.suffix.lower() not in suffixes:
                continue
            try:
                file.name.encode()
            except UnicodeEncodeError:
                faults.add("name", f"{os.fsencode(file)!r}: the name is not UTF-8; rename it")
                continue
            found[file.name if here else file.stem] = file
    return found


def those_there(path: Path, rows: Sequence[Row], inputs: Sequence[str], missing: Missing) -> list[Row]:
    """The clips with files of all `inputs` ("leave_out") or of any ("mask"). Raises DataError where there is none."""
    needed = len(inputs) if missing == "leave_out" else 1
    there = [row for row in rows if len(row.files) >= needed]
    if not there:
        raise DataError(
            f"{path}: none of {len(rows)} clips has {'all' if needed > 1 else 'any'} of {', '.join(inputs)}"
        )
    return there
