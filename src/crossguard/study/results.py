"""What a study found, as plain figures: a row a recipe, paired differences, and what is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crossguard.core.errors import InputError, RunError
from crossguard.evaluation import Estimate, Record
from crossguard.evaluation.comparison import (
    check_attacks,
    pair,
    paired_difference,
    relative_improvement,
    smallest_shown,
)
from crossguard.evaluation.conditions import in_order
from crossguard.evaluation.statistics import mean_known
from crossguard.evaluation.tolerance import unseen
from crossguard.report.models import Model, reference_of
from crossguard.study.plan import Run, Study
from crossguard.study.records import Repeated, pooled, repeated

# What is said of attention, layer by layer, in words.
ATTENTION = {"entropy": "entropy, untouched (1: uniform)", "drift": "drift, all attacked (nats)"}
PRICES = ("cpu_seconds", "seconds", "forwards", "backwards", "peak_memory_mb")


@dataclass(frozen=True)
class Row:
    """One recipe over its finished seeds; shares in [0, 1], `relative_improvement` in points.

    `prices` are means over runs: training cpu_seconds (those that its process computed), seconds (by the clock: other
    runs on the machine slow it down), forwards, backwards and peak_memory_mb, parameters, milliseconds a sample, and
    `latency_ratio` to the reference. `attention` is empty for models without maps, else by layer "entropy" (untouched,
    in shares of the uniform one's) and "drift" (KL in nats, all attacked), means over samples, heads and runs. `flags`
    says how many of `runs` raised each flag; `checked`, how many samples of a run, at the least, were attacked again to
    see whether its attacks had converged; `unseen`, the share of what withstood, at the most of any run and condition,
    that may fall to more steps without a flag, 0 where nothing withstood (None: not recorded).
    """

    name: str
    seeds: tuple[int, ...]
    samples: int
    metric: str
    conditions: dict[str, dict[str, Estimate]]
    average: Estimate
    relative_improvement: Estimate | None
    balance: dict[str, Estimate]
    reliance: dict[str, Estimate]
    prices: dict[str, float]
    attention: dict[str, tuple[float, ...]]
    runs: int
    flags: dict[str, int]
    checked: int
    unseen: float | None

    @property
    def kept(self) -> Estimate | None:
        """What is left with all attacked at once; None where that is not known."""
        found = self.conditions.get("joint", {}).get(self.metric)
        return found if found is not None and found.defined else None


@dataclass(frozen=True)
class Difference:
    """`first` minus `second` by the rows' `metric` on the same samples and seeds, a share; `smallest_shown` is the
    smallest true difference that the design shows with 80 % power."""

    first: str
    second: str
    condition: str
    estimate: Estimate
    smallest_shown: float
    seeds: tuple[int, ...]

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out; if not, no difference is shown, which is a result too."""
        return self.estimate.low > 0 or self.estimate.high < 0


@dataclass(frozen=True)
class Results:
    """All tables of a study; `notes` say in plain words what is missing or not comparable."""

    title: str
    seeds: tuple[int, ...]
    folds: tuple[str, ...]
    reference: str | None
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def conditions(self) -> list[str]:
        """The conditions of any row, in the order of reading."""
        return in_order(c for row in self.rows for c in row.conditions)

    @property
    def ranked(self) -> list[Row]:
        """The rows, what keeps most with all attacked at once first."""
        return sorted(self.rows, key=lambda row: -math.inf if row.kept is None else row.kept.value, reverse=True)

    @property
    def seconds(self) -> list[str]:
        """What recipes are compared with: the reference, then those that pairs name."""
        return list(dict.fromkeys(d.second for d in self.differences))

    def seeds_of(self, row: Row) -> str:
        """What stands after a row's name where some of its seeds are not finished, as in " (1 of 2 seeds)"."""
        return "" if row.seeds == self.seeds else f" ({len(row.seeds)} of {len(self.seeds)} seeds)"

    def against(self, second: str) -> dict[str, dict[str, Difference]]:
        """First -> condition -> difference to `second`."""
        found: dict[str, dict[str, Difference]] = {}
        for d in self.differences:
            if d.second == second:
                found.setdefault(d.first, {})[d.condition] = d
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON; None for what is not defined."""
        return _plain(asdict(self))


def results(study: Study) -> Results:
    """The tables of what is finished: seeds of which every fold is.

    Raises RunError where no recipe has one, and where the data have changed between runs.
    """
    records, notes = _gather(study)
    if not records:
        raise RunError(f"{study.out}: no recipe has a finished seed; there is nothing to tabulate yet")
    named = study.reference if study.reference in records else None
    base = reference_of([Model(i, name, record) for i, (name, record) in enumerate(records.items())], named)
    if study.reference is not None and named is None:
        base = None
        notes.append(f"the reference {study.reference} has no finished seed: nothing is compared with it")
    reference = None if base is None else base.name
    pairs = [(name, reference) for name in records if reference is not None and name != reference]
    pairs += [p for p in study.pairs if p not in pairs and all(name in records for name in p)]
    differences = [d for first, second in pairs for d in _differences(records[first], records[second], notes)]
    rows = [_row(record, None if reference is None else records[reference]) for record in records.values()]
    folds = tuple(fold for fold in study.folds if fold is not None)
    return Results(study.title, study.seeds, folds, reference, tuple(rows), tuple(differences), tuple(notes))


def _gather(study: Study) -> tuple[dict[str, Repeated], list[str]]:
    """The Records by recipe, and what is missing."""
    found: dict[str, dict[int, Record]] = {}
    metas: list[tuple[Run, Mapping[str, Any]]] = []
    missing: list[Run] = []
    for name in study.names:
        for seed in study.seeds:
            runs = [r for r in study.runs if r.recipe.name == name and r.recipe.seed == seed]
            lacking = [run for run in runs if not run.finished]
            missing += lacking
            if runs and not lacking:
                records = [Record.load(run.folder) for run in runs]
                metas += [(run, record.meta) for run, record in zip(runs, records, strict=True)]
                found.setdefault(name, {})[seed] = pooled(records)
    _check_data(metas)
    return {name: repeated(by_seed) for name, by_seed in found.items()}, _unfinished(study, missing)


def _check_data(metas: Sequence[tuple[Run, Mapping[str, Any]]]) -> None:
    """Raise RunError where runs that read the same data and tested the same samples found other contents in them."""
    dated: list[tuple[Run, str, str]] = []
    for run, meta in sorted(metas, key=lambda one: one[1]["created"]):
        held = meta.get("data")  # records of earlier versions do not say
        if held is not None:
            # Other batches of the same samples have another hash.
            which = json.dumps([run.recipe.document["data"], held["order"]], sort_keys=True)
            dated.append((run, which, held["content"]))
    last = {which: content for _, which, content in dated}
    old = [(run, content, last[which]) for run, which, content in dated if content != last[which]]
    if old:
        lines = "".join(f"\n  {run.folder}: contents {was}, later {now}" for run, was, now in old)
        raise RunError(
            f"the data have changed between runs: {len(old)} of {len(metas)} were tested on samples of the same ids as "
            f"later ones, but of other inputs, masks, targets or groups; remove these run folders and give the same "
            f"command again, or choose another --out:{lines}"
        )


def _unfinished(study: Study, missing: Sequence[Run]) -> list[str]:
    """One note of all runs that are not finished: recipes of which no run is by name alone, of others the seeds."""
    if not missing:
        return []
    said: list[str] = []
    for name in dict.fromkeys(run.recipe.name for run in missing):
        mine = [run for run in missing if run.recipe.name == name]
        seeds = dict.fromkeys(str(run.recipe.seed) for run in mine)
        some = len(mine) < sum(run.recipe.name == name for run in study.runs)
        folds = f", {len(mine)} folds" if any(run.fold for run in mine) else ""
        said.append(f"{name} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}{folds})" if some else name)
    return [f"not finished, {len(missing)} of {len(study.runs)} runs: {', '.join(said)}"]


def _row(record: Repeated, reference: Repeated | None) -> Row:
    training = record.meta["training"] or {}
    prices = {key: training[key] for key in PRICES if training.get(key) is not None}
    prices["parameters"] = record.meta["model"]["parameters"]
    prices["milliseconds"] = record.meta["latency"]["milliseconds_per_sample"]
    if reference is not None:
        prices["latency_ratio"] = prices["milliseconds"] / reference.meta["latency"]["milliseconds_per_sample"]
    flags: dict[str, int] = {}
    for run in record.runs:
        for flag in {f"{f.name} ({f.modality})" if f.modality else f.name for f in run.flags}:
            flags[flag] = flags.get(flag, 0) + 1
    improvement = None
    alike = reference is not None and record.averaged == reference.averaged and not _unlike(record, reference)
    if reference is not None and reference is not record and alike:
        one, other, seeds = _shared(record, reference)
        improvement = relative_improvement(one, other) if seeds else None
    return Row(
        name=record.name,
        seeds=record.seeds,
        samples=len(record),
        metric=record.metric,
        conditions=record.summary(),
        average=record.average(),
        relative_improvement=improvement,
        balance=record.balance(),
        reliance=record.reliance(),
        prices=prices,
        attention=_attention(record.runs),
        runs=len(record.runs),
        flags=dict(sorted(flags.items())),
        checked=min(min((c["samples"] for c in _converged(run).values()), default=0) for run in record.runs),
        unseen=_unseen(record.runs),
    )


def _attention(runs: Sequence[Record]) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}
    for what, prefix in (("entropy", "attention/entropy/clean/"), ("drift", "attention/drift/joint/")):
        layers = sum(key.startswith(prefix) for key in runs[0].samples)
        if layers:
            means = [np.array([mean_known(run.samples[f"{prefix}{i}"]) for run in runs]) for i in range(layers)]
            found[what] = tuple(float(mean_known(mean)) for mean in means)
    return found


def _converged(run: Record) -> dict[str, dict[str, Any]]:
    """Condition -> the figures of the check whether its attack had converged."""
    checks: dict[str, dict[str, Any]] = run.meta.get("checks") or {}
    found = {name.removeprefix("more_steps/"): c for name, c in checks.items() if name.startswith("more_steps/")}
    return {name: c for name, c in found.items() if name in run.conditions}


def _unseen(runs: Sequence[Record]) -> float | None:
    found = [c.get("withstood") for run in runs for name, c in _converged(run).items() if run.right(name).any()]
    known = [n for n in found if n is not None]
    # Records of before it was kept do not say how many had withstood.
    return max(map(unseen, known), default=0.0) if len(known) == len(found) else None


def _differences(first: Repeated, second: Repeated, notes: list[str]) -> list[Difference]:
    """Every condition that both have and in which neither was attacked harder than the other."""
    one, other, seeds = _shared(first, second)
    if not seeds:
        notes.append(f"{first.name} and {second.name} have no finished seed in common: not compared")
        return []
    shared = len(pair(one, other)[0])
    if shared < max(len(one), len(other)):
        notes.append(
            f"{first.name} and {second.name} are compared on the {shared} samples that they share, of {len(first)} and "
            f"{len(second)}"
        )
    unlike = _unlike(first, second)
    if unlike:
        notes.append(f"only clean and missing are compared: {unlike}")
    return [
        Difference(
            first.name, second.name, c, paired_difference(one, other, c), smallest_shown(one, other, c), seeds
        )
        for c in one.conditions
        if c in other.conditions and (not unlike or c == "clean" or c.startswith("missing:"))
    ]  # fmt: skip


def _shared(first: Repeated, second: Repeated) -> tuple[Repeated, Repeated, tuple[int, ...]]:
    """Both with the seeds that both have."""
    seeds = tuple(seed for seed in first.seeds if seed in second.seeds)
    return (first.of_seeds(seeds), second.of_seeds(seeds), seeds) if seeds else (first, second, seeds)


def _unlike(first: Record, second: Record) -> str:
    """Why attacks on two recipes cannot be compared, "" where they can."""
    try:
        check_attacks(first, second)
    except InputError as error:
        return str(error)
    return ""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
