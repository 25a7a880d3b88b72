"""Density against closed forms: line, ring, disc and Gaussians; too few samples are undefined."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crossguard as cg
from crossguard import InputError

density = cg.diagnostics.density


def one_class(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(("n", "k", "h"), [(50, 1, 1.0), (50, 10, 0.25), (12, 10, 2.0)])
def test_line(n: int, k: int, h: float) -> None:
    # At distance i h: up to both ends two neighbours, beyond the near end one.
    near = [min(i, n - 1 - i) for i in range(n)]
    r = [h * (math.ceil(k / 2) if k <= 2 * left else k - left) for left in near]
    x = torch.arange(n, dtype=torch.float64)[:, None] * h
    (found,) = density(x, one_class(n), k, normalise=False)
    assert found.value == pytest.approx(-sum(math.log(v) for v in r) / n, abs=1e-12)
    assert found.low <= found.value <= found.high
    assert found.n == n


@pytest.mark.parametrize(("n", "k"), [(100, 10), (31, 3)])
def test_ring_on_the_unit_sphere(n: int, k: int) -> None:
    # n points evenly around: the k-th nearest is ceil(k / 2) places away, its chord 2 sin(pi ceil(k / 2) / n).
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    x = 7 * torch.stack([angle.cos(), angle.sin()], dim=1)
    chords = [2 * math.sin(math.pi * math.ceil(j / 2) / n) for j in range(1, k + 1)]
    (found,) = density(x, one_class(n), k)
    assert found.value == pytest.approx(-math.log(chords[-1]), abs=1e-9)
    (inverse,) = density(x, one_class(n), k, kind="inverse")
    assert inverse.value == pytest.approx(sum(1 / c for c in chords) / k, abs=1e-6)


def expected(count: int, k: int, entropy: float, d: int) -> float:
    """-E log r_k of `count` points of a smooth density (Kozachenko and Leonenko, 1987)."""
    ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = [float(torch.special.digamma(torch.tensor(float(v)))) for v in (k, count)]
    return (digamma[1] - digamma[0] + ball - entropy) / d


@pytest.mark.parametrize("k", [1, 10])
def test_disc(k: int) -> None:
    generator = torch.Generator().manual_seed(3)
    n, radius = 1999, 2.0
    r, angle = radius * torch.rand(n, generator=generator).sqrt(), 2 * math.pi * torch.rand(n, generator=generator)
    x = torch.stack([r * angle.cos(), r * angle.sin()], dim=1)
    (found,) = density(x, one_class(n), k, normalise=False)
    # Near the edge half of a ball is empty, which makes distances larger: a few hundredths at k = 10.
    assert found.value == pytest.approx(expected(n, k, math.log(math.pi * radius**2), 2), abs=0.07)


@pytest.mark.parametrize(("d", "sigma"), [(1, 1.0), (2, 0.5), (3, 3.0)])
def test_gaussian(d: int, sigma: float) -> None:
    n = 2000
    x = sigma * torch.randn(n, d, generator=torch.Generator().manual_seed(d))
    (found,) = density(x, one_class(n), 5, normalise=False)
    entropy = d / 2 * math.log(2 * math.pi * math.e * sigma**2)
    assert found.value == pytest.approx(expected(n, 5, entropy, d), abs=0.06)


def test_contrast_is_0_where_classes_coincide_and_the_ratio_of_distances_where_not() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(800, 3, generator=generator)
    for found in density(same, torch.arange(800) % 2, kind="contrast", normalise=False):
        assert abs(found.value) < 0.05
        assert found.low < 0.02
        assert found.high > -0.02
    # Two rings around centres far apart: r'_k is about that distance.
    angle = 2 * math.pi * torch.arange(400, dtype=torch.float64) / 400
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    x = torch.cat([ring, ring + torch.tensor([1000.0, 0.0])])
    chord = 2 * math.sin(math.pi * 5 / 400)
    for found in density(x, torch.arange(800) // 400, 10, kind="contrast", normalise=False):
        assert found.value == pytest.approx(math.log(1000 / chord), abs=2e-3)


def names(numbers: torch.Tensor) -> list[str]:
    return [str(int(v)) for v in numbers]


@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_contrast_is_0_where_classes_coincide_given_the_group(strength: float) -> None:
    # Every speaker says both classes as often, and latents tell of the speaker alone.
    generator = torch.Generator().manual_seed(0)
    speaker, said = torch.arange(400) % 8, torch.arange(400) // 8 % 2
    x = strength * torch.randn(8, 16, generator=generator)[speaker] + torch.randn(400, 16, generator=generator)
    for found in density(x, said, kind="contrast", groups=names(speaker)):
        assert abs(found.value) < 0.03


@pytest.mark.parametrize("few", [0, 1])
def test_contrast_takes_as_many_candidates_of_either_side(few: int) -> None:
    # One class of two videos, the other of forty: half of the one is left out, nothing of the other. By more
    # candidates the other would look nearer, by log(2) / 2.
    x = torch.randn(800, 2, generator=torch.Generator().manual_seed(1))
    targets = (torch.arange(800) // 400 + few) % 2
    video = torch.cat([torch.arange(400) // 200, 10 + torch.arange(400) // 10])
    found = density(x, targets, 5, kind="contrast", groups=names(video), normalise=False)
    for estimate in found:
        assert abs(estimate.value) < 0.08
    # And where there are fewer others than own.
    small = torch.cat([x[:400], x[400:460]]), (torch.arange(460) // 400)
    for estimate in density(*small, 5, kind="contrast", normalise=False, repeats=8):
        assert abs(estimate.value) < 0.12


def test_contrast_without_candidates_in_other_groups_is_undefined() -> None:
    # Those of a have no others outside of a, those of b too few of their own.
    x = torch.randn(49, 3, generator=torch.Generator().manual_seed(0))
    groups = ["a"] * 4 + ["b"] * 15 + ["a"] * 30
    targets = (torch.arange(49) >= 19).long()
    found = density(x, targets, 5, kind="contrast", groups=groups)
    for estimate, n in zip(found, (19, 30), strict=True):
        wanted = "5 neighbours in other groups of its class and of others"
        assert estimate.said() == f"undefined (none of {n} samples has {wanted})"
    whole = density(x, targets, 5, groups=groups)
    assert [e.defined for e in whole] == [True, False]


def test_every_class_is_judged_by_as_many_points() -> None:
    # The same distribution, 2,000 samples against 40: by all of its points the large class would look denser by
    # log(2000 / 40) / 2 = 1.96.
    x = torch.randn(2040, 2, generator=torch.Generator().manual_seed(1))
    targets = torch.cat([torch.zeros(2000), torch.ones(40)]).long()
    large, small = density(x, targets, 3, normalise=False, repeats=20)
    assert abs(large.value - small.value) < 0.25
    alone, _ = density(x, targets, 3, normalise=False, points=2000)
    assert alone.value - large.value > 1.5


def test_the_same_group_is_no_neighbour() -> None:
    # Frames of ten videos: within one they coincide.
    video = torch.randn(10, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x, groups = video.repeat_interleave(5, dim=0), [str(i // 5) for i in range(50)]
    (apart,) = density(x, one_class(50), 1, groups=groups, normalise=False)
    (videos,) = density(video, one_class(10), 1, normalise=False)
    assert apart.value == pytest.approx(videos.value, abs=1e-9)
    (blind,) = density(x, one_class(50), 1, normalise=False)
    assert blind.value == pytest.approx(-math.log(1e-6), abs=1e-9)
    assert apart.high - apart.low > 1e-3


def test_too_few_samples_are_undefined_and_say_why() -> None:
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0] * 20 + [1] * 10 + [2] * 2)
    found = density(x, targets, 10, classes=4)
    assert [e.defined for e in found] == [True, False, False, False]
    assert [e.n for e in found] == [20, 10, 2, 0]
    assert found[1].said() == "undefined (10 samples, 11 needed)"
    assert math.isnan(found[1].value)
    assert all(math.isnan(v) for v in (found[3].low, found[3].high))
    (group,) = density(x[:20], one_class(20), 10, groups=["a"] * 20)
    assert group.said() == "undefined (none of 20 samples has 10 neighbours in other groups)"
    alone = density(x[:20], one_class(20), 10, kind="contrast")
    assert not alone[0].defined


def test_several_labels() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(5))
    labels = torch.zeros(60, 3)
    labels[:40, 0] = 1
    labels[20:, 1] = 1
    found = density(x, labels, 5)
    for c, rows in ((0, slice(0, 40)), (1, slice(20, 60))):
        assert found[c].value == pytest.approx(density(x[rows], one_class(40), 5)[0].value, abs=1e-6)
    assert found[2].said() == "undefined (0 samples, 6 needed)"


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 10**6))
def test_scale_is_a_shift_and_order_is_nothing(scale: float, seed: int) -> None:
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (base,) = density(x, one_class(30), 4, normalise=False)
    (larger,) = density(scale * x, one_class(30), 4, normalise=False)
    assert larger.value == pytest.approx(base.value - math.log(scale), abs=1e-6)
    (on_sphere,) = density(x, one_class(30), 4)
    (turned,) = density(scale * x.flip(0), one_class(30), 4)
    assert turned.value == pytest.approx(on_sphere.value, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (torch.randn(20, 2, 2), {}),
        (torch.full((20, 2), torch.nan), {}),
        (torch.randn(20, 2), {"k": 0}),
        (torch.randn(20, 2), {"kind": "mean"}),
        (torch.randn(20, 2), {"points": 10}),
        (torch.randn(20, 2), {"groups": ["a"]}),
        (torch.randn(19, 2), {}),
    ],
)
def test_bad_input_is_refused(x: torch.Tensor, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="found"):
        density(x, one_class(20), **options)  # type: ignore[arg-type]
