"""What checks tolerate, and what that leaves unseen."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from crossguard.evaluation.tolerance import tolerated, unseen


@pytest.mark.parametrize(("withstood", "fallen"), [(0, 0), (1, 0), (2, 0), (3, 1), (16, 1), (128, 2), (1000, 20)])
def test_one_or_two_per_cent_of_what_withstood_but_never_half(withstood: int, fallen: int) -> None:
    assert tolerated(withstood) == fallen


@pytest.mark.parametrize("withstood", [1, 2, 3, 16, 49, 50, 128, 1000, 200_000])
def test_a_larger_share_would_be_flagged_19_times_in_20(withstood: int) -> None:
    assert binom.cdf(tolerated(withstood), withstood, unseen(withstood)) == pytest.approx(0.05, rel=1e-6)


def test_of_nothing_looked_at_all_may_fall() -> None:
    assert unseen(0) == 1.0
