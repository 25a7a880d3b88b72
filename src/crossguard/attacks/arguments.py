"""What every attack is given, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from crossguard.core.batch import Inputs, check_finite, check_mask
from crossguard.core.errors import InputError
from crossguard.core.task import Task
from crossguard.threat import ThreatModel


def check_arguments(
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    mask: Mapping[str, Tensor] | None,
    ids: Sequence[str | int] | Tensor | None,
    task: Task | None,
) -> None:
    """Raise InputError or ThreatError for input that cannot be meant."""
    n = targets.shape[0]
    if not inputs:
        raise InputError("there are no inputs; expected a dict of tensors by modality")
    for name, x in inputs.items():
        if x.shape[0] != n:
            raise InputError(f"modality {name!r} has {x.shape[0]} samples, the targets have {n}")
    if ids is not None and len(ids) != n:
        raise InputError(f"found {len(ids)} ids for {n} samples")
    threat.check(inputs)
    attacked = {name: inputs[name] for name in threat.names}
    for name, x in attacked.items():
        if not x.is_floating_point():
            raise InputError(f"modality {name!r} is {x.dtype}; attacks need floating point in physical units")
    check_finite(attacked, ids)
    check_mask(mask, inputs)
    if task is not None:
        task.check(targets)
