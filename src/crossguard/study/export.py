"""A study's figures for other programs: CSV (tidy, one figure a line), JSON (all of it), LaTeX (booktabs), Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from crossguard.core.errors import InputError
from crossguard.core.files import write_atomic, write_json
from crossguard.evaluation import Estimate
from crossguard.report import text
from crossguard.study.markdown import write_markdown
from crossguard.study.results import Difference, Results, Row

COLUMNS: tuple[str, ...] = (
    "recipe", "condition", "metric", "unit", "value", "low", "high", "samples", "seeds",
    "reference", "difference", "difference_low", "difference_high", "smallest_shown",
)  # fmt: skip
# Of one training and of inference, in the order of the columns; the last is the latency.
_PRICES = {
    "cpu_seconds": "training, CPU s", "seconds": "training, s", "forwards": "forwards", "backwards": "backwards",
    "peak_memory_mb": "peak memory, MB", "parameters": "parameters", "milliseconds": "latency, ms",
}  # fmt: skip
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u2212": "$-$", "\u2013": "--",
    "\u202f": r"\,", "\u00d7": r"$\times$", **{c: f"\\{c}" for c in "&%$#_{}"},
}  # fmt: skip


def export(results: Results, folder: Path, kinds: Sequence[str] = ("csv", "json", "latex")) -> list[Path]:
    """Write `study.csv`, `.json`, `.tex` and `.md` into `folder`, as far as `kinds` names them; the paths written.

    Raises InputError, before anything is written, for a kind that there is not.
    """
    unknown = [kind for kind in kinds if kind not in EXPORTS]
    if unknown:
        raise InputError(f"cannot export {unknown[0]!r}; expected some of {', '.join(EXPORTS)}")
    return [EXPORTS[kind](results, folder) for kind in dict.fromkeys(kinds)]


def _write_json(results: Results, folder: Path) -> Path:
    write_json(folder / "study.json", results.to_dict())
    return folder / "study.json"


def _write_csv(results: Results, folder: Path) -> Path:
    """A line a recipe and figure: shares in [0, 1], relative improvement in points, prices without interval.

    Differences to the reference stand beside the figures, those of further pairs on lines of their own.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    against = {} if results.reference is None else results.against(results.reference)
    for row in results.rows:
        common = {"recipe": row.name, "samples": row.samples, "seeds": " ".join(map(str, row.seeds))}
        for condition, metric, unit, estimate in _figures(row):
            line = {**common, "condition": condition, "metric": metric, "unit": unit, **_ends(estimate)}
            paired = against.get(row.name, {}).get(condition)
            writer.writerow(line | (_difference(paired) if paired is not None and metric == row.metric else {}))
        for d in results.differences:
            if d.first == row.name and d.second != results.reference:
                line = {**common, "condition": d.condition, "metric": row.metric, "unit": "share"}
                writer.writerow(line | _difference(d))
        layers = {f"attention_{what}/{i}": v for what, by in row.attention.items() for i, v in enumerate(by)}
        for name, value in (row.prices | layers).items():
            writer.writerow({**common, "metric": name, "value": _number(value)})
    write_atomic(folder / "study.csv", lambda file: file.write(buffer.getvalue().encode()))
    return folder / "study.csv"


def _figures(row: Row) -> list[tuple[str, str, str, Estimate]]:
    """(condition, metric, unit, figure)."""
    found = [(c, m, "share", e) for c, metrics in row.conditions.items() for m, e in metrics.items()]
    found.append(("", "average", "share", row.average))
    if row.relative_improvement is not None:
        found.append(("", "relative_improvement", "points", row.relative_improvement))
    found += [("", f"balance_{name}", "share", e) for name, e in row.balance.items()]
    return found + [(f"missing:{m}", "reliance", "share", e) for m, e in row.reliance.items()]


def _difference(d: Difference) -> dict[str, str]:
    ends = _ends(d.estimate, "difference", "difference_low", "difference_high")
    return {"reference": d.second, **ends, "smallest_shown": _number(d.smallest_shown)}


def _ends(e: Estimate, value: str = "value", low: str = "low", high: str = "high") -> dict[str, str]:
    return {value: _number(e.value), low: _number(e.low), high: _number(e.high)}


def _number(value: float) -> str:
    """All digits; empty for what is not defined."""
    return repr(value) if math.isfinite(value) else ""


def _write_latex(results: Results, folder: Path) -> Path:
    """Tabulars: figures in per cent with their intervals, differences in points, and prices."""
    parts = [f"% {results.title}: means over seeds {', '.join(map(str, results.seeds))}; \\usepackage{{booktabs}}"]
    shown = results.conditions
    head = ["", *(text.short(c) for c in shown), "Avg", "RI"]
    parts.append(_tabular(head, [_latex_row(row, shown, results) for row in results.rows]))
    for second in results.seconds:
        head = [f"minus {second}", *(text.short(c) for c in shown)]
        against = results.against(second).items()
        lines = [[_escape(name), *(_latex_difference(by.get(c)) for c in shown)] for name, by in against]
        parts.append(_tabular(head, lines))
    head = ["", *_PRICES.values(), f"latency, times {results.reference or 'the reference'}"]
    parts.append(_tabular(head, [_latex_prices(row, results.reference) for row in results.rows]))
    source = "\n\n".join(parts).replace("\n\n", "\n", 1) + "\n"
    write_atomic(folder / "study.tex", lambda file: file.write(source.encode()))
    return folder / "study.tex"


def _tabular(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    body = [" & ".join(line) + r" \\" for line in lines]
    top = " & ".join(_escape(word) for word in head) + r" \\"
    columns = "l" + "r" * (len(head) - 1)
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", top, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def _latex_row(row: Row, shown: Sequence[str], results: Results) -> list[str]:
    cells = [_escape(row.name + results.seeds_of(row))]
    for c in shown:
        cells.append(_latex_share(row.conditions[c][row.metric]) if c in row.conditions else "--")
    cells.append(_latex_share(row.average))
    ri = row.relative_improvement
    if ri is None:
        return [*cells, "0" if row.name == results.reference else "--"]
    return [*cells, _small(f"${ri.value:+.1f}$", f"${ri.low:+.1f}$, ${ri.high:+.1f}$")]


def _latex_prices(row: Row, reference: str | None) -> list[str]:
    cells = [text.large(row.prices[key]) if key in row.prices else "--" for key in _PRICES if key != "milliseconds"]
    ratio = f"{row.prices['latency_ratio']:.2f}" if "latency_ratio" in row.prices and row.name != reference else "--"
    return [
        _escape(word) if word != "--" else word
        for word in (row.name, *cells, f"{row.prices['milliseconds']:.3g}", ratio)
    ]


def _latex_share(e: Estimate) -> str:
    if not math.isfinite(e.value):
        return "--"
    return _small(f"{100 * e.value:.1f}", f"{100 * e.low:.1f}, {100 * e.high:.1f}")


def _latex_difference(d: Difference | None) -> str:
    """Bold where the interval leaves zero out."""
    if d is None or not math.isfinite(d.estimate.value):
        return "--"
    e = d.estimate.scaled(100)
    value = f"${e.value:+.1f}$"
    value = rf"\textbf{{{value.strip('$')}}}".replace("-", "$-$") if d.shown else value
    return _small(value, f"${e.low:+.1f}$, ${e.high:+.1f}$")


def _small(value: str, interval: str) -> str:
    return rf"{value} {{\scriptsize [{interval}]}}"


def _escape(word: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in word)


EXPORTS: Mapping[str, Callable[[Results, Path], Path]] = {
    "csv": _write_csv,
    "json": _write_json,
    "latex": _write_latex,
    "markdown": write_markdown,
}
