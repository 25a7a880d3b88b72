"""UTD-MHAD: 27 actions of 8 subjects as depth, skeleton, inertial and RGB recordings (Chen et al., ICIP 2015)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossguard.core.errors import DataError
from crossguard.core.modality import Modality
from crossguard.core.skeleton import LAYOUTS
from crossguard.data.base import Splits, TensorDataset, hold_out
from crossguard.data.cache import cache_key, load_or_build
from crossguard.data.sampling import centre_window, height_width
from crossguard.data.utd_mhad_files import (
    FARTHEST,
    PICTURE,
    Clip,
    find,
    read_depth,
    read_inertial,
    read_skeleton,
)
from crossguard.data.video import read_video

ACTIONS = (
    *("swipe left", "swipe right", "wave", "clap", "throw", "arm cross", "basketball shoot", "draw X"),
    *("draw circle (clockwise)", "draw circle (counter clockwise)", "draw triangle", "bowling", "boxing"),
    *("baseball swing", "tennis swing", "arm curl", "tennis serve", "push", "knock", "catch", "pickup and throw"),
    *("jog", "walk", "sit to stand", "stand to sit", "lunge", "squat"),
)
JOINTS = (
    *("head", "shoulder centre", "spine", "hip centre"),
    *("left shoulder", "left elbow", "left wrist", "left hand"),
    *("right shoulder", "right elbow", "right wrist", "right hand"),
    *("left hip", "left knee", "left ankle", "left foot"),
    *("right hip", "right knee", "right ankle", "right foot"),
)
BONES = LAYOUTS["utd-mhad-20"]
TRAINING_SUBJECTS = (1, 3, 5, 7)
FOCAL = 285.63  # of the depth camera, in pixels

# The kind of file that each modality is read from.
SOURCES = {"depth": "depth", "skeleton": "skeleton", "accelerometer": "inertial", "gyroscope": "inertial", "rgb": "rgb"}
_VERSION = 1


def utd_mhad(
    path: Path,
    *,
    inputs: tuple[str, ...] = ("depth", "skeleton"),
    protocol: Literal["cross_subject", "leave_one_subject_out"] = "cross_subject",
    subject: int | None = None,
    frames: int = 16,
    size: int | tuple[int, int] = 48,
    validation_subjects: int | tuple[int, ...] = 1,
    cache: Path | None = None,
) -> Splits:
    """UTD-MHAD in its official layout (`path` holds Depth, Skeleton, Inertial, RGB), decoded once and then cached.

    `inputs`, of which a clip must have all (clips that lack one are left out, with a warning that counts them):
    - `depth` (N, 1, T, H, W) millimetres; the sensor removed the background, so the mask is the body's pixels: the
      rest is 0 in every clip and not the attacker's;
    - `skeleton` (N, 1, T, 20, 3) metres, at the same frames as `depth`;
    - `accelerometer` (N, T', 3) in g and `gyroscope` (N, T', 3) in degrees a second, 50 Hz, padded to the longest
      clip, the mask says what is real: two modalities of one sensor, since no one budget has two units;
    - `rgb` (N, 3, T, H, W) in [0, 1], frames spread over its own length (it is not aligned by frame number).

    `cross_subject` is the paper's protocol: trained on subjects 1 3 5 7, tested on 2 4 6 8; `leave_one_subject_out`
    tests on `subject`. Validation is `validation_subjects` of the training ones: so many, or these. Classes are the
    actions that the folder holds, in official order; `groups` are the subjects. Raises DataError, naming the file, for
    what is missing, truncated or not in this layout.
    """
    target = height_width(size)
    if frames < 1:
        raise DataError(f"frames is {frames}, expected a whole number >= 1")
    clips, files = _complete(path, inputs)
    kinds = tuple(sorted({SOURCES[name] for name in inputs}))
    sources = [files[kind][clip] for kind in kinds for clip in clips]
    options = {"kinds": kinds, "frames": frames, "size": target}
    arrays = load_or_build(
        cache_key("utd_mhad", options, _VERSION, sources), lambda: _decode(clips, files, kinds, frames, target), cache
    )
    everything = _dataset(clips, arrays, inputs, target)
    return _split(everything, clips, protocol, subject, validation_subjects)


def _complete(path: Path, inputs: Sequence[str]) -> tuple[list[Clip], dict[str, dict[Clip, Path]]]:
    """The clips that have a file of every modality asked for."""
    unknown = [name for name in inputs if name not in SOURCES]
    if unknown or not inputs or len(set(inputs)) != len(inputs):
        raise DataError(f"inputs are {list(inputs)}, expected some of {', '.join(SOURCES)}, each once")
    files = find(path)
    have = [set(files[SOURCES[name]]) for name in inputs]
    clips = sorted(set.intersection(*have))
    if not clips:
        counts = ", ".join(f"{name}: {len(clips)}" for name, clips in zip(inputs, have, strict=True))
        raise DataError(
            f"{path}: no clip has all of {', '.join(inputs)} (files found: {counts}); fetch what is missing"
        )
    lacking = len(set.union(*have)) - len(clips)
    if lacking:
        warnings.warn(
            f"{path}: {lacking} of {lacking + len(clips)} clips lack one of {', '.join(inputs)} and are left out",
            stacklevel=3,
        )
    return clips, files


def _decode(
    clips: Sequence[Clip],
    files: Mapping[str, Mapping[Clip, Path]],
    kinds: Sequence[str],
    frames: int,
    size: tuple[int, int],
) -> dict[str, NDArray[Any]]:
    """Every clip by kind; a thread a core, as inflating and decoding leave the interpreter free."""
    readers: dict[str, Callable[[Path], NDArray[Any]]] = {
        "depth": lambda file: read_depth(file, frames, size),
        "skeleton": lambda file: read_skeleton(file, frames),
        "inertial": read_inertial,
        "rgb": lambda file: read_video(file, frames, size),
    }
    arrays: dict[str, NDArray[Any]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for kind in kinds:
            read = list(pool.map(readers[kind], [files[kind][clip] for clip in clips]))
            if kind == "inertial":
                arrays["length"] = np.array([len(x) for x in read])
                longest = int(arrays["length"].max())
                read = [np.pad(x, ((0, longest - len(x)), (0, 0))) for x in read]
            arrays[kind] = np.stack(read)
    return arrays


def modalities(size: tuple[int, int]) -> dict[str, Modality]:
    """What each of the five inputs is, for pictures of `size`."""
    top, left, h, w = centre_window(*PICTURE, size)
    camera = (FOCAL / w, FOCAL / h, (PICTURE[1] / 2 - left) / w, (PICTURE[0] / 2 - top) / h)
    # Full scale of the 16-bit codes: 4096 a g, 32.75 a degree a second.
    g, turn = 32768 / 4096, 32768 / 32.75
    every = (
        Modality("depth", "NCTHW", "mm", bounds=(0.0, float(FARTHEST))),
        Modality("skeleton", "NMTVC", "m", bones=BONES, camera=camera),
        Modality("accelerometer", "NTD", "g", bounds=(-g, g), rate=50.0),
        Modality("gyroscope", "NTD", "degree/s", bounds=(-turn, turn), rate=50.0),
        Modality("rgb", "NCTHW", "1", bounds=(0.0, 1.0)),
    )
    return {modality.name: modality for modality in every}


def _dataset(
    clips: Sequence[Clip], arrays: Mapping[str, NDArray[Any]], inputs: Sequence[str], size: tuple[int, int]
) -> TensorDataset:
    known, values, mask = modalities(size), dict[str, Tensor](), dict[str, Tensor]()
    for name in inputs:
        x = torch.from_numpy(arrays[SOURCES[name]])
        if name == "depth":
            values[name] = x.unsqueeze(1).to(torch.float32)
            mask[name] = values[name] > 0
        elif name == "skeleton":
            values[name] = x.unsqueeze(1)
        elif name == "rgb":
            values[name] = x.permute(0, 4, 1, 2, 3).contiguous()
        else:
            values[name] = (x[..., :3] if name == "accelerometer" else x[..., 3:]).contiguous()
            mask[name] = torch.arange(x.shape[1]) < torch.from_numpy(arrays["length"])[:, None]
    present = sorted({clip.action for clip in clips})
    return TensorDataset(
        name="utd_mhad",
        modalities={name: known[name] for name in inputs},
        classes=tuple(ACTIONS[action - 1] for action in present),
        inputs=values,
        targets=torch.tensor([present.index(clip.action) for clip in clips]),
        mask=mask,
        ids=tuple(clip.id for clip in clips),
        groups=tuple(clip.group for clip in clips),
    )


def _split(
    everything: TensorDataset,
    clips: Sequence[Clip],
    protocol: str,
    subject: int | None,
    validation_subjects: int | tuple[int, ...],
) -> Splits:
    there = sorted({clip.subject for clip in clips})
    if protocol == "leave_one_subject_out":
        if subject not in there:
            raise DataError(f"leave_one_subject_out: subject is {subject}, expected the one to test on, of {there}")
        tested = {subject}
    elif protocol == "cross_subject":
        if subject is not None:
            raise DataError(f"subject is {subject}, but cross_subject tests on 2 4 6 8; say leave_one_subject_out")
        tested = set(there) - set(TRAINING_SUBJECTS)
    else:
        raise DataError(f"protocol is {protocol!r}, expected 'cross_subject' or 'leave_one_subject_out'")
    test = [i for i, clip in enumerate(clips) if clip.subject in tested]
    training = [i for i, clip in enumerate(clips) if clip.subject not in tested]
    if not test or not training:
        raise DataError(f"{protocol}: the folder holds subjects {there}, expected some to train on and some to test on")
    kept, held = _inner([clips[i] for i in training], validation_subjects)
    return Splits(
        train=everything.subset([training[i] for i in kept]),
        validation=everything.subset([training[i] for i in held]),
        test=everything.subset(test),
    )


def _inner(training: Sequence[Clip], wanted: int | tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The training clips that stay, and those of the subjects held out for validation."""
    if isinstance(wanted, int):
        return hold_out([clip.group for clip in training], count=wanted)
    there = sorted({clip.subject for clip in training})
    if not wanted or not set(wanted) < set(there):
        raise DataError(
            f"validation_subjects are {list(wanted)}, expected some, and not all, of those trained on: {there}"
        )
    held = [i for i, clip in enumerate(training) if clip.subject in wanted]
    return sorted(set(range(len(training))) - set(held)), held
