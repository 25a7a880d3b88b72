"""Where an attack was found to fail, its remedies have their turn on what withstood, over the whole set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from crossguard.attacks.stages import Worst
from crossguard.diagnostics.failures import treat
from crossguard.threat import ThreatModel

if TYPE_CHECKING:
    from crossguard.evaluation.attack import Case


def chosen(case: Case, condition: str) -> list[str]:
    """The remedies for a condition: those that gained something on the samples of the check, all where none did."""
    modality = None if condition == "joint" else condition.removeprefix("only:")
    tried: dict[str, int] = {}
    for failure in case.failures:
        if modality is None or failure.modality in (None, modality):
            for name, gain in failure.remedies.items():
                tried[name] = max(gain, tried.get(name, 0))
    return [name for name, gain in tried.items() if gain or not any(tried.values())]


def relieve(
    case: Case, condition: str, threat: ThreatModel, rows: Tensor, found: Worst, *, steps: int, final: bool
) -> None:
    """Give the remedies of a condition their turn on those of `rows` of the batch that withstand; adds to `found`.

    Random search, by far the dearest, only where figures are `final` or nothing else helps.
    """
    random = any(failure.name == "random_predictions" for failure in case.failures)
    names = chosen(case, condition)
    for name in names if final else [n for n in names if n != "random_search"] or names:
        for subset in threat.subsets():
            used = [m for m in subset.names if m not in case.ignored]
            left = (found.margin > 0).nonzero().squeeze(1)
            if not left.numel() or not used:
                continue
            part = case.batch.take(rows[left].tolist())
            args = case.attacked, part.inputs, part.targets, subset.only(*used)
            with case.work.timed(condition):
                result = treat(name, *args, random=random, steps=steps, **case.options(part, case.seed))
            if result is not None:
                margin, looks = case.confirmed(part, result.inputs, result.margin)
                forwards = result.forwards + looks * left.numel()
                case.work.add(condition, forwards, result.backwards)
                found.pay(left, forwards // left.numel(), result.backwards // left.numel())
                found.improve(left, result.inputs, margin, case.hands.index(name))
