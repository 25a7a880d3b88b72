"""The first look at a model and its data: what cannot be meant is refused here, before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from crossguard.core import Batch, InputError, ModelError, Task, forward, settle_task
from crossguard.core.model import attack_view
from crossguard.evaluation.attack import Case
from crossguard.evaluation.checks import Probe, probe
from crossguard.evaluation.protocol import Protocol
from crossguard.evaluation.stream import Stream
from crossguard.models.fusion_model import check_task
from crossguard.threat import ThreatModel

# After so many batches without a single gradient a modality counts as blind, or as ignored until a batch looks at it.
_PROBED = 4


@dataclass(frozen=True)
class Opening:
    """What the first batch told: the case without its batch's work, and how gradients reach each modality."""

    case: Case
    probes: dict[str, Probe]


def look(
    net: nn.Module, stream: Stream, threat: ThreatModel, task: Task | None, protocol: Protocol, seed: int
) -> Opening:
    """Look at the first batch and raise before any work for a model, task or data that cannot be meant."""
    first = next(iter(stream), None)
    if first is None:
        raise InputError("the loader yields no samples; check the data set, its split and the cap on samples")
    batch = first[1]
    with torch.no_grad():
        logits = forward(net, batch.inputs, batch.mask).logits
    task = settle_task(task, batch.targets, logits)
    check_task(net, task)
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model answers clean samples with NaN or Inf; nothing can be measured on it")
    if task.looks_like_probabilities(logits):
        raise ModelError(
            "the model returns probabilities, expected logits: their gradients vanish and attacks fail; "
            "wrap it with cg.adapt(net, …, output='probabilities')"
        )
    stream.task = task
    view = _view(net, batch, logits)
    case = Case(net, batch, threat, task, protocol, seed, view=view)
    probes = _probe(case, stream)
    blind = frozenset(m for m, p in probes.items() if p.used and not p.gradient)
    ignored = frozenset(m for m, p in probes.items() if not p.used)
    return Opening(replace(case, blind=blind, ignored=ignored), probes)


def _view(net: nn.Module, batch: Batch, logits: Tensor) -> nn.Module | None:
    """What the model offers to attackers in place of itself; raises ModelError where that is no model of the task."""
    view = attack_view(net)
    if view is net:
        return None
    with torch.no_grad():
        shown = forward(view, batch.inputs, batch.mask).logits
    if shown.shape != logits.shape or not bool(torch.isfinite(shown).all()):
        raise ModelError(
            f"attack_view() of {type(net).__name__} answers clean samples with logits of shape {tuple(shown.shape)}, "
            f"or with NaN or Inf; expected finite ones of shape {tuple(logits.shape)}, as the model itself gives"
        )
    return view


def _probe(case: Case, stream: Stream) -> dict[str, Probe]:
    """Probes of every modality, over as many batches as it takes to see each of them present and with a gradient; a
    modality that shows none in several batches is given up."""
    found: dict[str, Probe] = {}
    for number, batch in stream:
        now = probe(replace(case, batch=batch))
        found = {m: found[m].merged(p) if found else p for m, p in now.items()}
        seen = all(p.samples for p in found.values())
        if all(p.gradient for p in found.values()) or (seen and number + 1 >= _PROBED):
            break
    return found
