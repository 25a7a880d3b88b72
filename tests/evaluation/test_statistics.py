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


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(cg.InputError, match="3 groups for 5 samples"):
        stats.bootstrap_means(np.ones(5), ["a", "b", "c"])
