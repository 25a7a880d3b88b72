"""Small media files that tests write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile


def tone(seconds: float, rate: int, hertz: float = 440.0, height: float = 0.5) -> np.ndarray[Any, Any]:
    return (height * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_sound(path: Path, values: np.ndarray[Any, Any], rate: int, subtype: str | None = None) -> Path:
    """(T,) or (T, channels) as wav, flac or ogg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, rate, subtype=subtype)
    return path


def write_mp4(
    path: Path,
    pictures: np.ndarray[Any, Any] | None = None,
    sound: np.ndarray[Any, Any] | None = None,
    rate: int = 16000,
    fps: int = 8,
    *,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """(T, H, W, 3) uint8 as mpeg4 and (T,) or (T, channels) as aac in one file; either may be left out.

    A webm holds VP8 and Opus. Picture t is shown from `times[t]` / fps seconds on, and `options` are the container's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    webm = path.suffix == ".webm"
    with av.open(str(path), "w", options=options or {}) as container:
        streams: list[tuple[Any, list[Any]]] = []
        if pictures is not None:
            video: Any = container.add_stream("libvpx" if webm else "mpeg4", rate=fps)
            video.height, video.width = pictures.shape[1:3]
            video.pix_fmt, video.options = "yuv420p", {"deadline": "realtime"} if webm else {"qscale": "1"}
            made = [av.VideoFrame.from_ndarray(np.ascontiguousarray(p), format="rgb24") for p in pictures]
            for frame, time in zip(made, times or range(len(made)), strict=True):
                frame.pts = time
            streams.append((video, made))
        if sound is not None:
            channels = np.atleast_2d(sound.T).astype(np.float32)
            layout = {1: "mono", 2: "stereo"}[len(channels)]
            audio: Any = container.add_stream("libopus" if webm else "aac", rate=rate, layout=layout)
            frames = []
            for first in range(0, channels.shape[1], 1024):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(channels[:, first : first + 1024]), format="fltp", layout=layout
                )
                frame.sample_rate, frame.pts = rate, first
                frames.append(frame)
            streams.append((audio, frames))
        for stream, frames in streams:
            for frame in [*frames, None]:
                for packet in stream.encode(frame):
                    container.mux(packet)
    return path
