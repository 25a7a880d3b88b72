"""What the page says first: which model holds best, against what, and what makes that doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossguard.evaluation.comparison import paired_difference, smallest_shown
from crossguard.report import text
from crossguard.report.models import Model, comparable, contest
from crossguard.threat.aligned import AlignedFrames


def standing(model: Model) -> float:
    """What models are ranked by: Avg; where it is missing, the hardest condition that was measured."""
    for estimate in (model.average, model.estimate("joint"), model.estimate("any_one"), model.estimate("clean")):
        if estimate is not None:
            return estimate.value
    return -1.0


def headline(models: Sequence[Model]) -> dict[str, Any]:
    """Plain words and three figures for a person in a hurry."""
    ranked = sorted(contest(models), key=standing, reverse=True)
    best = ranked[0]
    attacked = list(best.threat.names)
    labels = [
        ("clean", "clean", "nothing attacked"),
        ("any_one", "any one modality attacked", "the worst of the single attacks, sample by sample"),
        ("joint", text.together(attacked), "all budgets used at once"),
    ]
    if len(attacked) < 2:
        labels.pop(1)
    if not attacked:
        labels.pop()
    tiles = [(label, hint, e) for c, label, hint in labels if (e := best.estimate(c)) is not None]
    return {
        "best": best,
        "several": len(models) > 1,
        "tiles": tiles,
        "lead": _lead(best, ranked[1]) if len(ranked) > 1 else None,
        "budgets": [text.budget_words(best.modalities[n], b.to_dict()) for n, b in best.threat.budgets.items()],
        "samples": len(best.record),
        "metric": text.METRICS.get(best.metric, best.metric),
        "ranked": best.record.multi_label,
        "flags": sum(len(m.record.flags) for m in models),
        "checks": sum(len(m.record.meta.get("checks") or {}) for m in models),
    }


def _lead(best: Model, second: Model) -> str | None:
    """Whether the first is shown to be better than the second under the joint attack, on the same samples."""
    shared = "joint" in best.record.conditions and "joint" in second.record.conditions
    if not shared or not comparable(best, second):
        return None
    d = paired_difference(best.record, second.record, "joint").scaled(100)
    ends = f"95 % interval {text.points(d.low)} to {text.points(d.high)}"
    if d.low > 0:
        return f"Under the joint attack it is {d.value:.1f} points ahead of {second.name} ({ends})."
    if d.high < 0:
        ahead = f"{-d.value:.1f} points behind {second.name} ({ends})"
        return f"Its average is the highest, but under the joint attack it is {ahead}."
    least = 100 * smallest_shown(best.record, second.record, "joint")
    return (
        f"Under the joint attack no difference from {second.name}, the next best, is shown "
        f"({text.points(d.value)} points, {ends}); these samples could have shown one of {least:.1f} points."
    )


def flags(models: Sequence[Model]) -> list[dict[str, Any]]:
    """By model: what was found doubtful, how many checks were made, what was not finished."""
    found: list[dict[str, Any]] = []
    for m in models:
        checks = m.record.meta.get("checks") or {}
        found.append(
            {
                "model": m,
                "flags": [(f, text.flag_words(f.name)) for f in m.record.flags],
                "checks": len(checks),
                "passed": {text.check_words(n): _passed(c) for n, c in checks.items()},
                "complete": bool(m.record.meta.get("complete", True)),
                "missing": [text.short(c) for c in m.expected if c not in m.record.conditions],
            }
        )
    return found


def _passed(check: Any) -> bool | None:
    """The verdict of one check, None where it gave none."""
    return bool(check["passed"]) if isinstance(check, dict) and "passed" in check else None


def _moments(a: Model, b: Model) -> AlignedFrames | None:
    """The moments at which `a` may be attacked, in the modalities that both may be."""
    frames = a.threat.frames
    return None if frames is None else frames.only(tuple(n for n in a.threat.names if n in b.threat.names))


def differences(models: Sequence[Model]) -> list[str]:
    """Why figures of these records may not be comparable; a unimodal model may well lack a modality."""
    first = models[0]
    budgets: list[str] = []
    protocols: list[str] = []
    levels: list[str] = []
    samples: list[str] = []
    fewer = [m.name for m in models if m not in contest(models)]
    for m in models[1:]:
        known = {n: b for other in models for n, b in other.threat.budgets.items() if other.index < m.index}
        other = any(n in known and known[n] != b for n, b in m.threat.budgets.items())
        if other or m.threat.at_most != first.threat.at_most or _moments(m, first) != _moments(first, m):
            budgets.append(m.name)
        if m.record.meta.get("protocol") != first.record.meta.get("protocol"):
            protocols.append(m.name)
        if (m.record.meta["model"].get("level") or {}) != (first.record.meta["model"].get("level") or {}):
            levels.append(m.name)
        if sorted(m.record.samples["ids"]) != sorted(first.record.samples["ids"]):
            samples.append(m.name)
    said = [
        ("attacked with other budgets", budgets),
        ("evaluated with another protocol", protocols),
        ("attacked at another level (raw inputs against features)", levels),
        ("evaluated on other samples", samples),
    ]
    lone = [f"{text.listing(fewer)} met fewer attacks than the others: no RI, and not in the contest for the best."]
    return lone * bool(fewer) + [
        f"{text.listing(names)} {'was' if len(names) == 1 else 'were'} {what} than {first.name}."
        for what, names in said
        if names
    ]
