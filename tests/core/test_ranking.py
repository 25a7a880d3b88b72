"""Streaming metrics: by hand, in batches, merged, weighted, on two ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import crossguard as cg
from crossguard.core.ranking import Ranking, rankable
from crossguard.evaluation import metrics
from tests.evaluation.test_metrics import multi


def figures(ranking: Ranking) -> list[float]:
    return [ranking.gap(), ranking.map(), ranking.hit(1), ranking.hit(3), ranking.perr()]


def test_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6], [0.5, 0.4, 0.3]])
    targets = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]])
    top = Ranking.of(scores, targets, k=2)
    # The lists: 0.9 right, 0.8 wrong, 0.7 right, 0.6 right, 0.5 wrong, 0.4 wrong; two of five labels never.
    assert top.gap() == pytest.approx((1 + 2 / 3 + 3 / 4) / 5)
    # By class: 0.9 right, 0.5 wrong | 0.8 wrong, 0.7 right, 0.4 wrong | 0.6 right, two of its three labels unlisted.
    assert top.average_precisions() == pytest.approx([1, 1 / 2, 1 / 3])
    assert top.map() == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert (top.hit(1), top.hit(2)) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert top.perr() == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_ties_are_one_step_of_the_curve() -> None:
    ranking = Ranking.of(np.array([[0.5], [0.5], [0.1]]), np.array([[1], [0], [1]]), k=1)
    assert ranking.gap() == ranking.map() == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 3, 7, 20])
def test_batches_and_merged_parts_give_the_same(ties: bool, k: int) -> None:
    scores, targets = multi(3, n=60, ties=ties)
    whole = Ranking.of(scores, targets, k)
    batched, other = Ranking(7, k), Ranking(7, k)
    for start in range(0, 40, 13):
        batched.add(
            torch.tensor(scores[start : min(start + 13, 40)]), torch.tensor(targets[start : min(start + 13, 40)])
        )
    assert len(batched) == 40
    batched.gap()  # what was ranked before more came does not stay
    other.add(scores[40:], targets[40:])
    batched.merge(other)
    assert len(batched) == 60
    assert [batched.gap(), batched.map(), batched.perr()] == pytest.approx([whole.gap(), whole.map(), whole.perr()])
    assert batched.gathered() is batched
    assert whole.gap() == pytest.approx(metrics.gap(scores, targets, k))
    if k >= 7:
        assert whole.map() == pytest.approx(average_precision_score(targets, scores, average="macro"))
        assert whole.gap() == pytest.approx(average_precision_score(targets, scores, average="micro"))


def test_weights_draw_samples_again() -> None:
    scores, targets = multi(4, n=50, ties=True)
    rows = np.random.default_rng(0).integers(0, 50, 50)
    times = np.bincount(rows, minlength=50)
    for k in (2, 7):
        ranking, drawn = Ranking.of(scores, targets, k), Ranking.of(scores[rows], targets[rows], k)
        assert ranking.gap(times) == pytest.approx(drawn.gap())
        assert ranking.map(times) == pytest.approx(drawn.map())
        assert ranking.perr(times) == pytest.approx(drawn.perr())
        assert ranking.hit(2, times) == pytest.approx(drawn.hit(2))


def test_perr_with_more_labels_than_are_kept() -> None:
    scores, targets = np.array([[4.0, 3, 2, 1]]), np.array([[1, 1, 0, 1]])
    assert metrics.perr(scores, targets) == pytest.approx(2 / 3)
    assert cg.metrics.perr(scores, np.zeros((1, 4))) != cg.metrics.perr(scores, targets)
    assert np.isnan(metrics.perr(scores, np.zeros((1, 4))))


def test_single_labels_and_nothing_at_all() -> None:
    scores, targets = np.eye(4)[[0, 1, 2]], np.array([0, 1, 3])
    ranking = Ranking.of(scores, targets, k=2)
    assert ranking.hit() == ranking.perr() == pytest.approx(2 / 3)
    empty = Ranking(4)
    assert all(np.isnan(x) for x in (empty.gap(), empty.map(), empty.hit(), empty.perr()))
    assert len(empty) == 0


def test_bfloat16_is_ranked_too() -> None:
    scores, targets = torch.tensor([[2.0, 1.0, 0.5], [0.25, -1.0, 3.0]]), torch.eye(3)[[0, 1]]
    half = Ranking.of(scores.bfloat16(), targets.bfloat16())
    assert half.gap() == Ranking.of(scores, targets).gap()


def test_what_cannot_be_ranked_is_refused() -> None:
    ranking = Ranking(3, k=2)
    with pytest.raises(cg.InputError, match="4 classes, expected 3"):
        ranking.add(np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(cg.InputError, match="3 classes by their 2 best, the other 3 by 3"):
        ranking.merge(Ranking(3, k=3))
    ranking.add(np.zeros((2, 3)), np.eye(3)[:2])
    with pytest.raises(cg.InputError, match="hit@3 of the 2 best"):
        ranking.hit(3)
    with pytest.raises(cg.InputError, match=r"weights of shape \(3,\) for 2"):
        ranking.gap(np.ones(3))


def test_memory_does_not_grow_with_the_classes() -> None:
    ranking = Ranking.of(np.random.default_rng(0).normal(size=(10, 3862)), np.arange(10))
    assert sum(x.nbytes for parts in ranking._parts.values() for x in parts) < 10 * 20 * 20


SCRIPT = """
import json, sys
import torch
from torch import distributed
from crossguard.core.ranking import Ranking
from tests.evaluation.test_metrics import multi
from tests.core.test_ranking import figures
distributed.init_process_group("gloo")
scores, targets = multi(3, n=41)
mine = Ranking(7, k=4)
rank = distributed.get_rank()
for i in range(rank, 41, 2):
    mine.add(scores[i : i + 1], targets[i : i + 1])
print(json.dumps(figures(mine.gathered())))
"""


@pytest.mark.slow  # starts two processes
def test_two_ranks_give_the_same() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = str(Path(__file__).parents[2])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env={**common, "RANK": str(r)}, cwd=root, stdout=subprocess.PIPE
        )
        for r in range(2)
    ]
    said = [json.loads(process.communicate(timeout=200)[0]) for process in started]
    scores, targets = multi(3, n=41)
    assert said[0] == pytest.approx(figures(Ranking.of(scores, targets, k=4)))
    assert said[0] == said[1]


def test_who_answers_nan_is_ranked_worst() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [torch.nan, 9.0, 0.0]])
    targets = torch.tensor([[1, 0, 0], [0, 1, 0]])
    scores = rankable(logits, targets)
    assert torch.equal(scores[0], logits[0])
    ranking = Ranking.of(scores, targets)
    assert (ranking.hit(), ranking.hit(2), ranking.hit(3)) == (0.5, 0.5, 1.0)
    assert ranking.gap() < Ranking.of(logits.nan_to_num(), targets).gap()
    with pytest.raises(cg.InputError, match="NaN"):
        Ranking.of(logits, targets)
