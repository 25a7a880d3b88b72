"""How a clip of any length and size becomes `frames` pictures of one size, the same way for every reader."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from crossguard.core.errors import DataError


class PackageError(DataError):
    """A package that must be installed before a kind of file can be read; it says nothing of the file."""


def optional(module: str, extra: str) -> ModuleType:
    """Import a package that an extra brings; raises PackageError telling how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise PackageError(f"reading this needs {package}: pip install 'crossguard[{extra}]'") from error


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one number or two; raises DataError unless both are >= 1."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise DataError(f"size is {size}, expected one whole number >= 1, or (height, width)")
    return height, width


def uniform_frames(length: int, frames: int) -> NDArray[np.int64]:
    """(frames,) the middle frame of each of `frames` equal parts of a clip; a short clip repeats frames."""
    return (2 * np.arange(frames) + 1) * length // (2 * frames)


def centre_window(height: int, width: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest centred window of a picture that has the proportions of `size`, of at
    least one pixel.

    It depends on no picture's content: a window that follows the body would be a step that an attack cannot
    differentiate, and joints could not be laid over the picture with one camera.
    """
    scale = min(height / size[0], width / size[1])
    h, w = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return (height - h) // 2, (width - w) // 2, h, w


def crop(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """The centred window of `pictures` (…, H, W)."""
    top, left, height, width = centre_window(pictures.shape[-2], pictures.shape[-1], size)
    return pictures[..., top : top + height, left : left + width]


def shrink(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """The centred window of float `pictures` (…, H, W), averaged over equal areas down (or up) to `size`."""
    window = crop(pictures, size)
    flat = window.reshape(1, -1, *window.shape[-2:])
    return F.adaptive_avg_pool2d(flat, size).reshape(*pictures.shape[:-2], *size)


def shrink_depth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """`shrink` for distances, where 0 means "nothing measured" and must not be averaged with what is there.

    A pixel of the result is the mean of the measured ones in its area where they cover at least half of it, else 0:
    the silhouette keeps its area, and no distance appears that lies between a body and the background.
    """
    depth = crop(depth, size)
    share = shrink((depth > 0).to(depth.dtype), size)
    return torch.where(share >= 0.5, shrink(depth, size) / share.clamp_min(0.5), 0.0)
