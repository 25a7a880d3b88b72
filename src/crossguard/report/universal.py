"""Universal perturbations on the page: what `crossguard universal` left in the folders of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossguard.core.files import read_json
from crossguard.report import text
from crossguard.report.latents import said

FIGURES, TRANSFER = "universal/universal.json", "universal/transfer.json"


def read(record: Any) -> dict[str, Any] | None:
    """The figures in a run folder and, of several runs, what each perturbation leaves of the other models; None where
    there are none, or where only a Record is at hand."""
    folder = Path(record) if isinstance(record, str | Path) else None
    if folder is None or not (folder / FIGURES).exists():
        return None
    shown = read_json(folder / TRANSFER) if (folder / TRANSFER).exists() else None
    return {**read_json(folder / FIGURES), "transfer": shown}


def panel(names: Sequence[str], found: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """A table of all models that have some, and of what they leave of one another; None where no model has any."""
    known = [(name, f) for name, f in zip(names, found, strict=False) if f is not None]
    if not known:
        return None
    conditions = list(dict.fromkeys(c for _, f in known for c in f["conditions"]))
    return {
        "conditions": [text.short(c) for c in conditions],
        "rows": [(name, said(f["clean"], 100, ".1f"), [_cell(f, c) for c in conditions]) for name, f in known],
        "matrices": _matrices([f["transfer"] for _, f in known if f["transfer"]]),
    }


def _cell(found: Mapping[str, Any], condition: str) -> tuple[str, str, str] | None:
    """Accuracy on test data with its interval, and in-sample; None for a modality that the model does not read."""
    here = found["conditions"].get(condition)
    return None if here is None else (*said(here["test"], 100, ".1f"), said(here["in_sample"], 100, ".1f")[0])


def _matrices(transfers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One for each command's runs: model -> what was found on whom."""
    different: list[Mapping[str, Any]] = []
    for transfer in transfers:
        if transfer not in different:
            different.append(transfer)
    return [
        {
            "columns": list(next(iter(t.values()))),
            "rows": [(model, [said(e, 100, ".1f") for e in row.values()]) for model, row in t.items()],
        }
        for t in different
    ]
