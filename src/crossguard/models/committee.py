"""Several heads heard as witnesses of whom any one may be lying."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crossguard.core.errors import ModelError


def committee(fused: Tensor, auxiliary: Tensor, real: Tensor | None, doubt: float, trust: Sequence[float]) -> Tensor:
    """(N, C) logits: sum over heads k of `trust`_k log((1 - `doubt`) p_k + `doubt` / C), of fused (N, C) and auxiliary
    (N, M, C).

    With all trust 1 it is, up to a constant and for equal priors, the posterior of a class of which each head tells the
    truth with probability 1 - `doubt` and else knows nothing: no head, however sure, moves the answer by more than
    trust x log(1 + C (1 - doubt) / doubt), so that what an attacker gains from one modality is bounded, while gradients
    reach every head. Heads of modalities that are not there (`real` (N, M) False) are not heard; where none that is
    trusted is left, the fused one is. Our own choice, after no paper; `doubt` 0 is the plain product of beliefs.
    """
    every = torch.cat([fused[:, None], auxiliary], dim=1)
    belief = every.log_softmax(dim=2)
    if doubt:
        floor = math.log(doubt / every.shape[2])
        belief = torch.logaddexp(belief + math.log1p(-doubt), torch.full_like(belief, floor))
    weight = belief.new_tensor(trust).expand(belief.shape[:2])
    if real is not None:
        weight = torch.cat([weight[:, :1], weight[:, 1:] * real], dim=1)
        deaf = (weight == 0).all(dim=1)
        weight = torch.cat([weight[:, :1].where(~deaf[:, None], torch.ones_like(weight[:, :1])), weight[:, 1:]], dim=1)
    return (weight[..., None] * belief).sum(dim=1)


def trusted(trust: Mapping[str, float], modalities: Sequence[str], doubt: float) -> tuple[float, ...]:
    """The trust in the fused head and in each modality's, 1 where `trust` does not name it.

    Raises ModelError for names that there are not, for negative trust or none at all, and for a `doubt` out of [0, 1).
    """
    names = ("fused", *modalities)
    unknown = sorted(set(trust) - set(names))
    if unknown:
        raise ModelError(f"trust names {unknown[0]!r}, expected some of {', '.join(names)}")
    found = tuple(float(trust.get(name, 1.0)) for name in names)
    if not all(0 <= t < math.inf for t in found) or not any(found):
        raise ModelError(f"trust is {dict(zip(names, found, strict=True))}, expected numbers >= 0, not all 0")
    if not 0 <= doubt < 1:
        raise ModelError(f"doubt is {doubt}, expected a share >= 0 and < 1")
    return found
