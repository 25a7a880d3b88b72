"""A study's tables as Markdown, for pages that are kept beside the code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossguard.core.files import write_atomic
from crossguard.evaluation import Estimate
from crossguard.report import text
from crossguard.study.results import ATTENTION, Difference, Results, Row


def write_markdown(results: Results, folder: Path) -> Path:
    """Write `study.md`: accuracies, paired differences, balance beside reliance, prices, doubts and what is missing."""
    folds = (
        f", {len(results.folds)} folds, each sample tested by the model that did not see it" if results.folds else ""
    )
    parts = [
        f"# {results.title}",
        f"Seeds {', '.join(map(str, results.seeds))}{folds}. 95 % intervals in brackets, by a bootstrap over seeds "
        f"and, apart from them, over groups and samples within groups.",
        f"## {_metric(results)}, in per cent",
        _accuracies(results),
    ]
    for second in results.seconds:
        parts += [
            f"## Minus {second}, in points, paired by sample and seed",
            "Bold where the interval leaves zero out; after the bar, the smallest true difference that this design "
            "would have shown four times in five.",
            _differences(results, second),
        ]
    parts += ["## Balance beside reliance", _balance(results)]
    if any(row.attention for row in results.rows):
        parts += ["## Attention by layer, means over samples, heads and trainings", _attention(results)]
    parts += ["## Price, means of one training", _prices(results)]
    doubts = [f"- {row.name}: {_counted(row)}" for row in results.rows if row.flags]
    parts += ["## Doubts", "\n".join(doubts) or "No check of any run raised a flag.", *_unseen(results)]
    if results.notes:
        parts += ["## Missing", "; ".join(results.notes) + "."]
    write_atomic(folder / "study.md", lambda file: file.write(("\n\n".join(parts) + "\n").encode()))
    return folder / "study.md"


def _unseen(results: Results) -> list[str]:
    """How much of what withstood the checks cannot see fall."""
    rows = [row for row in results.rows if row.checked]
    if not rows:
        return []
    said = [
        f"Whether attacks had converged was looked at on {min(row.checked for row in rows)} samples of a run or more."
    ]
    known = ", ".join(f"{row.name} {100 * row.unseen:.0f} %" for row in rows if row.unseen)
    if known:
        said.append(
            f"Of what withstood, at most so much could fall to more steps without a flag (exact 95 % bound, by how "
            f"many of these samples had withstood): {known}."
        )
    unknown = [row.name for row in rows if row.unseen is None]
    if unknown:
        said.append(
            f"Of {text.listing(unknown)} it was not recorded how many of them had withstood, so how much could fall "
            f"cannot be said."
        )
    return [" ".join(said)]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _metric(results: Results) -> str:
    metric = results.rows[0].metric
    return "Share still right" if metric == "accuracy" else text.METRICS[metric]


def _shown(results: Results) -> list[str]:
    """The conditions of the wide tables; what is lost without a modality stands in one of its own."""
    return [c for c in results.conditions if not c.startswith("missing:")]


def _accuracies(results: Results) -> str:
    lines = [
        [
            row.name + results.seeds_of(row),
            *(_share(row.conditions[c][row.metric] if c in row.conditions else None) for c in _shown(results)),
            _share(row.average),
            "0" if row.name == results.reference else _points(row.relative_improvement),
        ]
        for row in results.ranked
    ]
    return _table(["recipe", *map(text.short, _shown(results)), "Avg", "RI"], lines)


def _differences(results: Results, second: str) -> str:
    against = results.against(second)
    lines = [[first, *(_difference(by.get(c)) for c in _shown(results))] for first, by in against.items()]
    return _table(["recipe", *map(text.short, _shown(results))], lines)


def _balance(results: Results) -> str:
    modalities = list(dict.fromkeys(m for row in results.rows for m in row.reliance))
    lines = [
        [
            row.name,
            *(_share(row.balance.get(name)) for name in ("gap", "ratio")),
            *(_points(row.reliance[m].scaled(100) if m in row.reliance else None) for m in modalities),
        ]
        for row in results.rows
    ]
    return _table(["recipe", "gap", "ratio, %", *(f"lost without {m}" for m in modalities)], lines)


def _attention(results: Results) -> str:
    lines = [[row.name, *(_layers(row.attention.get(what, ())) for what in ATTENTION)] for row in results.rows]
    return _table(["recipe", *ATTENTION.values()], lines)


def _layers(values: Sequence[float]) -> str:
    return " / ".join(map(text.plain, values)) or text.NOTHING


def _prices(results: Results) -> str:
    # Records of before it was kept have no CPU time; by the clock, runs that share a machine slow one another.
    known = all("cpu_seconds" in row.prices for row in results.rows)
    time = "cpu_seconds" if known else "seconds"
    lines = [[row.name, *_price(row.prices, time)] for row in results.rows]
    return _table(
        [
            "recipe",
            "CPU seconds" if known else "seconds",
            "forwards",
            "backwards",
            "parameters",
            "ms a sample",
            "x reference",
        ],
        lines,
    )


def _price(prices: Mapping[str, float], time: str) -> list[str]:
    latency = prices.get("latency_ratio")
    return [
        f"{prices[time]:.0f}" if time in prices else text.NOTHING,
        *(text.large(prices[key]) if key in prices else text.NOTHING for key in ("forwards", "backwards")),
        text.large(prices["parameters"]),
        f"{prices['milliseconds']:.2g}",
        text.NOTHING if latency is None else f"{latency:.2f}",
    ]


def _counted(row: Row) -> str:
    return "; ".join(f"{flag}, in {n} of {row.runs} runs" for flag, n in row.flags.items())


def _share(e: Estimate | None) -> str:
    if e is None or not math.isfinite(e.value):
        return text.NOTHING
    return f"{100 * e.value:.1f} [{100 * e.low:.0f}, {100 * e.high:.0f}]"


def _points(e: Estimate | None) -> str:
    if e is None or not math.isfinite(e.value):
        return text.NOTHING
    return f"{e.value:+.1f} [{e.low:+.0f}, {e.high:+.0f}]"


def _difference(d: Difference | None) -> str:
    if d is None or not math.isfinite(d.estimate.value):
        return text.NOTHING
    e = d.estimate.scaled(100)
    value = f"**{e.value:+.1f}**" if d.shown else f"{e.value:+.1f}"
    return f"{value} [{e.low:+.1f}, {e.high:+.1f}] \\| {100 * d.smallest_shown:.1f}"
