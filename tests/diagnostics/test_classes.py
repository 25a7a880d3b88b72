"""What is drawn again and again: groups, then samples within them."""

from __future__ import annotations

import pytest
import torch

from crossguard.diagnostics.classes import times_drawn

VALUES = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def error(codes: torch.Tensor, values: torch.Tensor) -> float:
    """The standard error of the mean by the draws."""
    times = times_drawn(codes, 0, 4000)
    return float(((times @ values) / times.sum(dim=1)).std())


def test_a_group_of_one_is_drawn_whole() -> None:
    alone = torch.arange(200)
    paired = torch.cat([torch.arange(199), torch.tensor([198])])
    expected = float(VALUES.std()) / 200**0.5
    for codes in (alone, paired):
        assert error(codes, VALUES) == pytest.approx(expected, rel=0.05)


def test_samples_that_say_the_same_count_as_their_group() -> None:
    twins = torch.arange(400) // 2
    assert error(twins, VALUES.repeat_interleave(2)) == pytest.approx(float(VALUES.std()) / 200**0.5, rel=0.05)


def test_a_drawn_group_gives_as_many_samples_as_it_has() -> None:
    codes = torch.tensor([5, 2, 5, 2, 5, 7])
    times = times_drawn(codes, 3)
    drawn = torch.zeros(len(times), 8, dtype=torch.float64).index_add_(1, codes, times)
    whole = drawn / torch.tensor([1, 1, 2, 1, 1, 3, 1, 1])
    assert torch.equal(whole, whole.round())
    assert bool((whole.sum(dim=1) == 3).all())
    assert len(times.unique(dim=0)) > 100
