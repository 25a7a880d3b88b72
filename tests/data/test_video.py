"""Video files that the tests encode themselves: which frames come back, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from crossguard.core import DataError
from crossguard.data.video import read_video
from tests.data.conftest import grey_ramp, write_avi
from tests.data.media import tone, write_mp4


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
@pytest.mark.parametrize(("frames", "expected"), [(4, [1, 4, 7, 10]), (12, list(range(12))), (1, [6])])
def test_frames_are_spread_over_the_whole_video(tmp_path: Path, codec: str, frames: int, expected: list[int]) -> None:
    clip = read_video(write_avi(tmp_path / "a.avi", grey_ramp(12), codec), frames, 16)
    assert clip.shape == (frames, 16, 16, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_allclose(clip.mean(axis=(1, 2, 3)), [10 * t for t in expected], atol=3)


def test_a_short_video_repeats_frames(tmp_path: Path) -> None:
    clip = read_video(write_avi(tmp_path / "a.avi", grey_ramp(2)), 4, (8, 10))
    assert clip.shape == (4, 8, 10, 3)
    np.testing.assert_allclose(clip.mean(axis=(1, 2, 3)), [0, 0, 10, 10], atol=3)


def test_colours_places_and_the_window(tmp_path: Path) -> None:
    pictures = np.zeros((3, 48, 64, 3), np.uint8)
    pictures[:, :24, 8:32, 0] = 200  # top left of the centred window, red
    pictures[:, 24:, 32:56, 2] = 200  # bottom right, blue
    pictures[:, :, :8, 1] = 200  # outside of it, green
    clip = read_video(write_avi(tmp_path / "a.avi", pictures), 1, 2)[0].astype(int)
    expected = np.zeros((2, 2, 3), int)
    expected[0, 0, 0] = expected[1, 1, 2] = 200
    np.testing.assert_allclose(clip, expected, atol=12)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_a_truncated_video_is_named(tmp_path: Path, share: float, codec: str) -> None:
    path = write_avi(tmp_path / "a3_s2_t1_color.avi", grey_ramp(12), codec)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"a3_s2_t1_color\.avi"):
        read_video(path, 4, 16)


def test_a_video_whose_frames_are_damaged_is_named(tmp_path: Path) -> None:
    path = write_avi(tmp_path / "a.avi", grey_ramp(12))
    data = bytearray(path.read_bytes())
    start = data.index(b"movi") + 4
    data[start:-200] = bytes(len(data) - 200 - start)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.avi"):
        read_video(path, 4, 16)


FRAGMENTS, INDEX_FIRST, PIPED = {"movflags": "frag_keyframe+empty_moov"}, {"movflags": "faststart"}, {"live": "1"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mkv", {}), ("a.webm", {}), ("a.mp4", {}), ("a.mov", INDEX_FIRST), ("a.mp4", FRAGMENTS)],
)
def test_a_truncated_video_of_any_kind_is_named(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    path = write_mp4(tmp_path / name, grey_ramp(12), tone(1.5, 16000), options=options)
    data = path.read_bytes()
    # The index behind the fragments is not needed to read them.
    end = data.index(b"mfra") - 4 if options is FRAGMENTS else len(data)
    for share in (0.3, 0.6, 0.9, 0.99):
        path.write_bytes(data[: int(end * share)])
        with pytest.raises(DataError, match=rf"a\{path.suffix}: (truncated|no media file)"):
            read_video(path, 4, 16)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mkv", {}), ("a.mkv", PIPED), ("a.webm", {}), ("a.webm", PIPED), ("a.mov", INDEX_FIRST), ("a.mp4", FRAGMENTS)],
)
@pytest.mark.parametrize("seconds", [0.4, 2.0])
def test_a_whole_video_of_any_kind_is_read(tmp_path: Path, name: str, options: dict[str, str], seconds: float) -> None:
    shown = [0, 1, 2, 7, 8, 9, 12, 20, 21, 22, 23, 40]  # at uneven times, and the sound shorter or longer than it
    path = write_mp4(tmp_path / name, grey_ramp(12), tone(seconds, 16000), fps=25, times=shown, options=options)
    clip = read_video(path, 4, 16)
    np.testing.assert_allclose(clip.mean(axis=(1, 2, 3)), [10, 40, 70, 100], atol=3)
    path.write_bytes(path.read_bytes() + b"a camera's own notes" * 9)
    assert np.array_equal(read_video(path, 4, 16), clip)


@pytest.mark.parametrize("content", [b"this is no video, but it is long enough to be read" * 20, b""])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"b\.mp4"):
        read_video(path, 4, 16)


def test_a_missing_file_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"c\.avi.*No such file"):
        read_video(tmp_path / "c.avi", 4, 16)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"pip install 'crossguard\[media\]'"):
        read_video(tmp_path / "c.avi", 4, 16)


@pytest.mark.parametrize(("announced", "accepted"), [(13, True), (40, False)])
def test_fewer_frames_than_announced(tmp_path: Path, announced: int, accepted: bool) -> None:
    path = write_avi(tmp_path / "a.avi", grey_ramp(12))
    data = bytearray(path.read_bytes())
    length = data.index(b"strh") + 40  # dwLength of the stream's header
    assert int.from_bytes(data[length : length + 4], "little") == 12
    data[length : length + 4] = announced.to_bytes(4, "little")
    path.write_bytes(data)
    if accepted:
        assert len(read_video(path, 4, 16)) == 4
        return
    with pytest.raises(DataError, match="12 frames can be decoded of 40 announced"):
        read_video(path, 4, 16)
