"""Frames and pixels: closed forms, and that no distance is invented between a body and the background."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossguard.core import DataError
from crossguard.data.sampling import centre_window, height_width, optional, shrink, shrink_depth, uniform_frames


@pytest.mark.parametrize(
    ("length", "frames", "expected"),
    [
        (8, 4, [1, 3, 5, 7]),
        (4, 4, [0, 1, 2, 3]),
        (9, 3, [1, 4, 7]),
        (2, 4, [0, 0, 1, 1]),
        (1, 3, [0, 0, 0]),
        (5, 1, [2]),
    ],
)
def test_frames_are_the_middles_of_equal_parts(length: int, frames: int, expected: list[int]) -> None:
    assert uniform_frames(length, frames).tolist() == expected


@given(length=st.integers(1, 400), frames=st.integers(1, 64))
def test_frames_stay_in_the_clip_in_order_and_spread_evenly(length: int, frames: int) -> None:
    index = uniform_frames(length, frames)
    steps = (index[1:] - index[:-1]).tolist()
    assert len(index) == frames
    assert index[0] >= 0
    assert index[-1] < length
    assert index[0] <= length - 1 - index[-1] + 1
    assert not steps or (min(steps) >= 0 and max(steps) - min(steps) <= 1)


@pytest.mark.parametrize(
    ("picture", "size", "window"),
    [
        ((240, 320), (48, 48), (0, 40, 240, 240)),
        ((240, 320), (48, 64), (0, 0, 240, 320)),
        ((480, 640), (60, 40), (0, 160, 480, 320)),
        ((100, 50), (10, 20), (38, 0, 25, 50)),
        ((10, 10), (1, 640), (5, 0, 1, 10)),
        ((10, 10), (640, 1), (0, 4, 10, 1)),
    ],
)
def test_the_window_is_centred_and_has_the_proportions(
    picture: tuple[int, int], size: tuple[int, int], window: tuple[int, int, int, int]
) -> None:
    top, left, h, w = centre_window(*picture, size)
    assert (h, w) == window[2:]
    assert abs(top - window[0]) <= 1
    assert left == window[1]


def test_shrink_is_the_mean_of_equal_areas() -> None:
    pictures = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    expected = pictures.reshape(2, 3, 4, 2, 4, 2).mean(dim=(3, 5))
    torch.testing.assert_close(shrink(pictures, (4, 4)), expected)
    assert shrink(pictures, (16, 16)).shape == (2, 3, 16, 16)


def test_depth_at_an_edge_is_the_bodys_own() -> None:
    depth = torch.zeros(1, 8, 8)
    depth[:, :, 2:7] = 2500.0
    assert shrink_depth(depth, (4, 4))[0, 0].tolist() == [0.0, 2500.0, 2500.0, 2500.0]
    depth[:, :, 6] = 0.0
    depth[:, ::2, 1] = 3000.0
    # A column of the result is 2 x 2 pixels: one of four measured is nothing, two of four are something.
    assert shrink_depth(depth, (4, 4))[0, 0].tolist() == [0.0, 2500.0, 2500.0, 0.0]


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), size=st.sampled_from([3, 5, 8, 12, 17]))
def test_no_distance_appears_that_was_not_there(seed: int, share: float, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    depth = torch.randint(800, 4000, (2, 12, 12), generator=generator).float()
    depth *= torch.rand(2, 12, 12, generator=generator) < share
    small = shrink_depth(depth, (size, size))
    measured = depth[depth > 0]
    body = small[small > 0]
    if measured.numel() == 0:
        assert body.numel() == 0
    elif body.numel():
        assert float(body.min()) >= float(measured.min()) * (1 - 1e-5)
        assert float(body.max()) <= float(measured.max()) * (1 + 1e-5)


def test_sizes_and_missing_packages() -> None:
    assert height_width(7) == (7, 7)
    assert height_width((3, 4)) == (3, 4)
    with pytest.raises(DataError, match="size is 0"):
        height_width(0)
    with pytest.raises(DataError, match=r"pip install 'crossguard\[data\]'"):
        optional("a_package_that_is_not_there.io", "data")
