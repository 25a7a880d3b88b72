"""The files of UTD-MHAD: where they lie, and what is in one of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crossguard.core.errors import DataError
from crossguard.data.sampling import optional, shrink_depth, uniform_frames
from crossguard.data.source import Check
from crossguard.data.video import read_video

LAYOUT = """\
Depth/aA_sS_tT_depth.mat         d_depth, 240 x 320 x T, millimetres, 0 where the sensor removed the background
Skeleton/aA_sS_tT_skeleton.mat   d_skel, 20 x 3 x T, metres, as many frames as the depth video
Inertial/aA_sS_tT_inertial.mat   d_iner, T x 6, acceleration in g, rotation in degrees a second, 50 Hz
RGB/aA_sS_tT_color.avi           640 x 480 (RGB-part1 … RGB-part4 as unpacked are taken too)
A: action 1 to 27, S: subject 1 to 8, T: trial 1 to 4"""

KINDS = ("depth", "skeleton", "inertial", "rgb")
_SUFFIX = {"depth": "depth.mat", "skeleton": "skeleton.mat", "inertial": "inertial.mat", "rgb": "color.avi"}
_FOLDER = {"depth": "Depth", "skeleton": "Skeleton", "inertial": "Inertial", "rgb": "RGB*"}
_CLIP = re.compile(r"a(\d+)_s(\d+)_t(\d+)_")

# The sensor's picture and its farthest reading (Kinect v1).
PICTURE = (240, 320)
FARTHEST = 8000


@dataclass(frozen=True, order=True)
class Clip:
    """One recording: action 1 to 27, subject 1 to 8, trial 1 to 4."""

    action: int
    subject: int
    trial: int

    @property
    def id(self) -> str:
        return f"a{self.action}_s{self.subject}_t{self.trial}"

    @property
    def group(self) -> str:
        return f"s{self.subject}"


def find(path: Path) -> dict[str, dict[Clip, Path]]:
    """The files by kind and clip, in order; raises DataError where the folder is missing or not in this layout."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected UTD-MHAD as unpacked:\n{LAYOUT}")
    found: dict[str, dict[Clip, Path]] = {}
    for kind in KINDS:
        files = {_clip(file): file for file in path.glob(f"{_FOLDER[kind]}/a*_s*_t*_{_SUFFIX[kind]}")}
        found[kind] = dict(sorted(files.items()))
    if not any(found.values()):
        there = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        raise DataError(f"{path}: found {there}, but no file of UTD-MHAD; expected:\n{LAYOUT}")
    return found


def _clip(file: Path) -> Clip:
    numbers = _CLIP.match(file.name)
    clip = Clip(*(int(n) for n in numbers.groups())) if numbers else Clip(0, 0, 0)
    if not (1 <= clip.action <= 27 and 1 <= clip.subject <= 8):
        raise DataError(f"{file}: expected a name such as a1_s1_t1_…, action 1 to 27, subject 1 to 8")
    return clip


def _variable(file: Path, name: str, shape: tuple[int | None, ...]) -> NDArray[np.generic]:
    """One array of a .mat file, of the shape given (None: any length >= 1)."""
    loadmat = optional("scipy.io", "data").loadmat
    try:
        variables = loadmat(str(file))
    except Exception as error:  # scipy, zlib and struct each raise their own on damaged files
        raise DataError(f"{file}: truncated or damaged ({error}); fetch it again") from error
    if name not in variables:
        there = sorted(k for k in variables if not k.startswith("__"))
        raise DataError(f"{file}: found {there or 'no variable'}, expected {name!r}; fetch the file again")
    array = variables[name]
    numeric = isinstance(array, np.ndarray) and array.dtype.kind in "uif"
    fits = (
        numeric
        and array.ndim == len(shape)
        and all(n >= 1 if want is None else n == want for n, want in zip(array.shape, shape, strict=True))
    )
    if not fits:
        expected = " x ".join("T" if n is None else str(n) for n in shape)
        found = " x ".join(map(str, np.shape(array)))
        raise DataError(f"{file}: {name} is {found} of {array.dtype}, expected numbers, {expected}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{file}: {name} has NaN or Inf; fetch the file again or take it out of the folder")
    return array


def read_depth(file: Path, frames: int, size: tuple[int, int]) -> NDArray[np.uint16]:
    """(T, H, W) millimetres, 0 where there is no body."""
    array = _variable(file, "d_depth", (*PICTURE, None))
    # MATLAB's order: frame after frame in memory.
    chosen = array.transpose(2, 0, 1)[uniform_frames(array.shape[2], frames)].astype(np.float32)
    if chosen.min() < 0 or chosen.max() > FARTHEST:
        raise DataError(
            f"{file}: depth spans {chosen.min():g} to {chosen.max():g}, expected millimetres in 0 to {FARTHEST}"
        )
    depth = shrink_depth(torch.from_numpy(chosen), size)
    return depth.round().numpy().astype(np.uint16)


def read_skeleton(file: Path, frames: int) -> NDArray[np.float32]:
    """(T, 20, 3) metres, x to the picture's right, y up, z away from the camera."""
    array = _variable(file, "d_skel", (20, 3, None))
    return array[:, :, uniform_frames(array.shape[2], frames)].transpose(2, 0, 1).astype(np.float32)


def read_inertial(file: Path) -> NDArray[np.float32]:
    """(T, 6): acceleration in g, rotation in degrees a second, at 50 Hz."""
    return _variable(file, "d_iner", (None, 6)).astype(np.float32)


def look(path: Path) -> Check:
    """Read every file of the folder: what there is by kind, which clips lack a file, which files are damaged."""
    found = find(path)
    clips = sorted(set().union(*found.values()))
    readers: dict[str, Callable[[Path], object]] = {
        "depth": lambda file: read_depth(file, 1, (1, 1)),
        "skeleton": lambda file: read_skeleton(file, 1),
        "inertial": read_inertial,
        "rgb": lambda file: read_video(file, 1, 1),
    }
    optional("scipy.io", "data")
    if found["rgb"]:
        optional("av", "media")
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    problems: list[str] = []
    for kind, files in found.items():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            damage = [p for p in pool.map(lambda file, read=readers[kind]: _problem(read, file), files.values()) if p]
        lacking = [clip.id for clip in clips if clip not in files]
        if not files:
            notes.append(f"no {kind} file: it cannot be asked for")
        elif lacking:
            more = ", …" if len(lacking) > 8 else ""
            notes.append(f"{kind}: {len(lacking)} clips have none ({', '.join(lacking[:8])}{more})")
        problems += damage
        numbers = (
            len(files),
            len({clip.action for clip in files}),
            len({clip.subject for clip in files}),
            len(lacking),
            len(damage),
        )
        rows.append((kind, *map(str, numbers)))
    header = ("kind", "files", "actions", "subjects", "missing", "damaged")
    return Check("utd_mhad", path, header, tuple(rows), tuple(notes), tuple(problems))


def _problem(read: Callable[[Path], object], file: Path) -> str | None:
    try:
        read(file)
    except DataError as error:
        return str(error)
    return None
