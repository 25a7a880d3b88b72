"""Rank correlations against scipy and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crossguard import InputError
from crossguard.diagnostics.correlation import rank_correlation, ranks


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=5, max_size=40))
def test_is_spearmans_with_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    assert ranks(x).tolist() == stats.rankdata(x).tolist()
    found = rank_correlation(x, y)
    if len(set(x.tolist())) == 1 or len(set(y.tolist())) == 1:
        assert found.said() == "undefined (one side does not vary)"
    else:
        assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
        assert -1 <= found.low <= found.value <= found.high <= 1


def test_ranks_of_many_need_no_table_of_all_pairs() -> None:
    x = (torch.arange(200_000) % 1000).double()
    assert ranks(x)[:3].tolist() == [100.5, 300.5, 500.5]


def test_partial_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, generator=generator)
    x, y = (z + 0.3 * torch.randn(200, generator=generator) for _ in range(2))
    assert rank_correlation(x, y).value > 0.8
    rxy, rxz, ryz = (float(stats.spearmanr(a, b).statistic) for a, b in ((x, y), (x, z), (y, z)))
    expected = (rxy - rxz * ryz) / ((1 - rxz**2) * (1 - ryz**2)) ** 0.5
    found = rank_correlation(x, y, [z])
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.value < 0.3
    assert found.low < found.value < found.high
    twice = rank_correlation(x, y, [z, z, torch.ones(200)])
    assert twice.value == pytest.approx(expected, abs=1e-9), "a control that says nothing new changes nothing"


def test_the_interval_covers() -> None:
    hits = 0
    for seed in range(200):
        x, e = torch.randn(2, 30, generator=torch.Generator().manual_seed(seed))
        found = rank_correlation(x, 0.6 * x + 0.8 * e)
        hits += found.low <= 0.582 <= found.high  # Spearman's of a normal pair: 6 / pi asin(0.6 / 2)
    assert 0.9 <= hits / 200 <= 1.0


def test_agreement_is_not_certainty() -> None:
    found = rank_correlation(torch.arange(12.0), torch.arange(12.0))
    assert found.value == found.high == pytest.approx(1.0)
    assert found.low < 0.98


def test_rows_without_a_value_do_not_count_and_few_are_undefined() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, torch.nan])
    y = torch.tensor([1.0, 2.0, 3.0, 5.0, torch.inf, 0.0])
    assert rank_correlation(x, y).value == pytest.approx(1.0)
    assert rank_correlation(x, y).n == 5
    assert rank_correlation(x, y, [x]).said() == "undefined (5 rows, 6 needed)"
    with pytest.raises(InputError, match="expected"):
        rank_correlation(x, y[:3])
