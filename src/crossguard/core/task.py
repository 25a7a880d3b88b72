"""What is to be predicted: the training loss, the margin that attacks lower, and what counts as fooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from crossguard.core.errors import InputError, ModelError


def _check_logits(logits: Tensor, samples: int, classes: int) -> None:
    if logits.dim() != 2 or logits.shape[0] != samples or logits.shape[1] != classes:
        raise ModelError(
            f"model returned logits of shape {tuple(logits.shape)}, expected ({samples}, {classes}): one row a sample, "
            f"one column a class"
        )


def _settled(margin: Tensor) -> Tensor:
    """Margins in which NaN is the lowest there is: who answers NaN is not right, nor is any target reached so."""
    return margin.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


@dataclass(frozen=True, slots=True)
class SingleLabel:
    """One class a sample; targets (N,) int64."""

    classes: int

    def check(self, targets: Tensor) -> None:
        """Raise InputError unless targets are (N,) int64 in [0, classes)."""
        if targets.dim() != 1 or targets.dtype != torch.int64:
            raise InputError(
                f"single-label targets: found {targets.dtype} of shape {tuple(targets.shape)}, expected (N,) int64"
            )
        if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= self.classes):
            raise InputError(
                f"single-label targets span [{int(targets.min())}, {int(targets.max())}], "
                f"expected [0, {self.classes - 1}]"
            )

    def check_logits(self, logits: Tensor, samples: int) -> None:
        """Raise ModelError unless logits are (samples, classes)."""
        _check_logits(logits, samples, self.classes)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, (N,)."""
        return F.cross_entropy(logits, targets, reduction="none")

    def slope(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, C) the gradient of each sample's `loss`, in closed form."""
        index = targets.unsqueeze(1)
        return logits.softmax(dim=1).scatter_add_(1, index, logits.new_full(index.shape, -1.0))

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) true logit minus the best other one; a sample is right where it is > 0 (a tie is not right, nor NaN)."""
        index = targets.unsqueeze(1)
        own = logits.gather(1, index).squeeze(1)
        if logits.shape[1] == 1:
            return _settled(own)
        return _settled(own - logits.scatter(1, index, -torch.inf).amax(dim=1))

    def all_right(self, logits: Tensor, targets: Tensor) -> bool:
        """Whether the true class wins everywhere, ties or is NaN: quicker than margins, which are told apart later."""
        return logits.shape[1] > 1 and torch.equal(logits.argmax(dim=1), targets)

    def own(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) the true logit."""
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1)

    def rivals(self, logits: Tensor, targets: Tensor, count: int) -> Tensor:
        """(N, count) the wrong classes, the most likely first; fewer columns where there are fewer classes."""
        return logits.scatter(1, targets.unsqueeze(1), -torch.inf).topk(min(count, self.classes - 1), dim=1).indices

    def predict(self, logits: Tensor) -> Tensor:
        """(N,) the winning class."""
        return logits.argmax(dim=1)

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Whether the "logits" are a distribution over classes in every row."""
        inside = (logits >= 0).all() & (logits <= 1).all()
        return logits.shape[1] > 1 and bool(inside & ((logits.sum(dim=1) - 1).abs() < 1e-3).all())


@dataclass(frozen=True, slots=True)
class MultiLabel:
    """Any number of classes a sample; targets (N, C), 1 where the class is present."""

    classes: int

    def check(self, targets: Tensor) -> None:
        """Raise InputError unless targets are (N, classes) of zeros and ones, dense or sparse."""
        if targets.dim() != 2 or targets.shape[1] != self.classes:
            raise InputError(f"multi-label targets: found shape {tuple(targets.shape)}, expected (N, {self.classes})")
        targets = targets.coalesce().values() if targets.is_sparse else targets
        if targets.numel() and not bool(((targets == 0) | (targets == 1)).all()):
            raise InputError("multi-label targets must be 0 or 1")

    def check_logits(self, logits: Tensor, samples: int) -> None:
        """Raise ModelError unless logits are (samples, classes)."""
        _check_logits(logits, samples, self.classes)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over classes, (N,)."""
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(dim=1)

    def slope(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, C) the gradient of each sample's `loss`, in closed form."""
        return (logits.sigmoid() - targets.to(logits.dtype)).div_(logits.shape[1])

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) best present logit minus best absent one: > 0 where the top-scored class is present (Hit@1).

        Without a present (absent) class the other side is compared with 0, the logit of probability 1/2, so that an
        attack has something to climb; no answer is a hit (every one is) there, see `hits`. NaN is none.
        """
        return _settled(self.own(logits, targets) - self.own(logits, 1 - targets.to(logits.dtype)))

    def all_right(self, logits: Tensor, targets: Tensor) -> bool:
        """Whether every margin is > 0."""
        return bool((self.margin(logits, targets) > 0).all())

    def own(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) the best present logit, 0 where no class is present."""
        best = logits.masked_fill(~targets.bool(), -torch.inf).amax(dim=1)
        return torch.where(best.isneginf(), torch.zeros_like(best), best)

    def rivals(self, logits: Tensor, targets: Tensor, count: int) -> Tensor:
        """(N, count) the absent classes, the most likely first, then present ones where absent ones run out."""
        return logits.masked_fill(targets.bool(), -torch.inf).topk(min(count, self.classes), dim=1).indices

    def predict(self, logits: Tensor) -> Tensor:
        """(N,) the top-scored class."""
        return logits.argmax(dim=1)

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Whether every "logit" lies in [0, 1], which real logits of absent classes do not; a few may by chance."""
        return logits.numel() >= 16 and bool(((logits >= 0) & (logits <= 1)).all())


@dataclass(frozen=True)
class Leading:
    """A task whose answer is the first columns of wider logits; the others are for the loss or the attack alone."""

    task: SingleLabel | MultiLabel | Leading

    @property
    def classes(self) -> int:
        """Of the answer."""
        return self.task.classes

    def check(self, targets: Tensor) -> None:
        """See `SingleLabel.check`."""
        self.task.check(targets)

    def check_logits(self, logits: Tensor, samples: int) -> None:
        """Raise ModelError unless the answer fits the task."""
        self.task.check_logits(self.answer(logits), samples)

    def answer(self, logits: Tensor) -> Tensor:
        """(N, classes) the columns that answer."""
        return logits[:, : self.classes]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) that of the answer."""
        return self.task.loss(self.answer(logits), targets)

    def slope(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, all columns) the gradient of each sample's `loss`."""
        return F.pad(self.task.slope(self.answer(logits), targets), (0, logits.shape[1] - self.classes))

    def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) that of the answer."""
        return self.task.margin(self.answer(logits), targets)

    def all_right(self, logits: Tensor, targets: Tensor) -> bool:
        """Whether the answer is right everywhere, see `SingleLabel.all_right`."""
        return self.task.all_right(self.answer(logits), targets)

    def own(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) see `SingleLabel.own`."""
        return self.task.own(self.answer(logits), targets)

    def rivals(self, logits: Tensor, targets: Tensor, count: int) -> Tensor:
        """(N, count) see `SingleLabel.rivals`."""
        return self.task.rivals(self.answer(logits), targets, count)

    def predict(self, logits: Tensor) -> Tensor:
        """(N,) the winning class."""
        return self.task.predict(self.answer(logits))

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Whether the answer does."""
        return self.task.looks_like_probabilities(self.answer(logits))


Task: TypeAlias = SingleLabel | MultiLabel | Leading


def hits(margin: Tensor, targets: Tensor) -> Tensor:
    """(N,) bool: what is right, of (N,) margins."""
    return decided(margin > 0, targets, False, True)


def decided(found: Tensor, targets: Tensor, never: float, always: float) -> Tensor:
    """(N,) `found`, but `never` of samples without any of several labels, which no answer hits, and `always` of those
    with all, which each does: there margins say what an attack climbs."""
    if targets.dim() == 1:
        return found
    truth = targets > 0
    return found.masked_fill(~truth.any(dim=1), never).masked_fill(truth.all(dim=1), always)


def settle_task(task: Task | None, targets: Tensor, logits: Tensor) -> Task:
    """The task, from the targets' shape if it is not given, that fits a model's first logits.

    Raises ModelError for logits, InputError for targets that do not fit.
    """
    if logits.dim() != 2:
        raise ModelError(f"model returned logits of shape {tuple(logits.shape)}, expected (N, classes)")
    if task is None:
        task = infer_task(targets, logits)
    task.check(targets)
    task.check_logits(logits, targets.shape[0])
    return task


def infer_task(targets: Tensor, logits: Tensor) -> Task:
    """The task that the shape of the targets implies: (N,) single-label, (N, C) multi-label."""
    return SingleLabel(logits.shape[-1]) if targets.dim() == 1 else MultiLabel(logits.shape[-1])
