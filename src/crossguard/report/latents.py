"""Latent space on the page: what `crossguard diagnose` left in the folder of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossguard.core.files import read_json
from crossguard.report.figures import COLOURS

FILE, FORMAT = "diagnosis.json", 1
_WIDTH, _HEIGHT = 300.0, 220.0  # of the drawing


def read(place: Any, meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """The diagnosis in a run folder, and in what it `differs` from the Record there, whose `meta` is given: "weights",
    "data", "budgets", as far as both say; None where there is none, or where the place is no folder."""
    path = Path(place) / FILE if isinstance(place, str | Path) else None
    if path is None or not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return None
    known = {"weights": meta["fingerprint"]["model"], "budgets": meta["threat"]}
    known["data"] = (meta["recipe"] or {}).get("data")
    return {**found, "differs": [what for what, it in found.get("of", {}).items() if known[what] not in (None, it)]}


def panels(names: Sequence[str], diagnoses: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """One for each model that was diagnosed; of what is not of its Record, only that it is left out."""
    return [_panel(name, d) for name, d in zip(names, diagnoses, strict=False) if d is not None]


def _panel(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    if found["differs"]:
        return {"name": name, "differs": " and ".join(found["differs"])}
    columns = {f"density, {n}": v for n, v in found["density"].items()}
    columns |= {f"convexity, {n}": v for n, v in found["convexity"].items()}
    return {
        "name": name,
        "differs": "",
        "samples": found["samples"],
        "columns": list(columns),
        "rows": [(c, [said(v[i]) for v in columns.values()]) for i, c in enumerate(found["classes"])],
        "modalities": list(found["shapley"]["clean"]),
        "shares": [
            (condition, [said(e, 100, ".1f") for e in by_name.values()])
            for condition, by_name in found["shapley"].items()
        ],
        "predictors": [_predictor(row) for row in found["predictors"]],
        "drawing": _drawing(found["projection"], found["classes"]),
        "notes": [f"{what}: {why}" for what, why in found["notes"].items()],
    }


def said(e: Mapping[str, Any], factor: float = 1.0, form: str = ".2f") -> tuple[str, str]:
    """The value, and its interval or why there is none."""
    if e["value"] is None:
        return "undefined", str(e["reason"])
    value, low, high = (f"{factor * e[k]:{form}}" for k in ("value", "low", "high"))
    return value, f"{low} to {high}"


def _predictor(row: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]], list[str]]:
    price = row["price"]
    itself = ("–", "robustness itself")
    correlations = [itself if row["name"] == "fmn" else said(row[k]) for k in ("correlation", "partial")]
    return row["name"], correlations, [str(price["forwards"]), str(price["backwards"]), f"{price['seconds']:.2f}"]


def _drawing(projection: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any] | None:
    """Points and ways in the drawing's own coordinates."""
    if not projection:
        return None
    every = [*projection["points"], *(p for way in projection["paths"] for p in way)]
    low = [min(p[i] for p in every) for i in (0, 1)]
    span = [max(max(p[i] for p in every) - low[i], 1e-9) for i in (0, 1)]

    def at(p: Sequence[float]) -> tuple[str, str]:
        return f"{_WIDTH * (p[0] - low[0]) / span[0]:.1f}", f"{_HEIGHT * (1 - (p[1] - low[1]) / span[1]):.1f}"

    explained = projection["explained"]
    seen = f", {100 * explained:.0f} % of the variance" if explained else ""
    pairs = zip(projection["points"], projection["labels"], strict=True)
    ways = zip(projection["paths"], projection["path_labels"], strict=True)
    return {
        "words": "t-SNE" if projection["method"] == "tsne" else f"PCA{seen}",
        "points": [(*at(p), COLOURS[c % len(COLOURS)], classes[c]) for p, c in pairs],
        "ways": [(" ".join(",".join(at(p)) for p in way), at(way[-1]), classes[c]) for way, c in ways],
    }
