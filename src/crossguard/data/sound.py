"""Sound from files: wav and flac through soundfile, tracks of video files through PyAV; mono, at one rate."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from crossguard.core.errors import DataError
from crossguard.data.containers import check_whole
from crossguard.data.faults import SampleError
from crossguard.data.sampling import optional
from crossguard.data.video import opened

SOUNDS = (".wav", ".flac", ".ogg")
# Zero crossings of the kernel to each side, and the share of the lower rate's band that is kept: as torchaudio has it.
_CROSSINGS, _ROLLOFF = 6, 0.99
_CHUNK = 1 << 13


def read_sound(path: Path, rate: int, seconds: float | None = None) -> NDArray[np.float32]:
    """(T,) in [-1, 1]: the mean of the channels at `rate` hertz, of at most the first `seconds`.

    Raises SampleError, naming the file and the kind, for what is missing or damaged, has no sound track, no sample, or
    values that are not finite; DataError where the package that reads it is not installed.
    """
    if rate < 1 or (seconds is not None and not seconds > 0):
        raise DataError(f"found rate {rate}, seconds {seconds}; expected a rate >= 1 Hz, seconds > 0 (or None: all)")
    channels, old = _sound_file(path) if path.suffix.lower() in SOUNDS else _track(path)
    if not channels.shape[0]:
        raise SampleError("empty", f"{path}: the sound has no sample at all")
    if seconds is not None:
        # A little more than is kept, for the kernel that reaches beyond it.
        channels = channels[: math.ceil((seconds + 0.1) * old)]
    if not np.isfinite(channels).all():
        raise SampleError("not finite", f"{path}: the sound has NaN or Inf")
    wave = resample(torch.from_numpy(channels.mean(axis=1)), old, rate).clamp(-1, 1)
    return wave[: None if seconds is None else max(1, round(seconds * rate))].numpy()


def resample(wave: Tensor, old: int, new: int) -> Tensor:
    """(T,) at `old` hertz as ceil(T new / old) samples at `new`: sums of a Hann-windowed sinc, silence beyond the ends.

    Any two whole rates; frequencies above 0.99 of the lower one's half are damped away.
    """
    divisor = math.gcd(old, new)
    old, new = old // divisor, new // divisor
    if old == new:
        return wave
    count = -(-wave.shape[0] * new // old)
    cutoff = min(1.0, new / old) * _ROLLOFF  # in units of half the old rate
    reach = math.ceil(_CROSSINGS / cutoff)
    offset = torch.arange(-reach, reach + 1)
    padded = F.pad(wave, (reach, reach + 1))
    pieces: list[Tensor] = []
    for first in range(0, count, _CHUNK):
        place = torch.arange(first, min(first + _CHUNK, count)) * old
        whole, part = place // new, (place % new).to(torch.float64) / new
        time = (offset - part[:, None]) * cutoff
        window = (time * (math.pi / 2 / _CROSSINGS)).cos().square() * (time.abs() < _CROSSINGS)
        kernel = torch.sinc(time) * window * cutoff
        pieces.append((padded[whole[:, None] + offset + reach] * kernel.to(wave.dtype)).sum(dim=1))
    return torch.cat(pieces)


def _sound_file(path: Path) -> tuple[NDArray[np.float32], int]:
    """(T, channels) and their rate."""
    soundfile = optional("soundfile", "media")
    check_whole(path)
    try:
        with path.open("rb") as file:
            values, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, TypeError) as error:  # soundfile's own is a RuntimeError
        raise SampleError("damaged", f"{path}: no sound that can be read ({error}); fetch it again") from error
    return values, int(rate)


def _track(path: Path) -> tuple[NDArray[np.float32], int]:
    """(T, channels) of the first sound track of a media file, and its rate."""
    av = optional("av", "media")
    with opened(av, path) as container:
        if not container.streams.audio:
            raise SampleError("no sound", f"{path}: the file has no sound track")
        rate = int(container.streams.audio[0].rate)
        planar = av.AudioResampler(format="fltp")
        try:
            frames = [f for frame in container.decode(audio=0) for f in planar.resample(frame)]
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SampleError("damaged", f"{path}: decoding stopped ({error}); fetch it again") from error
    parts = [frame.to_ndarray() for frame in frames]
    return (np.concatenate(parts, axis=1).T if parts else np.zeros((0, 1), np.float32)), rate
