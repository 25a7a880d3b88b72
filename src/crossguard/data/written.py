"""A data set written as ordinary recordings: wav, mp4 and a manifest.csv that the manifest reader takes."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossguard.core.batch import Batch
from crossguard.core.errors import DataError
from crossguard.core.files import write_atomic
from crossguard.core.modality import Modality
from crossguard.data.base import Dataset, Splits
from crossguard.data.manifest import FIXED
from crossguard.data.sampling import optional

_SIDE = 128  # pictures are enlarged to at least this, so that a video's halved colours blur nothing
_NAME = re.compile(r"[\w.-]+")


def write_recordings(splits: Splits, folder: Path) -> Path:
    """Write every sample's real part into `folder`, and return the path of its manifest.csv.

    Sound ("NT" with a rate) goes to wav of 16 bits, video ("NCTHW" in [0, 1]) to mp4 (MPEG-4 part 2, which loses a
    little), features ("NTD") to npy; classes.txt holds the classes. The manifest comes last, so a folder without one
    is unfinished, and may be written again. Raises DataError for a modality that has no such form, ids that cannot
    name a file, class names that a manifest cannot hold, a folder that holds a manifest, or where PyAV or soundfile is
    not installed.
    """
    suffixes = {name: _suffix(modality) for name, modality in splits.modalities.items()}
    manifest = folder / "manifest.csv"
    if manifest.exists():
        raise DataError(f"{manifest} is there already; name an empty folder")
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    strange = [i for part in parts.values() for i in part.ids if not _NAME.fullmatch(i)]
    if strange:
        raise DataError(f"the id {strange[0]!r} cannot name a file; expected letters, digits, '.', '-' and '_'")
    _check_classes(splits.classes)
    for name in suffixes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*FIXED, *suffixes])
    for split, part in parts.items():
        for i in range(len(part)):
            table.writerow(_written(part, i, split, suffixes, folder))
    write_atomic(folder / "classes.txt", lambda file: file.write(("\n".join(splits.classes) + "\n").encode()))
    write_atomic(manifest, lambda file: file.write(text.getvalue().encode()))
    return manifest


def _check_classes(classes: Sequence[str]) -> None:
    """Raises DataError for names that would be read back as others, or as none."""
    times = Counter(classes)
    for i, name in enumerate(classes):
        if times[name] > 1 or "|" in name or name.strip().splitlines() != [name]:
            raise DataError(
                f"class {i} is named {name!r}; expected names that differ, not empty, without '|', line break or space "
                f"around them, which a manifest cannot hold; name it otherwise"
            )


def _suffix(modality: Modality) -> str:
    if modality.axes == "NT" and modality.rate is not None:
        return ".wav"
    if modality.axes == "NCTHW" and modality.bounds == (0.0, 1.0):
        return ".mp4"
    if modality.axes == "NTD":
        return ".npy"
    raise DataError(
        f"{modality.name!r} is {modality.axes} in {modality.unit}, bounds {modality.bounds}; only sound (NT with a "
        f"rate), video (NCTHW in [0, 1]) and features (NTD) have a file of their own"
    )


def _written(part: Dataset, i: int, split: str, suffixes: dict[str, str], folder: Path) -> list[str]:
    """The manifest's row of one sample, its files written."""
    batch = part.read([i])
    row = [part.ids[i], "|".join(_labels(batch.targets[0], part.classes)), part.groups[i], split]
    for name, suffix in suffixes.items():
        modality = part.modalities[name]
        x = _real(batch, name, modality)
        place = f"{name}/{part.ids[i]}{suffix}"
        row.append(place if x.numel() else "")
        if not x.numel():
            continue
        if suffix == ".wav":
            _sound(folder / place, x, modality)
        elif suffix == ".mp4":
            _video(folder / place, x, modality)
        else:
            write_atomic(folder / place, lambda file, x=x: np.save(file, x.numpy(), allow_pickle=False))
    return row


def _labels(target: Tensor, classes: tuple[str, ...]) -> list[str]:
    if target.dim() == 0:
        return [classes[int(target)]]
    target = target.to_dense() if target.is_sparse else target
    return [classes[c] for c in target.nonzero().flatten().tolist()]


def _real(batch: Batch, name: str, modality: Modality) -> Tensor:
    """The sample without its axis N, up to the last moment that is real."""
    x, mask, axis = batch.inputs[name][0], batch.mask.get(name), (modality.axis("T") or 1) - 1
    if mask is None:
        return x
    mask = mask[0]
    if mask.dim() <= axis:  # all of it or nothing
        return x if bool(mask.any()) else x[:0]
    there = mask.movedim(axis, 0).flatten(1).any(dim=1) if mask.dim() > 1 else mask
    last = int(there.nonzero().max()) + 1 if bool(there.any()) else 0
    return x.narrow(axis, 0, x.shape[axis] if len(there) == 1 and last else last)


def _sound(path: Path, x: Tensor, modality: Modality) -> None:
    soundfile = optional("soundfile", "media")
    codes = (x * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy()
    rate = round(modality.rate or 0)
    write_atomic(path, lambda file: soundfile.write(file, codes, rate, format="WAV", subtype="PCM_16"))


def _video(path: Path, x: Tensor, modality: Modality) -> None:
    """(3, T, H, W) in [0, 1], each pixel as a square of several."""
    av = optional("av", "media")
    times = -(-_SIDE // min(x.shape[2:]))
    times += times * min(x.shape[2:]) % 2  # colours are halved: sides must be even
    pictures = (x * 255).round().to(torch.uint8).permute(1, 2, 3, 0)
    pictures = pictures.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2).numpy()
    rate = Fraction(modality.rate or 10).limit_denominator(1000)

    def write(file: Any) -> None:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("mpeg4", rate=rate)
            stream.height, stream.width = pictures.shape[1:3]
            stream.pix_fmt, stream.options = "yuv420p", {"qscale": "1"}
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            container.mux(stream.encode())

    write_atomic(path, write)
