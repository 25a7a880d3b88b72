"""What attacks do to attention: entropy and drift by layer and head, and what each frame of the clips is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crossguard.core import Inputs, forward
from crossguard.core.batch import Batch
from crossguard.core.model import takes_need
from crossguard.evaluation.attack import Case
from crossguard.evaluation.store import Arrays
from crossguard.models.attention import Watch, watching
from crossguard.models.maps import drift, entropy, received, there

# Maps are large: so many samples at a time.
_ROWS = 16


def attend(case: Case, arrays: Arrays, condition: str, inputs: Inputs, shown: Sequence[int]) -> None:
    """Write down what attention does in a condition, for models that give maps; nothing for others.

    By layer i (N, heads): `attention/entropy/C/i` in shares of the uniform one's, and where C is an attack
    `attention/drift/C/i`, the KL in nats from the clean maps; of the rows `shown`, what each key of layer i is given,
    `clip/ROW/attention/C/i`. A sample that a model sees as several rows of maps has the mean of those that have a real
    query; NaN where none has, as that of an absent modality.
    """
    if not takes_need(case.model) or not _maps(case, case.batch.take([0])):
        return
    attacked = condition != "clean"
    found: dict[str, list[Tensor]] = {}
    with case.work.timed(condition):
        for first in range(0, len(case.batch), _ROWS):
            rows = list(range(first, min(first + _ROWS, len(case.batch))))
            clean = case.batch.take(rows)
            now = clean.with_inputs({m: x[rows] for m, x in inputs.items()}) if attacked else clean
            maps = _maps(case, now)
            before = _maps(case, clean) if attacked else ()
            case.work.add(condition, (1 + bool(before)) * len(rows))
            for i, a in enumerate(maps):
                spread = _by_sample(_known(entropy(a), a), len(rows))
                found.setdefault(f"attention/entropy/{condition}/{i}", []).append(spread)
                if before:
                    moved = _by_sample(_known(drift(before[i], a), before[i]), len(rows))
                    found.setdefault(f"attention/drift/{condition}/{i}", []).append(moved)
                given = _by_sample(received(a), len(rows))
                for row in set(shown) & set(rows):
                    arrays[f"clip/{row}/attention/{condition}/{i}"] = _numpy(given[row - first])
    arrays |= {key: np.concatenate([_numpy(part) for part in parts]) for key, parts in found.items()}


def _maps(case: Case, batch: Batch) -> tuple[Tensor, ...]:
    """The maps of all layers; none for a model that gives none."""
    with torch.no_grad(), watching(Watch()) as watch:
        output = forward(case.model, batch.inputs, batch.mask, ("attention",))
    return tuple(watch.kept) if watch is not None and watch.kept else output.attention or ()


def _known(values: Tensor, a: Tensor) -> Tensor:
    """(rows, heads) values of maps, NaN where no query is real."""
    return values.masked_fill(~there(a), torch.nan)


def _by_sample(values: Tensor, samples: int) -> Tensor:
    """(N, …) of values by row of maps, NaN left out."""
    return values.unflatten(0, (samples, -1)).nanmean(dim=1)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().to(torch.float32).cpu().numpy()
