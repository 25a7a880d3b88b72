"""Plotly figures as JSON: accuracy over the common scale of the budgets, by condition or by model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossguard.report import text
from crossguard.report.models import Model, attacked, scale_grid

# Okabe and Ito's hues, set to mid-tones that hold on white and on near-black; marks differ too, never colour alone.
COLOURS = ("#2f80c3", "#d98200", "#159a72", "#d2542c", "#b768a2", "#6f7f8f", "#49a5d6", "#a68a00")
MARKS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "star")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
DASHES = ("solid", "dash", "dot")


def style(index: int) -> dict[str, str]:
    """Colour, mark and dash of the index-th line."""
    return {
        "colour": COLOURS[index % len(COLOURS)],
        "mark": MARKS[index % len(MARKS)],
        "dash": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def transparent(colour: str, alpha: float) -> str:
    """A hex colour with an opacity."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def _lines(model: Model, condition: str, name: str, look: dict[str, str], grid: list[float]) -> list[dict[str, Any]]:
    """A band of intervals and the line in it."""
    points = [(grid.index(round(s, 9)), s, e) for s, e in model.curves[condition]]
    x = [i for i, _, _ in points]
    low, high = [100 * e.low for _, _, e in points], [100 * e.high for _, _, e in points]
    only = condition.partition(":")[2]
    budgets = {n: b.to_dict() for n, b in model.threat.budgets.items() if not only or n == only}
    hover = [
        f"<b>{text.percent(e.value)} %</b> ({text.interval(e.low, e.high)})"
        + "".join(f"<br>{_escape(n)}: {text.budget_amount(model.modalities[n], b, s)}" for n, b in budgets.items())
        for _, s, e in points
    ]
    band = {
        "x": x + x[::-1],
        "y": [round(v, 3) for v in high + low[::-1]],
        "fill": "toself",
        "fillcolor": transparent(look["colour"], 0.13),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "mode": "lines",
        "type": "scatter",
    }
    line = {
        "x": x,
        "y": [round(100 * e.value, 3) for _, _, e in points],
        "name": _escape(name),
        "mode": "lines+markers",
        "line": {"color": look["colour"], "width": 2, "dash": look["dash"]},
        "marker": {"symbol": look["mark"], "size": 7, "color": look["colour"]},
        "customdata": hover,
        "hovertemplate": f"{_escape(name)}<br>%{{customdata}}<extra></extra>",
        "type": "scatter",
    }
    return [band, line]


def _escape(name: str) -> str:
    """Plotly reads a few tags in text: let none through."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _layout(grid: list[float]) -> dict[str, Any]:
    middle = [{"x0": i, "x1": i} for i, s in enumerate(grid) if s == 1.0]
    return {
        "margin": {"l": 34, "r": 8, "t": 6, "b": 26},
        "height": 230,
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11.5},
        "xaxis": {
            "tickvals": list(range(len(grid))),
            "tickangle": 0,
            "ticktext": _ticks(grid),
            "range": [-0.25, len(grid) - 0.75],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        "yaxis": {"range": [-2, 102], "tickvals": [0, 25, 50, 75, 100], "zeroline": False, "fixedrange": True},
        "shapes": [
            {
                **at,
                "type": "line",
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"width": 1, "dash": "dot"},
            }
            for at in middle
        ],
    }


def _units(models: Sequence[Model], condition: str) -> str:
    """What scale 1 is in a panel, in physical units: "8/255 · 2.0 cm"."""
    only = condition.partition(":")[2]
    sizes = [
        text.budget_amount(m.modalities[n], b.to_dict())
        for m in sorted(models, key=lambda m: -len(m.threat.budgets))
        for n, b in m.threat.budgets.items()
        if not only or n == only
    ]
    return " · ".join(dict.fromkeys(sizes))


def _ticks(grid: list[float]) -> list[str]:
    """Labels that do not run into each other: 0, 1, and every second one where there are many."""
    one = grid.index(1.0) if 1.0 in grid else 0
    shown = [len(grid) <= 8 or i == 0 or (i > 1 and (i - one) % 2 == 0) for i in range(len(grid))]
    return [f"{s:g}" if labelled else "" for s, labelled in zip(grid, shown, strict=True)]


def curves(models: Sequence[Model]) -> dict[str, Any]:
    """Both arrangements of the same lines: {"condition": [panel], "model": [panel]} with their legends."""
    grid, shown = scale_grid(models), attacked(models)
    layout = _layout(grid)
    by_condition: list[dict[str, Any]] = []
    for condition in shown:
        traces: list[dict[str, Any]] = []
        for m in models:
            if condition in m.curves:
                traces += _lines(m, condition, m.name, style(m.index), grid)
        unit = _units(models, condition)
        by_condition.append({"title": text.panel(condition), "unit": unit, "data": traces, "layout": layout})
    by_model: list[dict[str, Any]] = []
    for m in models:
        traces = []
        for i, condition in enumerate(shown):
            if condition in m.curves:
                traces += _lines(m, condition, text.short(condition), style(i), grid)
        by_model.append({"title": m.name, "unit": _units([m], ""), "data": traces, "layout": layout})
    return {
        "condition": by_condition,
        "model": by_model,
        "legend": {
            "condition": [(m.name, style(m.index)) for m in models],
            "model": [(text.short(c), style(i)) for i, c in enumerate(shown)],
        },
    }
