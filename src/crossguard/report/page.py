"""One self-contained HTML file from one or several Records: the same Records give the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from crossguard.core import InputError
from crossguard.core.files import write_atomic
from crossguard.evaluation.record import Record
from crossguard.report import attention, clips, figures, headline, latents, summary, tables, text, universal
from crossguard.report.models import Model, reference_of, unique

# With plotly's 4.8 MB a page stays below 12 MB.
CLIP_BYTES = 6_000_000


def report(
    records: Record | str | Path | Sequence[Record | str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    reference: str | None = None,
) -> Path:
    """Write the page of one or several Records (or their folders) to `out`, and return its path.

    RI compares with the record named `reference`, else with the first called like "concat-standard". Raises
    InputError for no records, an unknown reference, or records of different tasks; RunError where a folder cannot
    be read or `out` cannot be written.
    """
    if isinstance(records, Record | str | Path):
        records = [records]
    loaded = [r if isinstance(r, Record) else Record.load(r) for r in records]
    names = unique(r.name for r in loaded)
    models = [Model(i, name, record) for i, (name, record) in enumerate(zip(names, loaded, strict=True))]
    _check(models, reference)
    diagnoses = [latents.read(r, m.record.meta) for r, m in zip(records, models, strict=True)]
    html = render(models, title, reference, diagnoses, [universal.read(r) for r in records])
    path = Path(out)
    write_atomic(path, lambda file: file.write(html.encode()))
    return path


def _check(models: Sequence[Model], reference: str | None) -> None:
    if not models:
        raise InputError("a report needs at least one record; give the folders of finished evaluations")
    first = models[0].record.meta
    for m in models:
        if m.record.meta["task"] != first["task"] or m.record.meta["classes"] != first["classes"]:
            raise InputError(
                f"{m.name!r} was evaluated on another task or other classes than {models[0].name!r}; "
                f"one page compares models on the same task: make a page of each"
            )
    if reference is not None and reference not in [m.name for m in models]:
        raise InputError(f"no record is named {reference!r}; the reference can be {[m.name for m in models]}")


def render(
    models: Sequence[Model],
    title: str | None,
    reference: str | None,
    diagnoses: Sequence[Mapping[str, Any] | None] = (),
    universals: Sequence[Mapping[str, Any] | None] = (),
) -> str:
    """The page as text."""
    base = reference_of(models, reference)
    head = headline.headline(models)
    ranked = sorted(headline.contest(models), key=headline.standing, reverse=True)
    # Two that are worth a comparison: the reference and the best, or the best and the next.
    first = list(dict.fromkeys(m.index for m in (base, *ranked, *models) if m is not None))[:2]
    reel = clips.reel([m.record for m in models], [m.name for m in models], CLIP_BYTES, first)
    curves = figures.curves(models)
    default = models[0].name if len(models) == 1 else f"{len(models)} models under attack"
    scripts = {"plotly": Markup(get_plotlyjs()), **{n: _asset(f"{n}.js") for n in ("page", "draw", "panels", "viewer")}}
    return _template().render(
        title=title or default,
        models=models,
        head=head,
        flags=headline.flags(models),
        differences=headline.differences(models),
        summary=summary.summary(models, base),
        further=summary.further(models),
        curves=curves,
        curve_table=tables.curve_table(models),
        scale_words=_scale_words(models),
        classes=[(m, tables.class_bars(m)) for m in models],
        influence=[tables.influence(m) for m in models],
        attention=attention.panels(models),
        latents=latents.panels([m.name for m in models], diagnoses),
        universal=universal.panel([m.name for m in models], universals),
        prices=tables.prices(models, base),
        reel=reel,
        text=text,
        style=figures.style,
        css=_asset("style.css"),
        scripts=scripts,
        policy=_policy(scripts),
        data={"curves": {k: _drawn(curves[k]) for k in ("condition", "model")}, "reel": reel.data},
    )


def _drawn(panels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What plotly needs of each panel; its title is the template's."""
    return [{"data": p["data"], "layout": p["layout"]} for p in panels]


def _scale_words(models: Sequence[Model]) -> list[str]:
    """What scale 1 is, a line a modality, said once for all models that share it."""
    words = [
        text.budget_words(m.modalities[n], b.to_dict())
        for m in sorted(models, key=lambda m: -len(m.threat.budgets))
        for n, b in m.threat.budgets.items()
    ]
    return list(dict.fromkeys(words))


def _asset(name: str) -> Markup:
    """A file of this package, as it is."""
    return Markup(resources.files("crossguard.report").joinpath(name).read_text(encoding="utf-8"))


def _policy(scripts: dict[str, Markup]) -> str:
    """Only these very scripts may run; nothing may be fetched from anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts.values()]
    allowed = " ".join(f"'sha256-{h}'" for h in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        f"form-action 'none'"
    )


def _json(value: Any) -> Markup:
    """JSON for a data block: no character in it can end the block."""
    dumped = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        dumped = dumped.replace(character, f"\\u{ord(character):04x}")
    return Markup(dumped)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: str(_asset(name))),
    )
    environment.filters["data"] = _json
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.filters["percent"] = text.percent
    return environment.get_template("page.html.j2")
