"""Video files (avi, mp4, …) read with PyAV, which carries its own FFmpeg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossguard.data.containers import check_whole
from crossguard.data.faults import SampleError
from crossguard.data.sampling import height_width, optional, shrink, uniform_frames

# A decoder may keep back a last frame or two; more than this share missing is a damaged file.
_MAY_LACK = 0.1


def read_video(path: Path, frames: int, size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """(T, H, W, 3) uint8 RGB: `frames` pictures spread evenly over a video, cropped around the centre to fit `size`.

    The file is decoded twice, so that only the chosen frames are ever held. Raises DataError, naming the file, where
    it is missing, truncated, damaged or no video, and where PyAV is not installed.
    """
    av = optional("av", "media")
    target = height_width(size)
    announced, found = _count(av, path)
    if found == 0 or found < announced * (1 - _MAY_LACK):
        raise SampleError(
            "damaged",
            f"{path}: {found} frames can be decoded of {announced} announced; the file is truncated or damaged, fetch "
            f"it again",
        )
    wanted = uniform_frames(found, frames)
    pictures = dict.fromkeys(wanted.tolist())
    for i, frame in enumerate(_decode(av, path)):
        if i in pictures:
            rgb = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float()
            pictures[i] = shrink(rgb, target).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.stack([pictures[i] for i in wanted.tolist()])  # pyright: ignore[reportArgumentType, reportCallIssue]


def _count(av: Any, path: Path) -> tuple[int, int]:
    with opened(av, path) as container:
        if not container.streams.video:
            raise SampleError("no picture", f"{path}: the file has no video stream")
        announced = int(container.streams.video[0].frames)
    return announced, sum(1 for _ in _decode(av, path))


def opened(av: Any, path: Path) -> Any:
    """A media file, open; raises SampleError where it is none, or truncated."""
    check_whole(path)
    try:
        # Its names of streams and files may be in any encoding.
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SampleError("damaged", f"{path}: no media file that can be read ({error}); fetch it again") from error


def _decode(av: Any, path: Path) -> Any:
    with opened(av, path) as container:
        try:
            yield from container.decode(video=0)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SampleError("damaged", f"{path}: damaged, decoding stopped ({error}); fetch it again") from error
