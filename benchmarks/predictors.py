"""Which cheap measure ranks models by their robustness? Over runs that are evaluated and diagnosed:

    for run in runs/avmnist/*/seed-*; do crossguard diagnose $run --samples 100 --steps 30; done
    python benchmarks/predictors.py runs/avmnist/*/seed-*

Spearman's rank correlation, over the runs, of each measure (the mean over classes) with the accuracy that is left with
all modalities attacked, alone and partial given clean accuracy, with 95 % intervals; runs of several seeds of one
recipe count as runs of their own, so the intervals are too narrow by what seeds have in common. Runs with another set
of modalities than most are left out: their attacks are not the same.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import crossguard as cg
from crossguard.diagnostics.correlation import rank_correlation


def row(run: Path) -> dict[str, Any]:
    """The measures of a run, its accuracies, and what the measures cost."""
    found = json.loads((run / "diagnosis.json").read_text(encoding="utf-8"))
    summary = cg.Record.load(run).summary()
    metric = "accuracy" if "accuracy" in summary["clean"] else "hit@1"
    measures = {r["name"]: r for r in found["predictors"] if r["by_class"]}
    values = {n: [v for v in r["by_class"] if v is not None] for n, r in measures.items()}
    return {
        "run": f"{run.parent.name}/{run.name}",
        "names": tuple(sorted(found["density"])),
        "clean": summary["clean"][metric].value,
        "joint": summary["joint"][metric].value,
        "measures": {n: sum(v) / len(v) if v else float("nan") for n, v in values.items()},
        "price": {n: r["price"] for n, r in measures.items()},
    }


def main() -> None:
    """A table of runs, then one of correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    rows = [row(run) for run in parser.parse_args().runs if (run / "diagnosis.json").exists()]
    usual = Counter(r["names"] for r in rows).most_common(1)[0][0]
    rows = [r for r in rows if r["names"] == usual]
    names = [n for n in rows[0]["measures"] if all(n in r["measures"] for r in rows)]
    print("| run | clean, % | joint, % |", " | ".join(names), "|\n|---|---|---|" + "---|" * len(names))
    for r in sorted(rows, key=lambda r: r["joint"]):
        cells = " | ".join(f"{r['measures'][n]:.3g}" for n in names)
        print(f"| {r['run']} | {100 * r['clean']:.1f} | {100 * r['joint']:.1f} | {cells} |")
    joint, clean = (torch.tensor([r[k] for r in rows]) for k in ("joint", "clean"))
    print(
        f"\n| measure | over {len(rows)} runs | given clean accuracy | forwards | backwards | seconds |\n"
        + "|---" * 6
        + "|"
    )
    for n in ("clean", *names):
        values = clean if n == "clean" else torch.tensor([r["measures"][n] for r in rows])
        alone = rank_correlation(values, joint).said()
        partial = "" if n == "clean" else rank_correlation(values, joint, [clean]).said()
        price = (
            [sum(r["price"][n][k] for r in rows) / len(rows) for k in ("forwards", "backwards", "seconds")]
            if n != "clean"
            else ()
        )
        print(f"| {n} | {alone} | {partial} | " + (" | ".join(f"{p:.3g}" for p in price) or " | | ") + " |")


if __name__ == "__main__":
    main()
