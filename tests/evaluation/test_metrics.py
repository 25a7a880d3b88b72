from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, top_k_accuracy_score

import crossguard as cg
from crossguard.evaluation import metrics


def multi(seed: int, n: int = 40, c: int = 7, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, c))
    targets = (scores + rng.normal(size=(n, c)) > 0.7).astype(int)
    targets[0] = 1
    return (scores.round(0) if ties else scores), targets


def test_gap_by_hand() -> None:
    # k = 2 lists 0.9 right, 0.8 wrong, 0.7 right, 0.6 right; one of the four labels is never listed.
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]])
    targets = np.array([[1, 0, 1], [0, 1, 1]])
    assert metrics.gap(scores, targets, k=2) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 4)
    assert metrics.gap(scores, targets, k=1) == pytest.approx((1 / 1 + 2 / 2) / 4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([7, 20]))
def test_gap_of_all_classes_is_micro_average_precision(seed: int, ties: bool, k: int) -> None:
    scores, targets = multi(seed, ties=ties)
    expected = average_precision_score(targets, scores, average="micro")
    assert metrics.gap(scores, targets, k=k) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_mean_average_precision_equals_scikit_learn(seed: int, ties: bool) -> None:
    scores, targets = multi(seed, ties=ties)
    expected = average_precision_score(targets, scores, average="macro")
    assert metrics.mean_average_precision(torch.tensor(scores), torch.tensor(targets)) == pytest.approx(expected)


def test_classes_that_no_sample_has_do_not_count() -> None:
    scores, targets = multi(0)
    targets[:, 2] = 0
    assert np.isnan(metrics.average_precisions(scores, targets)[2])
    rest = [c for c in range(7) if c != 2]
    expected = average_precision_score(targets[:, rest], scores[:, rest], average="macro")
    assert metrics.mean_average_precision(scores, targets) == pytest.approx(expected)
    assert np.isnan(metrics.gap(scores, np.zeros_like(targets)))


@pytest.mark.parametrize("k", [1, 3])
def test_hit_equals_top_k_accuracy(k: int) -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(60, 5)), rng.integers(0, 5, 60)
    expected = top_k_accuracy_score(targets, scores, k=k, labels=range(5))
    assert metrics.hit(scores, targets, k=k) == pytest.approx(expected)
    assert metrics.accuracy(scores, targets) == pytest.approx((scores.argmax(1) == targets).mean())


def test_gap_does_not_depend_on_the_order_of_samples() -> None:
    scores, targets = multi(5, ties=True)
    order = np.random.default_rng(0).permutation(40)
    assert metrics.gap(scores, targets, k=3) == metrics.gap(scores[order], targets[order], k=3)


@pytest.mark.parametrize(
    ("scores", "targets", "words"),
    [
        (np.zeros((3, 2)), np.zeros((4,), dtype=int), r"\(3, 2\)"),
        (np.full((3, 2), np.nan), np.zeros(3, dtype=int), "NaN"),
        (np.zeros((3, 2)), np.full(3, 2), r"expected \[0, 1\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores: np.ndarray, targets: np.ndarray, words: str) -> None:
    with pytest.raises(cg.InputError, match=words):
        metrics.gap(scores, targets)
