"""Attention on the page: entropy and drift by layer and head, and over time, untouched against attacked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossguard.evaluation.statistics import mean_known
from crossguard.report import text
from crossguard.report.models import Model, attacked

_CLIPS = 4  # drawn for each model
_WIDTH, _HEIGHT = 300.0, 60.0  # of a drawing
Array = NDArray[Any]


def panels(models: Sequence[Model]) -> list[dict[str, Any]]:
    """One for each model whose record holds attention."""
    return [panel for m in models if (panel := _panel(m)) is not None]


def _panel(model: Model) -> dict[str, Any] | None:
    samples = model.record.samples
    layers = sum(key.startswith("attention/entropy/clean/") for key in samples)
    if not layers:
        return None
    shown = ["clean", *(c for c in attacked([model]) if f"attention/drift/{c}/0" in samples)]
    entropies = [
        (f"layer {i + 1}", [text.plain(float(mean_known(samples[f"attention/entropy/{c}/{i}"]))) for c in shown])
        for i in range(layers)
    ]
    return {
        "model": model,
        "conditions": [text.short(c) for c in shown],
        "entropy": entropies,
        "drift": [(text.short(c), _drift(samples, c, layers)) for c in shown[1:]],
        "clips": _clips(model, shown),
    }


def _drift(samples: dict[str, Array], condition: str, layers: int) -> list[tuple[str, list[tuple[str, float]]]]:
    """By layer, for each head its mean drift in words and as a share of the largest one."""
    means = [mean_known(samples[f"attention/drift/{condition}/{i}"], axis=0).tolist() for i in range(layers)]
    most = max((v for m in means for v in m if math.isfinite(v)), default=0.0) or 1.0
    return [
        (f"layer {i + 1}", [(text.plain(v, ".2g"), v / most if math.isfinite(v) else 0.0) for v in m])
        for i, m in enumerate(means)
    ]


def _clips(model: Model, shown: Sequence[str]) -> list[dict[str, Any]]:
    """What the last layer gives each key in some clips, as lines of one drawing."""
    clips, found = model.record.clips, list[dict[str, Any]]()
    for entry in model.record.meta.get("clips", [])[:_CLIPS]:
        prefix = f"{entry['index']}/attention/"
        numbers = [int(key.removeprefix(f"{prefix}clean/")) for key in clips if key.startswith(f"{prefix}clean/")]
        if not numbers:
            continue
        last = max(numbers)
        worst = next((c for c in ("joint", *shown) if f"{prefix}{c}/{last}" in clips and c != "clean"), None)
        lines = {c: np.asarray(clips[f"{prefix}{c}/{last}"]) for c in ("clean", worst) if c is not None}
        top = max(float(line.max()) for line in lines.values()) or 1.0
        found.append(
            {
                "id": str(entry["id"]),
                "frames": len(lines["clean"]),
                "top": f"{top:.2f}",
                "lines": [(text.short(c), c == "clean", _points(line, top)) for c, line in lines.items()],
            }
        )
    return found


def _points(line: Array, top: float) -> str:
    """An SVG polyline over the drawing."""
    step = _WIDTH / max(len(line) - 1, 1)
    return " ".join(f"{i * step:.1f},{_HEIGHT * (1 - float(v) / top):.1f}" for i, v in enumerate(line))
