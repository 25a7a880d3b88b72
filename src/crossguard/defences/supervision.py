"""The loss on what a model returns: the fused logits, deep supervision of each branch, and further terms."""

# Annotations are not postponed here: a subclass's signature, by which recipes are checked, holds those of `Supervised`,
# and would look their names up in its own module.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TypeAlias

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch, Need, Output, present
from crossguard.core.errors import RecipeError
from crossguard.core.model import forward
from crossguard.core.task import Task
from crossguard.data.base import Dataset
from crossguard.defences.memory import fill_memory
from crossguard.defences.modality_dropout import drop_modalities
from crossguard.defences.objective import Context, Losses, Objective
from crossguard.defences.term import Given, full
from crossguard.defences.terms import TERMS

AuxiliaryWeight: TypeAlias = float | dict[str, float]


def check_weight(weight: AuxiliaryWeight) -> None:
    """Raise RecipeError for a negative or non-finite weight."""
    for name, w in (weight if isinstance(weight, dict) else {"every modality": weight}).items():
        if not 0 <= w < float("inf"):
            raise RecipeError(f"auxiliary_weight of {name} is {w}, expected a finite number >= 0 (0 turns it off)")


def check_heads(weight: AuxiliaryWeight, model: nn.Module) -> None:
    """Raise RecipeError where a weight is of a modality that the model, which says its modalities, does not read."""
    read: tuple[str, ...] = getattr(model, "modalities", ())
    unknown = sorted(set(weight) - set(read)) if isinstance(weight, dict) and read else []
    if unknown:
        raise RecipeError(f"auxiliary_weight names {unknown[0]!r}, the model reads {sorted(read)}")


def weight_of(weight: AuxiliaryWeight, name: str) -> float:
    """lambda of one modality; one that a mapping does not name has 0."""
    return weight.get(name, 0.0) if isinstance(weight, dict) else weight


def wanted(weight: AuxiliaryWeight) -> bool:
    """Whether any auxiliary head is to be trained."""
    return any(weight.values()) if isinstance(weight, dict) else weight > 0


def supervised_losses(
    output: Output, targets: Tensor, mask: Mapping[str, Tensor], task: Task, weight: AuxiliaryWeight
) -> Losses:
    """L = loss(fused) + sum_m lambda_m loss(auxiliary head of m), means over samples, in float32 at least.

    A sample in which m is absent does not count towards m's mean. Without auxiliary logits only the first term is
    left. Weighted deep supervision for AMR (our choice; the paper names no formula).
    """
    logits = full(output.logits)
    task.check_logits(logits, targets.shape[0])
    total = task.loss(logits, targets).mean()
    parts = {"fused": total.detach()}
    for name, guess in (output.auxiliary or {}).items():
        if not weight_of(weight, name):
            continue
        loss = task.loss(full(guess), targets)
        here = present(mask, name, targets.shape[0])
        here = torch.ones_like(loss) if here is None else here.to(loss.dtype)
        part = (loss * here).sum() / here.sum().clamp_min(1)
        parts[f"auxiliary/{name}"] = part.detach()
        total = total + weight_of(weight, name) * part
    return Losses(total, parts, logits.detach())


@dataclass(frozen=True, kw_only=True)
class Supervised(Objective):
    """What all supervised objectives share: the loss of the fused logits, plus `auxiliary_weight` (one number, or by
    modality) x those of the auxiliary heads, plus `terms` (a weight by name, see `TERMS`).

    `modality_dropout` is the share of `drop_modalities`, done to a batch before anything else. An external memory is
    filled at the start of epochs (`fill_memory`).
    """

    auxiliary_weight: AuxiliaryWeight = 1.0
    terms: dict[str, float] | None = None
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_weight(self.auxiliary_weight)
        for name, weight in (self.terms or {}).items():
            if name not in TERMS:
                near = get_close_matches(name, TERMS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TERMS)}"
                raise RecipeError(f"terms: unknown name {name!r}; {hint}")
            if not 0 <= weight < float("inf"):
                raise RecipeError(f"terms: the weight of {name} is {weight}, expected a finite number >= 0")
        if not 0 <= self.modality_dropout < 1:
            raise RecipeError(f"modality_dropout is {self.modality_dropout}, expected a share in [0, 1)")

    def check(self, model: nn.Module, context: Context) -> None:
        """See `check_heads`."""
        check_heads(self.auxiliary_weight, model)

    def epoch_start(self, model: nn.Module, dataset: Dataset, context: Context) -> None:
        """See `fill_memory`."""
        fill_memory(model, dataset, context)

    def dropped(self, model: nn.Module, batch: Batch, context: Context) -> Batch:
        """The batch after modality dropout; ranks draw alike, as its keys are the samples' own."""
        if not self.modality_dropout:
            return batch
        return drop_modalities(model, batch, self.modality_dropout, context.draw(4))

    def supervise(self, model: nn.Module, batch: Batch, context: Context, attacked: tuple[str, ...] = ()) -> Losses:
        """`answer`, then `judge`."""
        return self.judge(self.answer(model, batch, context), batch, context, attacked)

    def answer(self, model: nn.Module, batch: Batch, context: Context, further: Sequence[Need] = ()) -> Output:
        """One forward pass whose graph the loop will run backwards, both counted; it has what `judge` needs, and
        `further`."""
        need: set[Need] = {TERMS[name].need for name in self.wanted_terms}
        need.update(further)
        if wanted(self.auxiliary_weight):
            need.add("auxiliary")
        if "odd_one_out" in need:
            need.add("weights")
        with context.precision(weights=True):
            output = forward(model, batch.inputs, batch.mask, tuple(sorted(need)))
        context.work.forwards += len(batch)
        context.work.backwards += len(batch)
        return output

    def judge(self, output: Output, batch: Batch, context: Context, attacked: tuple[str, ...] = ()) -> Losses:
        """The losses of what the model said of `batch`; `attacked` says which modalities were attacked in it."""
        losses = supervised_losses(output, batch.targets, batch.mask, context.task, self.auxiliary_weight)
        given = Given(batch, context.task, attacked)
        total, parts = losses.total, dict(losses.parts)
        for name, weight in self.wanted_terms.items():
            value = TERMS[name].value(output, given)
            total, parts[name] = total + weight * value, value.detach()
        return replace(losses, total=total, parts=parts)

    @property
    def wanted_terms(self) -> dict[str, float]:
        """The terms whose weight is not 0."""
        return {name: weight for name, weight in (self.terms or {}).items() if weight}
