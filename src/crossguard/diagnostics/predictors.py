"""What predicts, class by class, how robust a model is, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.attacks import fgsm, fmn
from crossguard.attacks.viewed import viewed
from crossguard.core import Batch, InputError, Task, borrowed, forward, settle_task
from crossguard.core.batch import flat
from crossguard.core.estimate import Estimate
from crossguard.core.model import attack_view
from crossguard.diagnostics.classes import members
from crossguard.diagnostics.convexity import convexity
from crossguard.diagnostics.correlation import rank_correlation
from crossguard.diagnostics.density import density
from crossguard.diagnostics.latents import Gathering, rest
from crossguard.diagnostics.measured import Measured, Price
from crossguard.threat import ThreatModel


@dataclass(frozen=True)
class Row:
    """One measure: its value by class (C,), its rank correlation with robustness over classes, alone and partial given
    clean accuracy and the number of samples of the class, and its price."""

    name: str
    by_class: list[float]
    correlation: Estimate
    partial: Estimate
    price: Price
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON; NaN is None."""
        return {**asdict(self), "by_class": [None if v != v else v for v in self.by_class]}


def predictors(
    model: nn.Module,
    loader: Iterable[Batch],
    threat: ThreatModel,
    *,
    task: Task | None = None,
    steps: int = 100,
    at: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[Row]:
    """Rank correlations with the median FMN size of a class (in budgets, all modalities together, `steps` steps; a
    sample that is wrong already has 0).

    The measures: "density" of the fused latents (`at` as in `latents`), "convexity" of what branches hand over (a model
    with branches alone), "margin" (the mean clean one), "gradient" (the loss's slope: what a step of one budget gains
    to first order, its sign turned, so that more of every measure should mean more robust), "fgsm" (accuracy). The last
    row, "fmn", is robustness itself, for its price. Gradients and attacks go through the `attack_view()` that a model
    offers, and what counts is what the model itself says. The model comes back as it was. What predicts well over the
    classes of one model need not rank models: take `rank_correlation` over several. A batch is moved to the model's
    device and not kept: of at most about 2,000 samples a class there stay the latents and what branches hand over, of
    all a number a measure. Raises InputError for a loader without samples.
    """
    seen, labels = Measured(), list[Tensor]()
    asked = {n: n == "convexity" for n in ("density", "convexity")}
    gathered = {n: Gathering(model, most=2000, features=f, at=at, seed=seed) for n, f in asked.items()}
    parameter = next(model.parameters(), None)
    for number, batch in enumerate(loader):
        batch = batch if parameter is None else batch.to(parameter.device)
        chosen = task or _task(model, batch)
        _measure(model, batch, threat, chosen, steps, seed, seen)
        _gather(model, batch, gathered, seen)
        labels.append(members(batch.targets, len(batch), chosen.classes).cpu())
        if progress is not None:
            progress(number + 1)
    if not labels:
        raise InputError("the loader yields no samples; check the data set and its split")
    belongs = torch.cat(labels)
    by_class = {n: _by_class(torch.cat(v), belongs, median=n == "fmn") for n, v in seen.values.items()}
    at_once = partial(_convexity, batch_size=max(map(len, labels)))
    for name, measure in (("density", _density), ("convexity", at_once)):
        found = seen.tried(name, partial(measure, model, gathered[name], belongs.shape[1], seed))
        if found is not None:
            by_class[name] = torch.tensor([e.value for e in found], dtype=torch.float64)
    controls = [by_class["right"], belongs.sum(dim=0).double()]
    order = [n for n in ("density", "convexity", "margin", "gradient", "fgsm", "fmn") if n in by_class]
    rows = [_row(n, by_class[n], by_class["fmn"], controls, seen.prices[n]) for n in order]
    none = Estimate.undefined(0, "not measured")
    return [*rows, *(Row(n, [], none, none, Price(), note) for n, note in seen.notes.items())]


def _row(name: str, values: Tensor, robustness: Tensor, controls: Sequence[Tensor], price: Price) -> Row:
    alone = rank_correlation(values, robustness)
    return Row(name, values.tolist(), alone, rank_correlation(values, robustness, controls), price)


def _task(net: nn.Module, batch: Batch) -> Task:
    with borrowed(net) as lent, torch.no_grad():
        return settle_task(None, batch.targets, forward(lent, batch.inputs, batch.mask).logits)


def _measure(
    net: nn.Module, batch: Batch, threat: ThreatModel, task: Task, steps: int, seed: int, seen: Measured
) -> None:
    n = len(batch)

    def margin() -> tuple[Tensor, int, int]:
        with borrowed(net) as lent, torch.no_grad():
            return task.margin(forward(lent, batch.inputs, batch.mask).logits, batch.targets), n, 0

    def gradient() -> tuple[Tensor, int, int]:
        return -_slope(net, batch, threat, task), n, n

    def after_fgsm() -> tuple[Tensor, int, int]:
        result = viewed(fgsm, net, batch, threat, task=task, stop="never", seed=seed)
        return (result.margin > 0).double(), result.forwards, result.backwards

    def size() -> tuple[Tensor, int, int]:
        result = viewed(fmn, net, batch, threat, task=task, steps=steps, seed=seed)
        return result.size, result.forwards, result.backwards

    clean = seen.add("margin", margin)
    seen.values.setdefault("right", []).append((clean > 0).double().cpu())
    for name, measure in (("gradient", gradient), ("fgsm", after_fgsm), ("fmn", size)):
        seen.add(name, measure)


def _slope(net: nn.Module, batch: Batch, threat: ThreatModel, task: Task) -> Tensor:
    """(N,) the sum over modalities of <gradient, steepest move of the whole budget>: the dual norm x the radius."""
    with borrowed(net) as lent:
        attacked = {n: batch.inputs[n].detach().clone().requires_grad_() for n in threat.names}
        logits = forward(attack_view(lent), {**batch.inputs, **attacked}, batch.mask).logits
        task.check_logits(logits, len(batch))
        loss = task.loss(logits, batch.targets).sum()
        gradients = torch.autograd.grad(loss, list(attacked.values()), materialize_grads=True)
    balls = threat.balls(batch.inputs, batch.mask)
    total = torch.zeros(len(batch), dtype=logits.dtype, device=logits.device)
    for name, g in zip(attacked, gradients, strict=True):
        total = total + flat(g * balls[name].steepest(g)).sum(dim=1)
    return total


def _by_class(values: Tensor, belongs: Tensor, *, median: bool) -> Tensor:
    """(C,) the mean (median) over the samples of each class, NaN where there is none."""
    answer = torch.full((belongs.shape[1],), torch.nan, dtype=torch.float64)
    for c in range(belongs.shape[1]):
        own = values[belongs[:, c]]
        if len(own):
            answer[c] = own.median() if median else own.mean()
    return answer


def _gather(net: nn.Module, batch: Batch, gathered: Mapping[str, Gathering], seen: Measured) -> None:
    def see(gathering: Gathering) -> tuple[None, int, int]:
        with borrowed(net):
            gathering.see(batch)
        return None, len(batch), 0

    for name, gathering in gathered.items():
        seen.tried(name, partial(see, gathering))


def _density(net: nn.Module, gathering: Gathering, classes: int, seed: int) -> tuple[list[Estimate], int, int]:
    found = gathering.done()
    value = found.values.get("fused", next(iter(found.values.values())))
    return density(value, found.targets, groups=found.groups, classes=classes, seed=seed), 0, 0


def _convexity(
    net: nn.Module, gathering: Gathering, classes: int, seed: int, batch_size: int
) -> tuple[list[Estimate], int, int]:
    found = gathering.done()
    device = next(net.parameters(), torch.zeros(())).device
    with borrowed(net) as lent:
        features = {n: v.to(device) for n, v in found.features.items()}
        options: dict[str, Any] = {"groups": found.groups, "classes": classes, "batch_size": batch_size, "seed": seed}
        answer = convexity(rest(lent), features, found.targets, **options)
    return answer, 2000 * sum(e.defined for e in answer), 0
