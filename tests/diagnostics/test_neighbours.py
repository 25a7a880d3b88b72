"""Nearest neighbours against all distances, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossguard import InputError
from crossguard.diagnostics import neighbours
from crossguard.diagnostics.neighbours import nearest, nearest_in


def points(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 5), st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5)
)
def test_equals_all_distances_for_any_blocks(n: int, d: int, k: int, rows: int, columns: int, groups: int) -> None:
    x = points(n, d, n)
    codes = torch.arange(n) % groups if groups else torch.arange(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_ROWS", rows)
        patch.setattr(neighbours, "_COLUMNS", columns)
        found = nearest(x, k, groups=codes if groups else None)
        across = nearest_in(x[: n // 2], x, k)
    whole = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    apart = whole.masked_fill(codes[:, None] == codes[None], torch.inf)
    for got, all_of in ((found, apart), (across, whole[:, : n // 2])):
        wanted = torch.cat([all_of, torch.full((n, k), torch.inf, dtype=x.dtype)], dim=1).sort(dim=1).values[:, :k]
        torch.testing.assert_close(got.distance, wanted)
        there = wanted < torch.inf
        assert bool(((got.index >= 0) == there).all())
        if bool(there.any()):
            torch.testing.assert_close(all_of.gather(1, got.index.clamp_min(0))[there], wanted[there])


def test_close_points_keep_their_digits() -> None:
    # By products alone, 1e-5 on the unit sphere is lost in float32.
    x = torch.tensor([[1.0, 0.0], [1.0, 1e-5], [0.0, 1.0]])
    assert nearest(x, 1).distance[0, 0].item() == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize(("x", "k"), [(torch.zeros(3), 1), (torch.zeros(3, 2), 0), (torch.zeros(3, 2).long(), 1)])
def test_refuses_what_is_no_table(x: torch.Tensor, k: int) -> None:
    with pytest.raises(InputError, match="expected"):
        nearest(x, k)
