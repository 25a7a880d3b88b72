"""What every attack is given, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from crossguard.core.batch import Inputs, check_finite, check_mask, check_named, check_tensors
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
    start: Inputs | None = None,
) -> None:
    """Raise InputError or ThreatError for input that cannot be meant."""
    check_tensors(inputs, targets, mask)
    n = targets.shape[0]
    if not inputs:
        raise InputError("there are no inputs; expected a dict of tensors by modality")
    for name, x in inputs.items():
        if x.shape[0] != n:
            raise InputError(f"modality {name!r} has {x.shape[0]} samples, the targets have {n}")
    if ids is not None and len(ids) != n:
        raise InputError(f"found {len(ids)} ids for {n} samples")
    check_mask(mask, inputs)
    threat.check(inputs, mask)
    for name in threat.names:
        if not inputs[name].is_floating_point():
            raise InputError(
                f"modality {name!r} is {inputs[name].dtype}; attacks need floating point in physical units"
            )
    # The others as well: NaN in any of them is NaN in every logit, which looks as if the attack had broken the model.
    check_finite({name: x for name, x in inputs.items() if x.is_floating_point()}, ids)
    if task is not None:
        task.check(targets)
    if start is not None:
        _check_start(start, inputs, threat)


def _check_start(start: Inputs, inputs: Inputs, threat: ThreatModel) -> None:
    """Raise InputError unless there is a point of each attacked modality, in the shape of the inputs."""
    what = "the points given (start=, found=)"
    check_named(what, start)
    for name in threat.names:
        if name not in start:
            raise InputError(
                f"{what} lack modality {name!r} of the threat model, they name {sorted(start)}; add it as it is in the "
                f"inputs, or leave it out of the threat model: threat.only(…)"
            )
        if start[name].shape != inputs[name].shape:
            raise InputError(
                f"{what} of {name!r}: found shape {tuple(start[name].shape)}, expected that of the inputs, "
                f"{tuple(inputs[name].shape)}"
            )
