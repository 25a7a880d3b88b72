"""Clips in the axes of the viewer, quantised and deflated to text."""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossguard.core import Modality

LARGEST_SIDE, MOST_FRAMES = 112, 64

Array = NDArray[Any]


def kind(modality: Modality) -> str:
    """How a modality is drawn."""
    if "V" in modality.axes:
        return "skeleton"
    return "video" if "H" in modality.axes and "W" in modality.axes else "series"


def arrange(x: Array, modality: Modality) -> Array:
    """A sample without its batch axis as (T, H, W, C), (T, M, V, C) or (T, D); axes that it lacks get size 1."""
    wanted = {"video": "THWC", "skeleton": "TMVC", "series": "TD"}[kind(modality)]
    axes = modality.axes[1:]
    if kind(modality) == "series" and "D" not in axes:
        axes = axes.replace("C", "D")
    for letter in [a for a in axes if a not in wanted]:  # a picture of the first of what cannot be shown
        x = x.take(0, axis=axes.index(letter))
        axes = axes.replace(letter, "")
    for letter in wanted:
        if letter not in axes:
            x, axes = x[..., None], axes + letter
    return x.transpose([axes.index(letter) for letter in wanted])


def thin(x: Array, modality: Modality) -> tuple[Array, int, int]:
    """Every k-th pixel and frame where a clip is larger than the page can carry: clip, pixel step, frame step."""
    frames = math.ceil(x.shape[0] / (MOST_FRAMES if kind(modality) != "series" else 8 * MOST_FRAMES))
    if kind(modality) != "video":
        return x[::frames], 1, frames
    step = math.ceil(max(x.shape[1:3]) / LARGEST_SIDE)
    return x[::frames, ::step, ::step], step, frames


def pack(x: Array, bits: int, *, signed: bool, low: float = 0.0, high: float = 0.0) -> dict[str, Any]:
    """value = offset + step * code; `low` and `high` fix the range, else it is that of `x`."""
    if signed:
        offset, step = 0.0, float(np.abs(x).max(initial=0.0)) / (2 ** (bits - 1) - 1)
    else:
        if low >= high:
            low, high = float(x.min(initial=math.inf)), float(x.max(initial=-math.inf))
        offset, step = low, (high - low) / (2**bits - 1)
    codes = np.zeros(x.shape) if step <= 0 else np.rint((x.astype(np.float64) - offset) / step)
    ends = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    typed = codes.clip(*ends).astype(f"<{'i' if signed else 'u'}{bits // 8}")
    return {
        "type": f"{'i' if signed else 'u'}{bits // 8}",
        "offset": offset,
        "step": step,
        "shape": list(x.shape),
        "z": base64.b64encode(zlib.compress(np.ascontiguousarray(typed).tobytes(), 5)).decode(),
    }


def nice(gain: float) -> int:
    """The largest of 1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100 … that is not above `gain`."""
    steps = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000]
    return max((s for s in steps if s <= gain), default=1)
