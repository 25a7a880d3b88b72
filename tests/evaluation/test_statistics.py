from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import crossguard as cg
from crossguard.evaluation import statistics as stats


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (500, 1000), (1, 1)])
def test_wilson_equals_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert stats.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_known_of_no_samples() -> None:
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.share(np.zeros(0, dtype=bool)).n == 0
    assert np.isnan(stats.share(np.zeros(0, dtype=bool)).value)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 2**31))
def test_the_share_lies_in_an_interval_that_is_never_empty(n: int, groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random(n) < rng.choice([0, 0.3, 1])
    found = stats.share(right, [f"g{i % groups}" for i in range(n)])
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.0


def test_bootstrap_standard_error_of_independent_samples() -> None:
    values = np.random.default_rng(0).random(400) < 0.3
    drawn = stats.bootstrap_means(values, draws=4000)[:, 0]
    p = values.mean()
    assert drawn.std() == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=0.05)


def test_bootstrap_over_groups_has_the_spread_of_the_groups() -> None:
    # All samples of a group are alike: only the number of groups counts.
    labels = np.repeat([f"g{i}" for i in range(16)], 50)
    values = np.repeat(np.arange(16) % 2, 50)
    drawn = stats.bootstrap_means(values, labels, draws=4000)[:, 0]
    assert drawn.std() == pytest.approx(np.sqrt(0.25 / 16), rel=0.06)
    alone = stats.share(values.astype(bool))
    grouped = stats.share(values.astype(bool), labels)
    assert grouped.high - grouped.low > 5 * (alone.high - alone.low)


def test_drawing_kinds_equals_drawing_rows() -> None:
    rng = np.random.default_rng(3)
    table = rng.integers(0, 2, size=(90, 3)).astype(float)
    groups = [f"g{i % 4}" for i in range(90)]
    quick = stats.bootstrap_means(table, groups, draws=4000)
    slow = np.array([table[r].mean(axis=0) for r in stats.bootstrap_rows(90, groups, draws=4000)])
    np.testing.assert_allclose(quick.mean(axis=0), slow.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.cov(quick.T), np.cov(slow.T), atol=8e-4)


def test_bootstrap_is_seeded_and_quick() -> None:
    values = np.random.default_rng(0).random((20000, 5)) < 0.5
    groups = np.arange(20000) % 40
    begun = time.process_time()
    first = stats.bootstrap_means(values, groups)
    assert time.process_time() - begun < 2
    assert np.array_equal(first, stats.bootstrap_means(values, groups))
    assert not np.array_equal(first, stats.bootstrap_means(values, groups, seed=1))


def test_pairing_narrows_a_difference() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(300) < 0.6
    b = a.copy()
    b[:12] = ~b[:12]
    found = stats.difference(a, b)
    delta = a.astype(float) - b
    assert found.value == pytest.approx(delta.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * delta.std() / np.sqrt(300), rel=0.1)


def test_no_discordant_sample_is_not_certainty() -> None:
    same = np.ones(50, dtype=bool)
    found = stats.difference(same, same)
    assert found.value == 0
    assert found.low == pytest.approx(-stats.wilson(0, 50)[1])
    assert stats.detectable_difference(same, same) > 0


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 10)
    covered = 0
    for seed in range(150):
        p = rng.beta(6, 4, size=30)
        right = rng.random(300) < np.repeat(p, 10)
        found = stats.share(right, labels, seed=seed)
        covered += found.low <= 0.6 <= found.high
    assert covered / 150 >= 0.90


def test_detectable_difference_is_one_that_is_detected_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    n = 400
    a, b = rng.random(n) < 0.6, rng.random(n) < 0.6
    least = stats.detectable_difference(a, b)
    assert least == pytest.approx(2.8 * np.sqrt(2 * 0.24 / n), rel=0.1)
    shown = 0
    for _ in range(300):
        delta = (rng.random(n) < 0.6 + least / 2).astype(float) - (rng.random(n) < 0.6 - least / 2)
        shown += abs(delta.mean()) > 1.96 * delta.std() / np.sqrt(n)
    assert 0.7 < shown / 300 < 0.9


def test_of_ten_trainings_less_than_one_sample_can_be_shown() -> None:
    a = np.ones((10, 100), dtype=bool)
    b = a.copy()
    b[:, :2] = np.arange(10)[:, None] < 1  # two samples, each lost by nine trainings of ten
    assert stats.detectable_difference(a, a) == pytest.approx(2.8 / 100, rel=0.01), "one sample's worth"
    rare = a.copy()
    rare[0, 0] = False
    assert 0 < stats.detectable_difference(a, rare) < 2.8 / 100 < stats.detectable_difference(a, b)


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(cg.InputError, match="3 groups for 5 samples"):
        stats.bootstrap_means(np.ones(5), ["a", "b", "c"])


def _trainings(rng: np.random.Generator, seeds: int, groups: int, each: int, spread: float) -> np.ndarray:
    """(S, N) outcomes: seeds and groups each shift the share of all their samples."""
    shift = spread * rng.normal(size=(seeds, 1)) + 2 * spread * np.repeat(rng.normal(size=groups), each)
    return rng.random((seeds, groups * each)) < 1 / (1 + np.exp(-shift))


def test_the_interval_over_seeds_and_groups_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(24), 8)
    found = [stats.share(_trainings(rng, 8, 24, 8, 0.4), labels, seed=i) for i in range(150)]
    covered = np.mean([e.low <= 0.5 <= e.high for e in found])
    assert 0.88 <= covered <= 1.0
    # Groups that were drawn anew for every seed would average out: half as wide, and wrong.
    nested = np.mean([abs(e.value - 0.5) < (e.high - e.low) / 4 for e in found])
    assert nested < 0.8


def test_the_variance_over_seeds_is_unbiased() -> None:
    # Seeds alone vary: every sample of one training comes out alike.
    right = np.repeat(np.array([[0.0], [1.0], [1.0]]), 40, axis=1)
    drawn = stats.average_seeds(np.tile(right.mean(axis=1), (8000, 1)))
    assert drawn.std() == pytest.approx(np.array([0, 1, 1]).std(ddof=1) / np.sqrt(3), rel=0.05)
    assert stats.share(right).high - stats.share(right).low > 0.9


def test_seeds_that_agree_leave_what_one_leaves() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.random(200) < 0.7, rng.random(200) < 0.5
    labels = np.arange(200) % 10
    single = stats.difference(one, other, labels)
    thrice = stats.difference(np.tile(one, (3, 1)), np.tile(other, (3, 1)), labels)
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx((single.value, single.low, single.high), abs=0.01)
    assert stats.detectable_difference(np.tile(one, (3, 1)), np.tile(other, (3, 1)), labels) == pytest.approx(
        stats.detectable_difference(one, other, labels), rel=0.02
    )


def test_a_function_is_of_each_seed_by_itself() -> None:
    # Each training leans on one of two modalities: none is balanced, though their mean is.
    columns = np.array([[[1, 0]] * 30, [[0, 1]] * 30], dtype=float)
    gap = stats.of_means(columns, lambda means: means.max(axis=-1) - means.min(axis=-1))
    assert gap.value == 1


def test_what_does_not_vary_over_draws_is_not_certainty() -> None:
    found = stats.of_draws(lambda times: np.ones(1), 6, limits=(0.0, 1.0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - stats.wilson(0, 6)[1])
    alike = stats.of_draws(lambda times: np.zeros(1), 50, limits=(-1.0, 1.0))
    assert (alike.low, alike.high) == pytest.approx((-stats.wilson(0, 50)[1], stats.wilson(0, 50)[1]))


def test_a_reflected_interval_lies_on_the_other_side_of_the_value() -> None:
    def skewed(times: np.ndarray | None) -> np.ndarray:
        return np.array([0.3 if times is None else 0.4 + 0.001 * times.max()])

    plain, turned = (stats.of_draws(skewed, 40, limits=(0.0, 1.0), reflect=turn) for turn in (False, True))
    assert plain.low == plain.value == turned.high == turned.value
    assert turned.low == pytest.approx(2 * plain.value - plain.high)
    assert stats.of_draws(lambda t: np.array([0.1 if t is None else 0.5]), 4, limits=(0, 1), reflect=True).low == 0
