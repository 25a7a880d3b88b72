"""Margins, losses and checks of both tasks, by hand."""

from __future__ import annotations

import pytest
import torch

import crossguard as cg
from crossguard.attacks.objective import OBJECTIVES, Goal
from crossguard.core.task import Leading


def test_single_label_margin_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 5.0], [1.0, 1.0, 0.0]])
    margin = cg.SingleLabel(3).margin(logits, torch.tensor([0, 1, 0]))
    assert margin.tolist() == [1.0, -2.0, 0.0]


def test_one_output_has_a_margin_too() -> None:
    assert cg.SingleLabel(1).margin(torch.tensor([[0.5]]), torch.tensor([0])).tolist() == [0.5]


def test_multi_label_margin_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [-1.0, -2.0, -3.0], [4.0, 5.0, 6.0]])
    targets = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
    assert cg.MultiLabel(3).margin(logits, targets).tolist() == [2.0, -2.0, 1.0, 6.0]


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (cg.SingleLabel(3), torch.tensor([0, 3])),
        (cg.SingleLabel(3), torch.tensor([-1, 0])),
        (cg.SingleLabel(3), torch.tensor([0.0, 1.0])),
        (cg.SingleLabel(3), torch.tensor([0, 1], dtype=torch.int32)),
        (cg.SingleLabel(3), torch.tensor([[0, 1]])),
        (cg.MultiLabel(3), torch.tensor([[0, 1]])),
        (cg.MultiLabel(3), torch.tensor([[0.0, 0.5, 1.0]])),
    ],
)
def test_targets_that_cannot_be_are_refused(task: cg.Task, targets: torch.Tensor) -> None:
    with pytest.raises(cg.InputError):
        task.check(targets)


def test_probabilities_are_recognised() -> None:
    logits = torch.randn(8, 4)
    assert cg.SingleLabel(4).looks_like_probabilities(logits.softmax(dim=1))
    assert not cg.SingleLabel(4).looks_like_probabilities(logits)
    assert cg.MultiLabel(4).looks_like_probabilities(logits.sigmoid())
    assert not cg.MultiLabel(4).looks_like_probabilities(logits)


def test_wrong_logits_are_named() -> None:
    with pytest.raises(cg.ModelError, match=r"\(2, 5\).*expected \(2, 4\)"):
        cg.SingleLabel(4).check_logits(torch.zeros(2, 5), 2)


def test_a_few_honest_logits_in_the_unit_interval_are_no_probabilities() -> None:
    task = cg.MultiLabel(2)
    assert not task.looks_like_probabilities(torch.tensor([[0.3, 0.6]]))
    assert task.looks_like_probabilities(torch.full((8, 2), 0.3))
    assert not task.looks_like_probabilities(torch.full((8, 2), -0.3))


@pytest.mark.parametrize("task", [cg.SingleLabel(1), cg.SingleLabel(5), cg.MultiLabel(1), cg.MultiLabel(5)])
def test_the_slope_is_the_gradient_of_the_loss(task: cg.Task) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(7, task.classes, generator=generator, dtype=torch.float64).requires_grad_()
    shape = (7,) if isinstance(task, cg.SingleLabel) else (7, task.classes)
    targets = torch.randint(0, task.classes if len(shape) == 1 else 2, shape, generator=generator)
    (wanted,) = torch.autograd.grad(task.loss(logits, targets).sum(), logits)
    assert torch.allclose(task.slope(logits.detach(), targets), wanted)


def test_all_right_only_where_every_margin_is_positive() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    assert cg.SingleLabel(2).all_right(logits, torch.tensor([0, 1]))
    assert not cg.SingleLabel(2).all_right(logits, torch.tensor([0, 0]))
    assert not cg.SingleLabel(1).all_right(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0]))
    assert cg.MultiLabel(2).all_right(logits, torch.tensor([[1, 0], [0, 1]]))
    assert not cg.MultiLabel(2).all_right(logits.neg(), torch.tensor([[1, 0], [0, 1]]))
    assert not cg.MultiLabel(2).all_right(torch.full((1, 2), torch.nan), torch.tensor([[1, 0]]))


@pytest.mark.parametrize("row", [[torch.nan, 0.0, 0.0], [9.0, torch.nan, 0.0], [torch.inf, torch.inf, 0.0]])
def test_who_answers_nan_is_wrong(row: list[float]) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], row])
    for task, targets in ((cg.SingleLabel(3), [0, 0]), (cg.MultiLabel(3), [[1, 0, 0], [1, 0, 0]])):
        assert task.margin(logits, torch.tensor(targets)).tolist() == [1.0, -torch.inf]
    assert cg.SingleLabel(1).margin(torch.tensor([[torch.nan]]), torch.tensor([0])).tolist() == [-torch.inf]


@pytest.mark.parametrize("task", [cg.SingleLabel(3), cg.MultiLabel(3)])
def test_further_columns_change_nothing_of_the_answer(task: cg.Task) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator)
    wide = torch.cat([logits, 9 + torch.randn(5, 2, generator=generator)], dim=1)
    several = isinstance(task, cg.MultiLabel)
    targets = torch.randint(2, (5, 3), generator=generator) if several else torch.tensor([0, 1, 2, 1, 0])
    led = Leading(task)
    for ask in ("loss", "margin", "own", "all_right"):
        found, expected = (getattr(t, ask)(z, targets) for t, z in ((led, wide), (task, logits)))
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
    assert torch.equal(led.rivals(wide, targets, 2), task.rivals(logits, targets, 2))
    assert torch.equal(led.predict(wide), task.predict(logits))
    assert torch.equal(led.slope(wide, targets)[:, :3], task.slope(logits, targets))
    assert not led.slope(wide, targets)[:, 3:].any()
    shares = torch.cat([torch.cat([logits.softmax(dim=1)] * 4), torch.cat([wide] * 4)], dim=1)
    assert led.looks_like_probabilities(shares)
    assert not led.looks_like_probabilities(wide)
    led.check(targets)
    led.check_logits(wide, 5)
    with pytest.raises(cg.ModelError, match="one column a class"):
        led.check_logits(wide[:, :2], 5)
    rival = task.rivals(logits, targets, 1)[:, 0]
    for name, objective in OBJECTIVES.items():
        values = [objective(z, Goal(targets, t, rival=rival)) for t, z in ((led, wide), (task, logits))]
        assert torch.equal(*values), name
