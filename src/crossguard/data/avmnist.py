"""AV-MNIST of real recordings: spoken digits (Free Spoken Digit Dataset) paired by label with MNIST's test pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from crossguard.core.errors import DataError
from crossguard.core.modality import Modality
from crossguard.data.avmnist_files import CLASSES, RATE, Pair, read_pairs, read_pictures
from crossguard.data.base import Splits, TensorDataset, hold_out
from crossguard.data.cache import cache_key, load_or_build
from crossguard.data.sound import read_sound

_VERSION = 1


def avmnist(
    path: Path,
    *,
    inputs: tuple[Literal["audio", "image"], ...] = ("audio", "image"),
    protocol: Literal["official", "leave_one_speaker_out"] = "official",
    speaker: str | None = None,
    seconds: Annotated[float, Field(gt=0)] = 0.75,
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15,
    cache: Path | None = None,
) -> Splits:
    """`audio` (N, T) in [-1, 1] at 8 kHz, cut off or padded at `seconds` with a mask, and `image` (N, 1, 28, 28).

    `official` tests on the first five recordings of each digit and speaker: speakers are on both sides, each sample is
    a group of its own, and validation is a `validation` share of the training recordings, as many of each digit and
    speaker. `leave_one_speaker_out` tests on `speaker`; groups are the speakers, and validation is one of the training
    speakers. Decoded once and then cached. Raises DataError, naming the file or line, for what is not in this layout.
    """
    if not inputs or len(set(inputs)) != len(inputs):
        raise DataError(f"inputs are {list(inputs)}, expected some of audio, image, each once")
    pairs = read_pairs(path)
    speakers = sorted({pair.speaker for pair in pairs})
    if (speaker in speakers) != (protocol == "leave_one_speaker_out") or (speaker and protocol == "official"):
        raise DataError(
            f"protocol {protocol!r} with speaker {speaker!r}; expected 'official' without one, or "
            f"'leave_one_speaker_out' with one of {', '.join(speakers)}"
        )
    everything = _dataset(path, pairs, inputs, round(seconds * RATE), protocol == "official", cache)
    if protocol == "official":
        test = [i for i, pair in enumerate(pairs) if pair.split == "test"]
        train = [i for i, pair in enumerate(pairs) if pair.split == "train"]
        held = _spread(pairs, train, validation)
        kept = [i for i in train if i not in held]
    else:
        test = [i for i, pair in enumerate(pairs) if pair.speaker == speaker]
        train = [i for i, pair in enumerate(pairs) if pair.speaker != speaker]
        stay, out = hold_out([pairs[i].speaker for i in train], count=1)
        kept, held = [train[i] for i in stay], {train[i] for i in out}
    return Splits(everything.subset(kept), everything.subset(sorted(held)), everything.subset(test))


def _spread(pairs: list[Pair], train: list[int], share: float) -> set[int]:
    """As near a `share` as can be of the training recordings of each digit and speaker, the last ones by name."""
    held: set[int] = set()
    kinds = sorted({(pairs[i].label, pairs[i].speaker) for i in train})
    for kind in kinds:
        same = sorted((i for i in train if (pairs[i].label, pairs[i].speaker) == kind), key=lambda i: pairs[i].id)
        held |= set(same[len(same) - max(1, round(share * len(same))) :]) if len(same) > 1 else set()
    return held


def _sounds(pairs: list[Pair], samples: int) -> dict[str, NDArray[Any]]:
    """Waveforms as 16-bit codes, which the recordings are, and how many samples of each are real."""
    codes = np.zeros((len(pairs), samples), np.int16)
    length = np.zeros(len(pairs), np.int64)
    for i, pair in enumerate(pairs):
        wave = read_sound(pair.wav, RATE, samples / RATE)[:samples]
        length[i] = len(wave)
        codes[i, : len(wave)] = np.clip(np.round(wave * 32768), -32768, 32767)
    return {"codes": codes, "length": length}


def _dataset(
    path: Path, pairs: list[Pair], inputs: tuple[str, ...], samples: int, alone: bool, cache: Path | None
) -> TensorDataset:
    known = {
        "audio": Modality("audio", "NT", "1", bounds=(-1.0, 1.0), rate=RATE),
        "image": Modality("image", "NCHW", "1", bounds=(0.0, 1.0)),
    }
    values: dict[str, torch.Tensor] = {}
    mask: dict[str, torch.Tensor] = {}
    if "audio" in inputs:
        missing = [pair.wav for pair in pairs if not pair.wav.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(pairs)} recordings are missing, the first is {missing[0]}; fetch them"
            )
        key = cache_key("avmnist", {"samples": samples}, _VERSION, [pair.wav for pair in pairs])
        kept = load_or_build(key, lambda: _sounds(pairs, samples), cache)
        values["audio"] = torch.from_numpy(kept["codes"]).float() / 32768
        mask["audio"] = torch.arange(samples) < torch.from_numpy(kept["length"])[:, None]
    if "image" in inputs:
        values["image"] = torch.from_numpy(read_pictures(path, pairs))
    return TensorDataset(
        name="avmnist",
        modalities={name: known[name] for name in inputs},
        classes=CLASSES,
        inputs={name: values[name] for name in inputs},
        targets=torch.tensor([pair.label for pair in pairs]),
        mask=mask,
        ids=tuple(pair.id for pair in pairs),
        groups=tuple(pair.id if alone else pair.speaker for pair in pairs),
    )
