"""Which modality is the odd one out, taught on batches with one attacked modality (after Yang et al., CVPR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossguard.core.batch import Output
from crossguard.core.errors import ModelError
from crossguard.defences.term import Given, Term, full


def odd_one_out(output: Output, given: Given) -> Tensor:
    """Cross-entropy of the M + 1 cases of an `OddOneOut` fusion: the attacked modality is odd, or none is.

    None is where nothing was attacked, or what was is absent. Batches of several attacked modalities have no odd one
    and give 0; where only such come, nothing is learned: take `attacked: single` and a `clean_weight`.
    """
    cases = output.odd_one_out
    if cases is None or output.weights is None:
        raise ModelError("the term 'odd_one_out' needs a FusionModel with the fusion odd_one_out; this one has none")
    if len(given.attacked) > 1:
        return cases.sum() * 0
    hit = given.hit(list(output.weights))
    case = torch.cat([hit, ~hit.any(dim=1, keepdim=True)], dim=1)
    return F.cross_entropy(full(cases), case.to(torch.int64).argmax(dim=1))


ODD_ONE_OUT = Term("odd_one_out", odd_one_out)
