"""Several Records side by side: relative improvement, paired differences, and the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossguard.core import InputError
from crossguard.evaluation.record import Record
from crossguard.evaluation.statistics import (
    Estimate,
    detectable_difference,
    difference,
    of_draws,
    of_means,
    redrawn,
    smallest_of,
)

Array = NDArray[Any]


def pair(a: Record, b: Record) -> tuple[Array, Array]:
    """Rows of `a` and of `b` that are the same samples, in the order of `a`.

    Raises InputError where they share none, or where shared samples have other targets.
    """
    where = {name: row for row, name in enumerate(b.samples["ids"].tolist())}
    rows = [(row, where[name]) for row, name in enumerate(a.samples["ids"].tolist()) if name in where]
    if not rows:
        raise InputError(f"the records {a.name!r} and {b.name!r} share no sample: nothing can be paired")
    first, second = (np.array(side) for side in zip(*rows, strict=True))
    if not np.array_equal(a.samples["targets"][first], b.samples["targets"][second]):
        raise InputError(f"the records {a.name!r} and {b.name!r} give other targets to samples of the same id")
    return first, second


def _groups(record: Record, rows: Array) -> Array | None:
    return None if record.groups is None else record.groups[rows]


# What a protocol may differ in without one model being attacked harder than the other. Its name stands for stages.
_HARMLESS = {"name", "samples", "clips", "check_samples", "max_scale"}


def unlike_attacks(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    """What decides how strong attacks are besides budgets, and differs between two records: of their protocols, the
    stages that came of those, and where models are cut."""
    one, two = _attacks_of(a), _attacks_of(b)
    # Records of earlier versions do not say their stages.
    known = {k: None for k in (*one, *two) if k != "stages" or (k in one and k in two)}
    return {k: (one.get(k), two.get(k)) for k in known if one.get(k) != two.get(k)}


def _attacks_of(record: Record) -> dict[str, Any]:
    protocol = record.meta.get("protocol") or {}
    found = {k: v for k, v in protocol.items() if k not in _HARMLESS}
    # On how many samples failures are looked for does not matter; where on none, no remedy has its turn.
    found["check_samples"] = bool(protocol.get("check_samples", True))
    stages, level = record.meta.get("stages"), record.meta["model"].get("level")
    return found | ({} if stages is None else {"stages": stages}) | ({"level": level} if level else {})


def same_budgets(a: Record, b: Record) -> bool:
    """Whether two records were attacked within the same budgets. One may have a budget that the other has not where the
    other has no data of that modality: what it never reads cannot move it."""
    one, two = a.meta["threat"], b.meta["threat"]
    first, second = one["budgets"], two["budgets"]
    without = [(a, m) for m in second if m not in first] + [(b, m) for m in first if m not in second]
    unread = all(m not in (record.meta.get("modalities") or (m,)) for record, m in without)
    same = all(second.get(m, budget) == budget for m, budget in first.items())
    return unread and same and {**one, "budgets": None} == {**two, "budgets": None}


def check_attacks(a: Record, b: Record) -> None:
    """Raise InputError where two records were attacked within other budgets or by another protocol."""
    if not same_budgets(a, b):
        raise InputError(
            f"the records {a.name!r} and {b.name!r} were attacked within other budgets ({a.meta['threat']} and "
            f"{b.meta['threat']}): evaluate both under one threat model"
        )
    other = unlike_attacks(a, b)
    if other:
        raise InputError(
            f"the records {a.name!r} and {b.name!r} were attacked by other protocols or at other levels ({other}): the "
            f"weaker attack would flatter its model; evaluate both in one way"
        )


def paired_difference(a: Record, b: Record, condition: str) -> Estimate:
    """Share right of `a` minus that of `b` (of several labels GAP minus GAP), paired by id.

    Raises InputError for other budgets or attacks (but under "clean" and "missing:…") or no shared samples.
    """
    if condition != "clean" and not condition.startswith("missing:"):
        check_attacks(a, b)
    first, second = pair(a, b)
    if a.multi_label:
        return of_draws(_gaps(a, b, [condition], first, second), len(first), _groups(a, first), limits=(-1.0, 1.0))
    return difference(a.right(condition)[..., first], b.right(condition)[..., second], _groups(a, first))


def _gaps(
    a: Record, b: Record, conditions: Sequence[str], first: Array, second: Array
) -> Callable[[Array | None], Array]:
    """The mean GAP over conditions of `a` minus that of `b`, as a function of how often each pair of rows counts."""

    def mean(of: Record, rows: Array, times: Array | None) -> Array:
        weights = np.zeros(len(of))
        weights[rows] = 1 if times is None else times
        return np.mean([of.ranked(c, times=weights) for c in conditions], axis=0)

    return lambda times: mean(a, first, times) - mean(b, second, times)


def smallest_shown(a: Record, b: Record, condition: str) -> float:
    """The smallest true difference that this pair of records shows with 80 % power; a share, not points."""
    first, second = pair(a, b)
    if a.multi_label:
        drawn = redrawn(_gaps(a, b, [condition], first, second), len(first), _groups(a, first))
        return smallest_of(drawn, len(first))
    return detectable_difference(a.right(condition)[..., first], b.right(condition)[..., second], _groups(a, first))


def relative_improvement(record: Record, reference: Record) -> Estimate:
    """RI = (Clean + Avg)_method - (Clean + Avg)_reference in points, paired by id (after Tian and Xu, CVPR 2021).

    Avg is the mean over only:m and joint. Never print it without clean accuracy. Raises InputError where the two
    were attacked on other modalities, within other budgets or by another protocol.
    """
    check_attacks(record, reference)
    if record.averaged != reference.averaged:
        raise InputError(
            f"Avg of {record.name!r} is over {', '.join(record.averaged)}, that of {reference.name!r} over "
            f"{', '.join(reference.averaged)}: compare them condition by condition"
        )
    first, second = pair(record, reference)
    if record.multi_label:
        clean, attacked = (
            _gaps(record, reference, conditions, first, second) for conditions in (["clean"], record.averaged)
        )
        found = of_draws(lambda t: clean(t) + attacked(t), len(first), _groups(record, first), limits=(-2.0, 2.0))
        return found.scaled(100)

    def both(of: Record, rows: Array) -> Array:
        average = np.mean([of.right(c)[..., rows] for c in of.averaged], axis=0)
        return of.right("clean")[..., rows] + average

    delta = both(record, first) - both(reference, second)
    found = of_means(delta[..., None], lambda means: means[..., 0], _groups(record, first), limits=(-2.0, 2.0))
    return found.scaled(100)


def table(records: Sequence[Record], reference: Record | None = None) -> list[dict[str, Any]]:
    """One row a record: every condition, Avg, RI to the reference (the first record if none is named), balance beside
    reliance, and what the method cost."""
    if not records:
        return []
    base = reference or records[0]
    rows: list[dict[str, Any]] = []
    for record in records:
        training = record.meta["training"] or {}
        summary = record.summary()
        rows.append(
            {
                "name": record.name,
                "conditions": summary,
                "average": record.average(),
                "relative_improvement": relative_improvement(record, base),
                "reference": base.name,
                "difference": {c: paired_difference(record, base, c) for c in summary if c in base.conditions},
                "smallest_shown": {c: smallest_shown(record, base, c) for c in summary if c in base.conditions},
                "balance": record.balance(),
                "reliance": record.reliance(),
                "parameters": record.meta["model"]["parameters"],
                "milliseconds": record.meta["latency"]["milliseconds_per_sample"],
                "training": {
                    k: training.get(k) for k in ("seconds", "cpu_seconds", "forwards", "backwards", "peak_memory_mb")
                },
                "flags": record.flags,
            }
        )
    return rows
