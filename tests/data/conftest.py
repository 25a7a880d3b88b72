"""A folder in the layout of UTD-MHAD, made of small arrays with known content; and a cache of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.io import savemat

Write = Callable[..., Path]


def write_avi(path: Path, pictures: np.ndarray[Any, Any], codec: str = "mjpeg") -> Path:
    """(T, H, W, 3) uint8 as an avi."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=15)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = {"mjpeg": "yuvj444p", "mpeg4": "yuv420p"}[codec]
        stream.options = {"qscale": "1"}
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def grey_ramp(frames: int, size: tuple[int, int] = (48, 64)) -> np.ndarray[Any, Any]:
    """Frame t is one grey of 10 t, so that a frame can be told by its value."""
    level = (10 * np.arange(frames)).astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (frames, *size, 3)).copy()


def depth_video(frames: int, level: int = 2000) -> np.ndarray[Any, Any]:
    """A body that fills rows 60 to 179 and columns 130 to 189, `level` + 10 t millimetres away."""
    depth = np.zeros((240, 320, frames), np.uint16)
    depth[60:180, 130:190] = level + 10 * np.arange(frames)
    return depth


def inertial(samples: int) -> np.ndarray[Any, Any]:
    """Columns 0 to 5 hold the column's number plus the time."""
    return np.arange(6)[None] + np.arange(samples)[:, None] / 1000


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that no other test has written to."""
    monkeypatch.setenv("CROSSGUARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_utd(tmp_path: Path) -> Write:
    """Write clips "aA_sS_tT" into a new folder; skeletons hold the clip's frame number in every coordinate."""

    def write(clips: Iterable[str], *, frames: int = 8, rgb: bool = False) -> Path:
        folder = tmp_path / "UTD-MHAD"
        for name in ("Depth", "Skeleton", "Inertial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for i, clip in enumerate(clips):
            skeleton = np.broadcast_to(np.arange(float(frames)), (20, 3, frames)).copy()
            savemat(folder / f"Depth/{clip}_depth.mat", {"d_depth": depth_video(frames)}, do_compression=True)
            savemat(folder / f"Skeleton/{clip}_skeleton.mat", {"d_skel": skeleton}, do_compression=True)
            savemat(folder / f"Inertial/{clip}_inertial.mat", {"d_iner": inertial(20 + i)}, do_compression=True)
            if rgb:
                write_avi(folder / f"RGB/{clip}_color.avi", grey_ramp(12))
        return folder

    return write
