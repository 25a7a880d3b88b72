"""What is said of attention maps, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossguard.core import ModelError
from crossguard.models.maps import displacement, drift, entropy, mean_over_samples, received, smoothness


def one(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


A, B = one([0.25, 0.75], [1.0, 0.0]), one([0.5, 0.5], [0.5, 0.5])


def test_distances_by_hand() -> None:
    # KL: 1/4 log 1/2 + 3/4 log 3/2, and 1 log 2 with 0 log 0 = 0.
    kl = (0.25 * math.log(0.5) + 0.75 * math.log(1.5) + math.log(2)) / 2
    assert drift(A, B).item() == pytest.approx(kl)
    assert drift(A, B, "frobenius").item() == pytest.approx((2 * 0.0625 + 2 * 0.25) / 2)
    far = drift(one([1.0, 0.0]), one([0.0, 1.0]), "js")
    assert far.item() == pytest.approx(math.log(2))
    assert drift(B, A, "js").item() == pytest.approx(drift(A, B, "js").item())
    assert smoothness(A).item() == pytest.approx(2 * 0.75**2)
    assert entropy(B).item() == pytest.approx(1.0)
    assert entropy(one([1.0, 0.0], [0.5, 0.5])).item() == pytest.approx(0.5)
    assert received(A)[0].tolist() == pytest.approx([0.625, 0.375])


def test_queries_that_are_not_real_count_nowhere() -> None:
    def padded(a: Tensor) -> Tensor:
        return torch.nn.functional.pad(a, (0, 3, 0, 3))

    nobody = torch.zeros_like(padded(A))
    for value in (drift(padded(A), padded(B)), drift(A, B)):
        torch.testing.assert_close(value, drift(A, B))
    torch.testing.assert_close(smoothness(padded(A)), smoothness(A))
    torch.testing.assert_close(entropy(padded(B)), entropy(B))
    torch.testing.assert_close(received(padded(A))[:, :2], received(A))
    both, moved = torch.cat([padded(A), nobody]), torch.cat([padded(B), nobody])
    torch.testing.assert_close(mean_over_samples(drift(both, moved), both), drift(A, B).mean())
    assert not drift(nobody, nobody).any()


def test_displacement_is_a_share_of_what_heads_tell_apart() -> None:
    # One head, two samples of one query and one of none: around (1, 0) they lie at (+-2, 0), and one moves by (0, 3).
    clean = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)[:, None, None]
    attacked = clean + torch.tensor([[0.0, 3.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)[:, None, None]
    assert displacement(clean, attacked).tolist() == [pytest.approx(9 / 8)]
    # What all have in common tells nothing apart, and neither does a scale.
    shift = torch.tensor([7.0, -5.0], dtype=torch.float64)
    moved = displacement(clean[:2] * 10 + shift, attacked[:2] * 10 + shift)
    assert moved.tolist() == [pytest.approx(9 / 8)]
    assert displacement(clean[:1], attacked[:1]).tolist() == [0], "a single query varies not"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["kl", "js", "frobenius"]))
def test_distances_are_not_negative_and_0_only_of_the_same(seed: int, distance: str) -> None:
    torch.manual_seed(seed)
    a, b = (5 * torch.randn(2, 2, 3, 4, 6, dtype=torch.float64)).softmax(dim=-1)
    assert drift(a, a, distance).abs().max() < 1e-12  # type: ignore[arg-type]
    assert bool((drift(a, b, distance) > 0).all())  # type: ignore[arg-type]
    if distance == "js":
        assert drift(a, b, "js").max() <= math.log(2)


@pytest.mark.parametrize("distance", ["kl", "js", "frobenius"])
def test_gradients_are_right_and_finite_at_0(distance: str) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda s: drift(*s.softmax(dim=-1), distance),  # type: ignore[misc, arg-type]
        scores,
    )
    a = A.clone().requires_grad_()
    drift(a, one([0.0, 1.0], [0.0, 1.0]), distance).sum().backward()  # type: ignore[arg-type]
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="the same"):
        drift(A, A[:, :, :1])
