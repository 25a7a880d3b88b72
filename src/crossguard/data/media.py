"""Recordings as they are: sound files, video files and folders of pictures, decoded once and then kept in the cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossguard.core.errors import DataError
from crossguard.data.decoders import DECODERS, Decoder
from crossguard.data.faults import SampleError
from crossguard.data.pieces import piece
from crossguard.data.sampling import height_width, optional, shrink, uniform_frames
from crossguard.data.sound import SOUNDS, read_sound
from crossguard.data.video import opened, read_video

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
Silent: TypeAlias = Literal["bad", "keep"]
"""What is done about sounds of nothing but zeros, to which an SNR budget allows nothing."""

_VERSION = 2


def media_decoders(
    *,
    rate: int = 16000,
    seconds: float | None = None,
    frames: int = 16,
    size: int | tuple[int, int] = 64,
    silent: Silent = "bad",
    cache: Path | None = None,
) -> dict[str, Decoder]:
    """`DECODERS` and readers of recordings, by suffix:

    - wav, flac, ogg, and `video.mp4#audio` for the sound of a video: (T,) in [-1, 1], the mean of the channels at
      `rate` hertz whatever the file's, of at most `seconds`; kept as 16-bit codes;
    - mp4, mkv, webm, avi, mov, and folders of jpg, png or bmp in the order of the numbers in their names:
      (3, `frames`, H, W) in [0, 1], pictures spread evenly over all there are, cropped around the centre to `size`.

    They raise SampleError of the kinds damaged, no sound, no picture, empty, silent, not finite.
    """
    target = height_width(size)
    if frames < 1 or rate < 1 or (seconds is not None and not seconds > 0):
        raise DataError(f"found frames {frames}, rate {rate}, seconds {seconds}; expected each > 0 (seconds: or None)")
    heard = {"version": _VERSION, "rate": rate, "seconds": seconds}
    seen = {"version": _VERSION, "frames": frames, "size": list(target)}

    def sound(path: Path, part: str | None) -> Tensor:
        _check(path)
        codes = piece(path, heard, lambda: _codes(read_sound(path, rate, seconds)), cache)
        if silent == "bad" and not codes.any():
            raise SampleError("silent", f"{path}: nothing but zeros can be heard")
        return torch.from_numpy(codes.astype(np.float32) / 32768)

    def pictures(path: Path, part: str | None) -> Tensor:
        _check(path)
        read = read_folder if path.is_dir() else read_video
        made = piece(path, seen, lambda: read(path, frames, target), cache)
        return torch.from_numpy(made.astype(np.float32) / 255).permute(3, 0, 1, 2).contiguous()

    hear = Decoder(sound, "NT", "1", (-1.0, 1.0), float(rate), f"{heard} {silent}")
    see = Decoder(pictures, "NCTHW", "1", (0.0, 1.0), None, str(seen))
    by_suffix = {**dict.fromkeys(SOUNDS, hear), **dict.fromkeys((*VIDEOS, ""), see)}
    return {**DECODERS, **by_suffix, **{f"{suffix}#audio": hear for suffix in VIDEOS}}


def _check(path: Path) -> None:
    if not path.exists():
        raise SampleError("missing", f"{path}: no such file")


def _codes(wave: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)


def read_folder(path: Path, frames: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(T, H, W, 3) of a folder of pictures; raises SampleError where there is none, or one cannot be read."""
    av = optional("av", "media")
    files = sorted((p for p in path.iterdir() if p.suffix.lower() in PICTURES), key=lambda p: _natural(p.name))
    if not files:
        raise SampleError("no picture", f"{path}: no {', '.join(PICTURES)} file in this folder")
    chosen = uniform_frames(len(files), frames).tolist()
    looked = {i: _picture(av, files[i], size) for i in sorted(set(chosen))}
    return np.stack([looked[i] for i in chosen])


def _natural(name: str) -> list[tuple[int, str]]:
    """2 before 10, whether or not they are padded."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _picture(av: Any, file: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    with opened(av, file) as container:
        try:
            frame = next(container.decode(video=0))
        except (av.FFmpegError, OSError, ValueError, IndexError, StopIteration) as error:
            raise SampleError("damaged", f"{file}: no picture that can be read ({error}); fetch it again") from error
        rgb = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float()
    return shrink(rgb, size).round().to(torch.uint8).permute(1, 2, 0).numpy()
