"""The other numbers of the page: curves, classes, what a model leans on, prices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from crossguard.report import text
from crossguard.report.models import Model, attacked, known, scale_grid


def curve_table(models: Sequence[Model]) -> dict[str, Any]:
    """The curves as numbers: one row a condition and model, one column a scale."""
    scales = scale_grid(models)
    rows: list[tuple[str, str, list[str]]] = []
    for condition in attacked(models):
        for m in models:
            if condition in m.curves:
                points = {round(s, 9): e for s, e in m.curves[condition]}
                found = [points.get(round(s, 9)) for s in scales]
                rows.append(
                    (text.short(condition), m.name, [text.percent(e.value) if e else text.NOTHING for e in found])
                )
    return {"scales": scales, "rows": rows}


def class_bars(model: Model) -> list[dict[str, Any]]:
    """One row a class: clean, any one, joint, as far as they were measured."""
    shown = [c for c in ("clean", "any_one", "joint") if c in model.record.conditions]
    by = {c: model.record.by_class(c) for c in shown}
    return [
        {
            "name": name,
            "n": by[shown[0]][i].n if shown else 0,
            "bars": [(c, known(by[c][i])) for c in shown],
        }
        for i, name in enumerate(model.record.meta["classes"])
    ]


def spread(values: Any) -> dict[str, float]:
    """Percentiles of a distribution."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    q = np.percentile(finite, [5, 25, 50, 75, 95]) if finite.size else [math.nan] * 5
    return dict(zip(("p5", "p25", "p50", "p75", "p95"), map(float, q), strict=True))


def influence(model: Model) -> dict[str, Any]:
    """What says how a model uses its modalities: weights and contributions by condition, reliance, balance."""
    samples = model.record.samples
    shown = ["clean", *(c for c in attacked([model]) if c != "any_one")]
    parts: dict[str, Any] = {"model": model, "weight": [], "contribution": [], "reliance": [], "balance": {}}
    for what in ("weight", "contribution"):
        for name in model.modalities:
            rows = [(text.short(c), spread(samples[k])) for c in shown if (k := f"{what}/{c}/{name}") in samples]
            rows = [row for row in rows if math.isfinite(row[1]["p50"])]
            if rows:
                parts[what].append((name, rows))
    measured = model.record.conditions
    if "clean" in measured and any(f"missing:{n}" in measured for n in model.modalities):
        parts["reliance"] = [(n, e) for n, e in model.record.reliance().items() if known(e)]
    parts["balance"] = model.record.balance()
    return parts


def prices(models: Sequence[Model], reference: Model | None) -> list[list[str]]:
    """What each model costs: training, memory, size, latency, and the attacks on it."""
    base = (reference.record.meta.get("latency") or {}).get("milliseconds_per_sample") if reference else None
    rows: list[list[str]] = []
    for m in models:
        meta = m.record.meta
        training, latency = meta.get("training") or {}, (meta.get("latency") or {}).get("milliseconds_per_sample")
        work = (meta.get("work") or {}).values()
        ratio = f" ({latency / base:.2f}\u00d7)" if latency and base and m is not reference else ""
        rows.append(
            [
                m.name,
                _duration(training.get("cpu_seconds")),
                _duration(training.get("seconds")),
                text.large(training["forwards"]) if training.get("forwards") is not None else text.NOTHING,
                text.large(training["backwards"]) if training.get("backwards") is not None else text.NOTHING,
                f"{training['peak_memory_mb']:.0f} MB" if training.get("peak_memory_mb") else text.NOTHING,
                text.large(meta["model"]["parameters"]),
                f"{latency:.3g} ms{ratio}" if latency else text.NOTHING,
                f"{text.large(sum(w['forwards'] for w in work))} / {text.large(sum(w['backwards'] for w in work))}",
            ]
        )
    return rows


def _duration(seconds: float | None) -> str:
    return text.NOTHING if seconds is None else text.duration(seconds)
