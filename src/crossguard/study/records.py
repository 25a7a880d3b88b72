"""Several Records as one: the folds of one training seed, and the seeds of one recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossguard.core.errors import InputError
from crossguard.evaluation import Record
from crossguard.evaluation.comparison import check_attacks, pair

Array = NDArray[Any]


@dataclass(frozen=True)
class Repeated(Record):
    """A Record of several trainings, tested on the same samples: `right` is (S, N), and so every figure that follows
    from it is the mean over seeds, with an interval over seeds and groups. `samples` and other fields are of the first.
    """

    seeds: tuple[int, ...] = ()
    runs: tuple[Record, ...] = ()

    def right(self, condition: str) -> Array:
        """(S, N) bool: which samples each seed's model still gets right."""
        return np.stack([run.right(condition) for run in self.runs])

    def broken_at(self, condition: str) -> Array:
        """(S, N) the smallest scale that fooled each sample: 0 wrong when clean, inf never."""
        return np.stack([run.broken_at(condition) for run in self.runs])

    def of_seeds(self, seeds: Sequence[int]) -> Repeated:
        """The same of some of the seeds."""
        if set(seeds) >= set(self.seeds):
            return self  # with all that it has ranked
        return repeated({seed: run for seed, run in zip(self.seeds, self.runs, strict=True) if seed in seeds})

    def ranked(self, condition: str, metric: str = "gap", times: Array | None = None) -> Array:
        """(S,) a metric of several labels, one value a seed; see `Record.ranked`."""
        return np.concatenate([run.ranked(condition, metric, times) for run in self.runs])


def repeated(records: Mapping[int, Record]) -> Repeated:
    """The Records of one recipe by training seed, samples put in the order of the first.

    Raises InputError for none, and where they are not of the same samples under the same attacks.
    """
    if not records:
        raise InputError("found no Records of any seed, expected at least one")
    first = next(iter(records.values()))
    runs = [first, *(_ordered(first, other) for other in list(records.values())[1:])]
    return Repeated(_merged(runs), first.samples, {}, seeds=tuple(records), runs=tuple(runs))


def _ordered(first: Record, other: Record) -> Record:
    check_attacks(first, other)
    rows, theirs = pair(first, other)
    if len(rows) != len(first) or len(rows) != len(other):
        raise InputError(
            f"the trainings of {first.name!r} were tested on other samples ({len(first)} and {len(other)}, {len(rows)} "
            f"of them shared): give all seeds the same test set"
        )
    return Record(other.meta, {name: x[theirs] for name, x in other.samples.items()}, other.clips)


def pooled(folds: Sequence[Record]) -> Record:
    """The Records of one training seed, each tested on its own fold, as one Record of all samples.

    Clips stay with the folds' own. Raises InputError where folds share a sample, or were attacked in other ways.
    """
    first = folds[0]
    if len(folds) == 1:
        return first
    for other in folds[1:]:
        check_attacks(first, other)
        if other.classes != first.classes:
            raise InputError(f"two folds of {first.name!r} have other classes; expected one set of classes for all")
    meta = _merged(folds)
    shared = [name for name in first.samples if all(name in fold.samples for fold in folds)]
    samples = {name: np.concatenate([fold.samples[name] for fold in folds]) for name in shared}
    ids, counts = np.unique(samples["ids"], return_counts=True)
    if counts.max() > 1:
        raise InputError(
            f"two folds of {first.name!r} test the same sample {str(ids[counts.argmax()])!r}; folds are parts of one "
            f"data set: make a study of each split instead"
        )
    return Record(meta, samples)


def _merged(records: Sequence[Record]) -> dict[str, Any]:
    """What is said of all: prices are means, doubts are of any, a check is the worst of any, scales and conditions are
    those that all have."""
    first = records[0].meta
    metas = [record.meta for record in records]
    flags = {(f["name"], f["modality"]): f for meta in metas for f in meta["flags"]}
    checks: dict[str, Any] = {}
    for name, check in (item for meta in metas for item in (meta.get("checks") or {}).items()):
        checks[name] = max(checks.get(name, check), check, key=_doubt)
    return {
        **first,
        "conditions": [c for c in first["conditions"] if all(c in meta["conditions"] for meta in metas)],
        "scales": [s for s in first["scales"] if all(s in meta["scales"] for meta in metas)],
        "training": _mean([meta.get("training") for meta in metas]),
        "latency": _mean([meta.get("latency") for meta in metas]),
        "work": _mean([meta.get("work") for meta in metas]),
        "flags": list(flags.values()),
        "checks": checks,
        "clips": [],
    }


def _doubt(check: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Orders the checks of one name: a failed one is worse, then the larger share that went wrong, then the fewer that
    had withstood (of none, nothing could fall)."""
    return check.get("passed") is False, check.get("share", 0.0), -(check.get("withstood") or math.inf)


def _mean(values: Sequence[Any]) -> Any:
    """Numbers averaged, at any depth of mappings; anything else as the first has it."""
    first = values[0]
    if all(isinstance(v, dict) for v in values):
        return {key: _mean([v[key] for v in values]) for key in first if all(key in v for v in values)}
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return float(np.mean(values)) if any(a != b for a, b in pairwise(values)) else first
    return first
