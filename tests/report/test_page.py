"""The page as a file: structure, escaping, determinism, and records that lack parts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from crossguard import InputError, Linf, RunError
from crossguard.evaluation.comparison import paired_difference, relative_improvement
from crossguard.evaluation.record import Record
from crossguard.report import report
from tests.report.synthetic import DEPTH, INERTIAL, RGB, SKELETON, make

VOID = {"meta", "link", "br", "input", "img", "hr"}
SHAPES = {"path", "line"}  # of SVG: the parser reports <path/> as a start and an end


class Page(HTMLParser):
    """Elements with their attributes and text; raises where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {[self.elements[i][0] for i in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open[-1]][0] == tag, f"</{tag}> closes <{self.elements[self._open[-1]][0]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for i in self._open:
            self.elements[i][2].append(data)

    def find(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        """(attributes, text) of the elements that have these attributes (class_ for class)."""
        named = {k.rstrip("_"): v for k, v in wanted.items()}
        return [
            (attrs, " ".join("".join(text).split()))
            for t, attrs, text in self.elements
            if t == tag and all(v in (attrs.get(k) or "").split() for k, v in named.items())
        ]

    def text(self, id_: str) -> str:
        """All text of one element."""
        return " ".join("".join(next(text for _, a, text in self.elements if a.get("id") == id_)).split())


def parse(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def data_of(page: Page) -> dict[str, Any]:
    return json.loads(page.find("script", id="data")[0][1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    flag = {"name": "attack_not_converged", "modality": "rgb", "detail": "four times the steps fooled 9 of 128 more"}
    return [
        make(folder / "a", "rgb-standard", accuracy=(0.78, 0.02), modalities=(RGB,), seed=1),
        make(folder / "b", "concat-standard", accuracy=(0.95, 0.08), seed=2),
        make(folder / "c", "concat-adversarial", accuracy=(0.9, 0.45), objective="adversarial", seed=3),
        make(folder / "d", "amr-adversarial", accuracy=(0.91, 0.6), objective="adversarial", weights=True, seed=4,
             flags=(flag,)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return parse(report(runs, tmp_path_factory.mktemp("page") / "page.html"))


def test_all_sections_are_there_and_every_link_leads_somewhere(page: Page) -> None:
    ids = {attrs["id"] for _, attrs, _ in page.elements if "id" in attrs}
    assert {"doubts", "summary", "curves", "classes", "influence", "clips", "price", "methods"} <= ids
    links = [attrs["href"] or "" for attrs, _ in page.find("a")]
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert len(ids) == len([1 for _, attrs, _ in page.elements if "id" in attrs]), "ids are unique"


def test_the_headline_names_the_best_model_its_figures_and_the_budgets(page: Page, runs: list[Path]) -> None:
    best = Record.load(runs[3])
    said = page.find("p", class_="lede")[0][1]
    assert said.startswith("amr-adversarial holds best")
    for condition, label in (("clean", "clean"), ("any_one", "any one modality attacked"), ("joint", "both attacked")):
        assert f"{label} {100 * best.summary()[condition]['accuracy'].value:.0f} %" in said
    facts = page.find("p", class_="facts")[0][1]
    assert "120 samples" in facts
    assert "up to 8/255 of intensity on every pixel of rgb and up to 2.0 cm on every joint coordinate" in facts
    assert "1 flag" in facts


def test_flags_are_said_and_their_absence_too(page: Page) -> None:
    flag = [text for _, text in page.find("p", class_="flag") if "The attack had not finished" in text]
    assert flag == ["The attack had not finished. rgb Four times the steps fooled 9 of 128 more."]
    assert len([1 for _, text in page.find("p", class_="clear") if text == "No doubts were raised by 2 checks."]) == 3


def test_every_figure_of_the_summary_is_that_of_the_record(page: Page, runs: list[Path]) -> None:
    table = page.find("table", class_="summary")[0][1]
    for run in runs:
        record = Record.load(run)
        for metrics in record.summary().values():
            e = metrics["accuracy"]
            assert f"{100 * e.value:.1f}{100 * e.low:.1f}\N{EN DASH}{100 * e.high:.1f}" in table.replace(" ", "")
    assert "Standard training" in table
    assert "Adversarially trained" in table
    assert "the reference" in table
    assert table.index("concat-standard") < table.index("concat-adversarial")


def test_models_are_ranked_by_their_average_under_attack(page: Page, runs: list[Path]) -> None:
    averages = {r.name: r.average().value for r in map(Record.load, runs)}
    assert max(averages, key=averages.__getitem__) == "amr-adversarial"


def test_no_relative_improvement_without_a_reference(runs: list[Path], tmp_path: Path) -> None:
    alone = parse(report(runs[2:], tmp_path / "p.html"))
    assert "RI" not in [text for _, text in alone.find("button")]
    named = parse(report(runs[2:], tmp_path / "q.html", reference="concat-adversarial"))
    assert "RI" in [text for _, text in named.find("button")]
    assert "minus that of concat-adversarial" in named.text("summary")


def test_curves_carry_the_values_of_the_records(page: Page, runs: list[Path]) -> None:
    record = Record.load(runs[3])
    curve = [round(100 * e.value, 3) for _, e in record.curve("joint")]
    panels = data_of(page)["curves"]
    titles = [text for _, text in page.find("figcaption")]
    both = "scale 1 = 8/255 · 2.0 cm"
    singles = ["Only rgb scale 1 = 8/255", "Only skeleton scale 1 = 2.0 cm"]
    assert titles[:4] == [*singles, f"Any one modality {both}", f"All at once {both}"]
    assert titles[-1].startswith("amr-adversarial")
    assert len(titles) == len(panels["condition"]) + len(panels["model"])
    joint = panels["condition"][3]
    line = next(t for t in joint["data"] if t.get("name") == "amr-adversarial")
    assert line["y"] == curve
    row = f"all at once amr-adversarial {' '.join(f'{y:.1f}' for y in curve)}"
    shown = [text for _, text in page.find("tr")]
    assert row.replace(" ", "") in [r.replace(" ", "") for r in shown]


def test_weights_stand_beside_contribution_and_reliance(page: Page) -> None:
    cards = {text.split(" ")[0]: text for _, text in page.find("article", class_="card")}
    assert all(word in cards["amr-adversarial"] for word in ("Weight", "Contribution", "Reliance", "Balance"))
    assert "Weight" not in cards["concat-standard"]
    assert "Weights alone do not say where a model looks" in page.text("influence")


def test_the_page_is_whole_and_lets_nothing_else_run(page: Page) -> None:
    policy = next(a["content"] or "" for a, _ in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    for attrs, _ in [*page.find("script"), *page.find("img"), *page.find("link")]:
        assert not (attrs.get("src") or "").strip()
        assert (attrs.get("href") or "data:").startswith("data:")
    scripts = ["".join(t) for tag, attrs, t in page.elements if tag == "script" and "type" not in attrs]
    assert len(scripts) == 5
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_the_same_records_give_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    one = report(runs, tmp_path / "one.html")
    two = report([Record.load(r) for r in runs], str(tmp_path / "two.html"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size < 12_000_000
    assert one.read_text(encoding="utf-8").count("plotly.js v") == 1


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}"


def test_hostile_names_are_text(tmp_path: Path) -> None:
    flag = {"name": HOSTILE, "modality": HOSTILE, "detail": HOSTILE}
    run = make(tmp_path / "r", f"{HOSTILE} </script><!--", classes=(HOSTILE, "</script>", "b"), flags=(flag,))
    meta = json.loads((run / "record.json").read_text())
    meta["recipe"] = {HOSTILE: [HOSTILE, "</pre>"]}
    meta["environment"]["platform"] = HOSTILE
    (run / "record.json").write_text(json.dumps(meta))
    path = report([run], tmp_path / "p.html", title=HOSTILE)
    page = parse(path)
    assert page.find("h1")[0][1] == " ".join(HOSTILE.split())
    assert len(page.find("script")) == 6
    assert not page.find("img")
    assert not [1 for _, attrs, _ in page.elements if "onerror" in attrs]
    assert data_of(page)["reel"]["models"][0].startswith(HOSTILE)
    assert "49" not in page.find("h1")[0][1]
    hovers = json.dumps(data_of(page)["curves"])
    assert "<script" not in hovers  # plotly reads tags in text
    assert HOSTILE in page.find("pre")[0][1].replace('\\"', '"')


@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        ({"clips": 0}, ["No doubts were raised"], ['id="clips"', 'id="viewer"']),
        ({"objective": None}, ["Training not recorded", "the model came from elsewhere"], []),
        ({"groups": False}, ["share right"], []),
        ({"complete": False}, ["This evaluation is not complete.", "Not measured: all at once."], ["<b>Avg"]),
        (
            {"multi_label": True},
            ["GAP@20 of 120 samples", "The same by Hit@1", "The same by mean average precision"],
            ["Share right ("],
        ),
        ({"modalities": (RGB, SKELETON, INERTIAL)}, ["all 3 attacked", "up to 0.1 g on every value"], []),
        ({"modalities": (DEPTH, SKELETON)}, ["up to 40 mm on every pixel of depth"], []),
        ({"modalities": (SKELETON,)}, ["skeleton attacked <strong"], ["any one modality attacked <strong"]),
        ({"budgets": {"rgb": Linf(0.0), "skeleton": Linf(0.02)}}, ["The attacker may use up to 2.0 cm"], []),
        ({"samples": 12, "classes": ("a", "b")}, ["12 samples"], []),
    ],
)
def test_records_that_lack_parts(tmp_path: Path, options: dict[str, Any], there: list[str], absent: list[str]) -> None:
    path = report([make(tmp_path / "r", "mine", **options)], tmp_path / "p.html")
    parse(path)
    html = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
    for words in there:
        assert words in html or words.lower() in html.lower(), words
    for words in absent:
        assert words not in html, words


def test_a_record_without_checks_is_not_called_clean(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    meta = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(meta | {"checks": {}}))
    assert "nothing vouches for these figures" in parse(report([run], tmp_path / "p.html")).text("doubts")


def test_records_that_cannot_be_compared_say_so(tmp_path: Path) -> None:
    one = make(tmp_path / "a", "a")
    two = make(tmp_path / "b", "b", budgets={"rgb": Linf(4 / 255, bounds=(0, 1)), "skeleton": Linf(0.02)}, samples=150)
    said = parse(report([one, two], tmp_path / "p.html")).text("doubts")
    assert "b was attacked with other budgets than a." in said
    assert "b was evaluated on other samples than a." in said


def test_a_model_that_met_fewer_attacks_cannot_hold_best(tmp_path: Path) -> None:
    runs = [
        make(tmp_path / "a", "skeleton", accuracy=(0.99, 3.0), modalities=(SKELETON,)),
        make(tmp_path / "b", "concat-standard", accuracy=(0.8, 0.1)),
    ]
    easy, hard = (Record.load(r) for r in runs)
    assert easy.average().value > hard.average().value
    page = parse(report(runs, tmp_path / "p.html"))
    assert page.find("p", class_="lede")[0][1].startswith("concat-standard holds best")
    assert "skeleton met fewer attacks than the others: no RI" in page.text("doubts")


def test_the_lead_over_the_next_best_is_a_paired_difference(page: Page, runs: list[Path]) -> None:
    best, second = Record.load(runs[3]), Record.load(runs[2])
    d = paired_difference(best, second, "joint").scaled(100)
    said = page.find("span", class_="lead")[0][1]
    assert "concat-adversarial" in said
    assert f"{d.value:+.1f}".replace("-", "\N{MINUS SIGN}").lstrip("+") in said
    assert ("no difference" in said) == (d.low <= 0 <= d.high)


def test_relative_improvement_is_that_of_the_comparison(page: Page, runs: list[Path]) -> None:
    ri = relative_improvement(Record.load(runs[3]), Record.load(runs[1]))
    assert f"{ri.value:+.1f}" in page.find("table", class_="summary")[0][1]


def test_one_record_alone_is_taken_as_it_is(runs: list[Path], tmp_path: Path) -> None:
    listed = report([runs[0]], tmp_path / "listed.html").read_bytes()
    for one in (str(runs[0]), runs[0]):
        assert report(one, tmp_path / "alone.html").read_bytes() == listed
    record = Record.load(runs[0])
    both = [report(r, tmp_path / "alone.html").read_bytes() for r in (record, [record])]
    assert both[0] == both[1]


def test_two_records_of_one_name_stay_apart(tmp_path: Path) -> None:
    runs = [make(tmp_path / n, "amr", seed=i) for i, n in enumerate("ab")]
    assert data_of(parse(report(runs, tmp_path / "p.html")))["reel"]["models"] == ["amr", "amr (2)"]


@pytest.mark.parametrize("title", [None, "Mine"])
def test_the_title(tmp_path: Path, title: str | None) -> None:
    page = parse(report([make(tmp_path / "r", "amr")], tmp_path / "deep" / "p.html", title=title))
    assert page.find("h1")[0][1] == (title or "amr")


def test_what_cannot_be_reported_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", "a"), make(tmp_path / "b", "b", classes=("x", "y"))
    out = tmp_path / "p.html"
    for records, options, error in [
        ([], {}, "at least one record"),
        ([a, b], {}, "another task or other classes"),
        ([a], {"reference": "nobody"}, "no record is named 'nobody'"),
    ]:
        with pytest.raises(InputError, match=error):
            report(records, out, **options)
    with pytest.raises(RunError):
        report([tmp_path / "nowhere"], out)
    assert not out.exists()


def test_nothing_is_said_to_be_attacked_where_there_are_no_budgets(tmp_path: Path) -> None:
    run = make(tmp_path / "r", "mine", modalities=(SKELETON,), budgets={"skeleton": Linf(0.0)})
    html = report([run], tmp_path / "p.html").read_text(encoding="utf-8")
    assert "all 0 attacked" not in html


def test_aligned_frames_that_differ_are_said(tmp_path: Path) -> None:
    runs = [make(tmp_path / n, n) for n in "abc"]
    for run, k in zip(runs, (2, 2, 4), strict=True):
        meta = json.loads((run / "record.json").read_text())
        meta["threat"]["frames"] = {"k": k, "axes": {"rgb": 2, "skeleton": 2}, "steps": None}
        (run / "record.json").write_text(json.dumps(meta))
    said = parse(report(runs, tmp_path / "p.html")).text("doubts")
    assert "c was attacked with other budgets than a." in said
    assert "b was attacked" not in said
    lone = make(tmp_path / "d", "d", modalities=(RGB,))
    meta = json.loads((lone / "record.json").read_text())
    meta["threat"]["frames"] = {"k": 2, "axes": {"rgb": 2}, "steps": None}
    (lone / "record.json").write_text(json.dumps(meta))
    assert "other budgets" not in parse(report([runs[0], lone], tmp_path / "q.html")).text("doubts")
