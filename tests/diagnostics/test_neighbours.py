"""Nearest neighbours against all distances, whatever the blocks."""

from __future__ import annotations

from typing import Any

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


def by_differences(x: torch.Tensor, k: int) -> torch.Tensor:
    whole = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return whole.sort(dim=1).values[:, :k]


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("centres", [1, 3])
def test_tight_clusters_are_told_apart(spread: float, centres: int) -> None:
    # By float32 products, points of a cluster on the unit sphere are as far from each other as rounding has it.
    centre = points(centres, 64, 0).repeat(300 // centres, 1)
    x = torch.nn.functional.normalize(centre / 8 + spread / 8 * points(300, 64, 1), dim=1).float()
    torch.testing.assert_close(nearest(x, 10).distance.double(), by_differences(x, 10), rtol=1e-5, atol=0)
    across = nearest_in(x[:200], x[200:], 10).distance.double()
    whole = torch.cdist(x[200:].double(), x[:200].double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(across, whole.sort(dim=1).values[:, :10], rtol=1e-5, atol=0)


@pytest.mark.parametrize("far", [1e2, 1e4])
def test_where_the_points_lie_does_not_matter(far: float) -> None:
    x = (far + points(300, 8, 2)).float()
    torch.testing.assert_close(nearest(x, 10).distance.double(), by_differences(x, 10), rtol=1e-5, atol=0)
    x[0] = -1e6  # one far away, so that the middle is nowhere near
    torch.testing.assert_close(nearest(x, 10).distance.double(), by_differences(x, 10), rtol=1e-5, atol=0)


def test_most_points_need_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    scanned = neighbours._scanned

    def watched(block: Any, numbers: torch.Tensor, *rest: Any) -> Any:
        looked.append(len(numbers))
        return scanned(block, numbers, *rest)

    monkeypatch.setattr(neighbours, "_scanned", watched)
    nearest(torch.nn.functional.normalize(points(1500, 256, 3), dim=1).float(), 10)
    nearest(points(1500, 4, 4).float(), 10)
    nearest(points(20, 4, 5).float().repeat(50, 1), 10)
    assert sum(looked) <= 3


def test_equal_distances_are_not_looked_at_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: Any, **options: Any) -> torch.Tensor:
        raise AssertionError("slow")

    monkeypatch.setattr(torch, "cdist", never)
    corners = torch.eye(300)
    assert nearest(corners, 10).distance.unique().item() == pytest.approx(2**0.5)


def test_what_even_float64_cannot_tell_is_told_by_differences() -> None:
    x = torch.cat([1 + 1e-9 * points(150, 8, 0), -1 + 1e-9 * points(150, 8, 1)])
    torch.testing.assert_close(nearest(x, 10).distance, by_differences(x, 10), rtol=1e-9, atol=0)


def test_products_are_whole_whatever_the_caller_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, str]] = []
    mm, cuda, cpu = torch.mm, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision(), cuda.fp32_precision, cpu.fp32_precision

    def watched(*tables: Any, **options: Any) -> torch.Tensor:
        used.append((cuda.fp32_precision, cpu.fp32_precision))
        return mm(*tables, **options)

    monkeypatch.setattr(torch, "mm", watched)
    try:
        torch.set_float32_matmul_precision("medium")
        allowed = cuda.fp32_precision, cpu.fp32_precision
        nearest(points(30, 4, 0).float(), 3)
        nearest_in(points(30, 4, 0).float(), points(5, 4, 1).float(), 3)
        assert set(used) == {("ieee", "ieee")}
        assert (torch.get_float32_matmul_precision(), cuda.fp32_precision, cpu.fp32_precision) == ("medium", *allowed)
        cuda.fp32_precision = "ieee"
        nearest(points(30, 4, 0).float(), 3)
        assert (cuda.fp32_precision, cpu.fp32_precision) == ("ieee", allowed[1])
    finally:
        torch.set_float32_matmul_precision(before[0])
        cuda.fp32_precision, cpu.fp32_precision = before[1:]


def test_of_a_bank_groups_and_all_but_the_first_are_left_out() -> None:
    bank, x = points(50, 3, 0), points(20, 3, 1)
    groups, first = (torch.arange(20) % 4, torch.arange(50) % 5), torch.arange(20) * 2
    found = nearest_in(bank, x, 4, groups=groups, first=first)
    hidden = (groups[0][:, None] == groups[1]) | (torch.arange(50) >= first[:, None])
    wanted = torch.cdist(x, bank).masked_fill(hidden, torch.inf).sort(dim=1).values[:, :4]
    torch.testing.assert_close(found.distance, wanted)
    assert bool(((found.index < first[:, None]) | (wanted == torch.inf)).all())


def test_half_precision_is_only_how_points_come() -> None:
    x = points(40, 3, 0).half()
    torch.testing.assert_close(nearest(x, 3).distance, nearest(x.float(), 3).distance)


@pytest.mark.parametrize(("x", "k"), [(torch.zeros(3), 1), (torch.zeros(3, 2), 0), (torch.zeros(3, 2).long(), 1)])
def test_refuses_what_is_no_table(x: torch.Tensor, k: int) -> None:
    with pytest.raises(InputError, match="expected"):
        nearest(x, k)
