"""The page of a study: its tables as one HTML file, in the style of the report, without a script."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from crossguard.core.files import write_atomic
from crossguard.evaluation import Estimate
from crossguard.report import text
from crossguard.study.results import ATTENTION, Results


def page(results: Results, out: str | Path, links: dict[str, str] | None = None) -> Path:
    """Write the page of a study to `out`, and return its path; `links` are other pages, name -> address."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_asset("study", "study.html.j2"))
    css = Markup(_asset("report", "style.css"))  # of this package: not to be escaped
    words = {"attention": ATTENTION, "ends": _ends, "finite": math.isfinite, "text": text}
    html = template.render(r=results, css=css, links=links or {}, **words)
    path = Path(out)
    write_atomic(path, lambda file: file.write(html.encode()))
    return path


def _asset(package: str, name: str) -> str:
    return resources.files(f"crossguard.{package}").joinpath(name).read_text(encoding="utf-8")


def _ends(points: Estimate) -> str:
    """The interval of a signed number of points."""
    return f"{text.points(points.low)} to {text.points(points.high)}"
