"""Tables against the same figures worked out by hand from the Records."""

from __future__ import annotations

import csv
import dataclasses
import html
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import crossguard as cg
from crossguard.recipe.loading import dump, read_recipe
from crossguard.study import EXPORTS, Results, Run, Study, export, page, pooled, read_study, repeated, results
from tests.report.synthetic import RGB, make
from tests.study.planted import folder, plant, planted

FOLDS = "fold: {option: data.seed, values: [1, 2]}\nseeds: [0, 1]\n"


def records(plan: Study, name: str) -> list[cg.Record]:
    return [cg.Record.load(run.folder) for run in plan.runs if run.recipe.name == name]


def test_every_figure_is_the_mean_over_seeds(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    found = results(plan)
    assert found.reference == "concat-standard"
    assert not found.notes
    base = records(plan, "concat-standard")
    for row in found.rows:
        mine = records(plan, row.name)
        for c in base[0].conditions:
            estimate = row.conditions[c]["accuracy"]
            assert estimate.value == pytest.approx(np.mean([r.right(c).mean() for r in mine]))
            assert estimate.low <= estimate.value <= estimate.high
        averages = [r.average().value for r in mine]
        assert row.average.value == pytest.approx(np.mean(averages))
        assert row.balance["gap"].value == pytest.approx(np.mean([r.balance()["gap"].value for r in mine]))
        assert row.balance["ratio"].value == pytest.approx(np.mean([r.balance()["ratio"].value for r in mine]))
        for m in ("rgb", "skeleton"):
            lost = np.mean([r.reliance()[m].value for r in mine])
            assert row.reliance[m].value == pytest.approx(lost)
        assert row.prices["seconds"] == pytest.approx(np.mean([r.meta["training"]["seconds"] for r in mine]))
        if row.name == "concat-standard":
            assert row.relative_improvement is None
            continue
        clean = np.mean([r.right("clean").mean() for r in mine]) - np.mean([r.right("clean").mean() for r in base])
        gain = 100 * (clean + np.mean(averages) - np.mean([r.average().value for r in base]))
        assert row.relative_improvement is not None
        assert row.relative_improvement.value == pytest.approx(gain)


def test_differences_are_paired_by_sample_and_seed(tmp_path: Path) -> None:
    plan = planted(tmp_path, "pairs: [[amr-adversarial, concat-adversarial]]")
    found = results(plan)
    a, b = records(plan, "amr-adversarial"), records(plan, "concat-adversarial")
    difference = found.against("concat-adversarial")["amr-adversarial"]["joint"]
    delta = np.stack([x.right("joint").astype(float) - y.right("joint") for x, y in zip(a, b, strict=True)])
    assert difference.estimate.value == pytest.approx(delta.mean())
    assert difference.smallest_shown > 0
    against = found.against("concat-standard")
    assert set(against) == {"amr-adversarial", "concat-adversarial"}
    assert against["amr-adversarial"]["joint"].shown, "0.6 against 0.2 of the budget"
    assert not against["concat-adversarial"]["clean"].shown


def test_samples_in_another_order_change_nothing(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    before = results(plan).to_dict()
    path = plan.runs[1].folder / "samples.npz"
    with np.load(path) as file:
        samples = {name: x[::-1] for name, x in file.items()}
    np.savez_compressed(path, **samples)
    assert results(plan).to_dict() == before


def test_folds_are_pooled_before_seeds_are_compared(tmp_path: Path) -> None:
    plan = planted(tmp_path, FOLDS, samples=40)
    found = results(plan)
    assert found.folds == ("1", "2")
    for row in found.rows:
        assert (row.samples, row.seeds, row.runs) == (80, (0, 1), 2)
        mine = records(plan, row.name)
        assert row.conditions["joint"]["accuracy"].value == pytest.approx(
            np.mean([r.right("joint").mean() for r in mine])
        )


def with_checks(record: cg.Record, fold: int, **checks: dict[str, object]) -> cg.Record:
    meta = {**record.meta, "checks": {name.replace("__", "/"): c for name, c in checks.items()}}
    samples = {**record.samples, "ids": np.array([f"{fold}/{i}" for i in record.samples["ids"]])}
    return cg.Record(meta, samples)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_worst_check_of_any_fold_is_kept(tmp_path: Path, order: tuple[int, ...]) -> None:
    one = cg.Record.load(make(tmp_path / "one"))
    said: list[dict[str, dict[str, object]]] = [
        {
            "more_steps__joint": {"passed": False, "share": 0.25, "newly_fooled": 5, "withstood": 20, "samples": 40},
            "more_steps__only:rgb": {"passed": True, "share": 0, "newly_fooled": 0, "withstood": 9, "samples": 40},
            "iterative__joint": {"passed": True, "share": -0.25, "fooled": 30, "fooled_by_one_step": 20, "samples": 40},
            "noise": {"passed": True, "share": 0, "won": 0, "samples": 100},
        },
        {
            "more_steps__joint": {"passed": False, "share": 0.45, "newly_fooled": 9, "withstood": 20, "samples": 40},
            "more_steps__only:rgb": {"passed": True, "share": 0, "newly_fooled": 0, "withstood": 4, "samples": 40},
            "iterative__joint": {
                "passed": True,
                "share": -0.025,
                "fooled": 21,
                "fooled_by_one_step": 20,
                "samples": 40,
            },
            "noise": {"passed": False, "share": 0.03, "won": 3, "samples": 100},
            "larger_budget__joint": {
                "passed": False,
                "share": 0.25,
                "fooled": 30,
                "fooled_at_twice": 20,
                "samples": 40,
            },
        },
        {
            "more_steps__joint": {"passed": True, "share": 1, "newly_fooled": 1, "withstood": 1, "samples": 40},
            "more_steps__only:rgb": {"passed": True, "share": 0, "newly_fooled": 0, "withstood": 0, "samples": 40},
            "iterative__joint": {
                "passed": True,
                "share": -0.375,
                "fooled": 35,
                "fooled_by_one_step": 20,
                "samples": 40,
            },
            "larger_budget__joint": {
                "passed": False,
                "share": 0.075,
                "fooled": 30,
                "fooled_at_twice": 27,
                "samples": 40,
            },
            "failure__silent_success__joint": {"passed": False, "share": 0.0666667, "affected": 2, "samples": 30},
        },
    ]
    found = pooled([with_checks(one, i, **said[i]) for i in order]).meta["checks"]
    assert found["more_steps/joint"]["newly_fooled"] == 9, "of the failed ones the worst"
    assert found["more_steps/only:rgb"]["withstood"] == 4, "of equal ones the least looked at"
    assert found["iterative/joint"]["fooled"] == 21
    assert found["noise"]["won"] == 3
    assert found["larger_budget/joint"]["fooled_at_twice"] == 20
    assert found["failure/silent_success/joint"]["passed"] is False


def test_folds_that_share_a_sample_are_refused(tmp_path: Path) -> None:
    both = [cg.Record.load(make(tmp_path / str(i), seed=i)) for i in range(2)]
    with pytest.raises(cg.InputError, match="test the same sample 'clip-000'"):
        pooled(both)


def holds(run: Run, content: str, day: int, order: str = "o") -> None:
    """Let a run have tested samples that hold this, on this day."""
    path = run.folder / "record.json"
    meta = json.loads(path.read_text())
    meta |= {"data": {"order": order, "content": content}, "created": f"2026-01-{day:02d}T00:00:00+00:00"}
    path.write_text(json.dumps(meta))


@pytest.mark.parametrize("study", ["seeds: [0, 1]\n", FOLDS])
def test_runs_on_data_that_have_changed_since_are_named(tmp_path: Path, study: str) -> None:
    plan = planted(tmp_path, study, samples=40)
    for run in plan.runs:
        holds(run, f"of fold {run.fold}", day=2)
    assert not results(plan).notes, "folds hold what they hold"
    holds(plan.runs[-1], "exported anew", day=3)
    fold = plan.runs[-1].fold
    with pytest.raises(cg.RunError, match="the data have changed between runs") as error:
        results(plan)
    first, *lines = str(error.value).splitlines()
    assert f"{len(lines)} of {len(plan.runs)} were tested" in first
    assert "remove these run folders" in first
    older = [run for run in plan.runs[:-1] if run.fold == fold]
    assert lines == [f"  {run.folder}: contents of fold {fold}, later exported anew" for run in older]


def test_other_data_other_batches_and_older_records_hold_other_contents_rightly(tmp_path: Path) -> None:
    recipe = folder(tmp_path, "seeds: [0, 1]\n") / "amr-adversarial.yaml"
    document = read_recipe(recipe)
    recipe.write_text(dump({**document, "data": {"name": "figures", "seed": 5}}))
    plan = read_study(recipe.parent, tmp_path / "out")
    for number, run in enumerate(plan.runs):
        plant(run, number)
        if run.recipe.name == "amr-adversarial":
            holds(run, "of other data", day=3)
        elif run.recipe.name == "concat-adversarial":
            holds(run, "in other batches", day=2, order="p")
        elif run.recipe.seed:
            holds(run, "it", day=2)
    assert not results(plan).notes


def test_seeds_tested_on_other_samples_are_refused(tmp_path: Path) -> None:
    both = {i: cg.Record.load(make(tmp_path / str(i), samples=50 + 10 * i)) for i in range(2)}
    with pytest.raises(cg.InputError, match=r"tested on other samples \(50 and 60, 50 of them shared\)"):
        repeated(both)


def test_one_seed_says_what_its_record_says(tmp_path: Path) -> None:
    record = cg.Record.load(make(tmp_path))
    alone = repeated({7: record})
    assert alone.average() == record.average()
    assert alone.balance() == record.balance()
    assert alone.reliance() == record.reliance()
    assert alone.summary()["joint"]["accuracy"].value == record.summary()["joint"]["accuracy"].value
    assert [e.value for _, e in alone.curve("any_one")] == [e.value for _, e in record.curve("any_one")]


def test_several_labels_have_the_mean_of_their_metrics(tmp_path: Path) -> None:
    each = {i: cg.Record.load(make(tmp_path / str(i), multi_label=True, samples=30, seed=i)) for i in range(2)}
    found = repeated(each).summary()["joint"]
    for metric in ("hit@1", "map", "gap"):
        own = [r.summary()["joint"][metric].value for r in each.values()]
        assert found[metric].value == pytest.approx(np.mean(own))
        assert found[metric].low <= found[metric].value <= found[metric].high


def test_what_is_missing_is_said_and_its_seed_left_out(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    (gone,) = (r for r in plan.runs if r.recipe.name == "amr-adversarial" and r.recipe.seed == 1)
    shutil.rmtree(gone.folder)
    found = results(plan)
    assert found.notes == ("not finished, 1 of 9 runs: amr-adversarial (seed 1)",)
    row = next(row for row in found.rows if row.name == "amr-adversarial")
    assert row.seeds == (0, 2)
    assert found.against("concat-standard")["amr-adversarial"]["joint"].seeds == (0, 2)


def test_seeds_that_are_missing_are_counted_beside_the_name_in_every_table(tmp_path: Path) -> None:
    plan = planted(tmp_path, "seeds: [0, 1]\n")
    (gone,) = (r for r in plan.runs if r.recipe.name == "amr-adversarial" and r.recipe.seed == 1)
    shutil.rmtree(gone.folder)
    found = results(plan)
    export(found, tmp_path, ("latex", "markdown"))
    said = page(found, tmp_path / "study.html").read_text()
    for text in ((tmp_path / "study.tex").read_text(), (tmp_path / "study.md").read_text(), re.sub("<.*?>", "", said)):
        assert text.count("amr-adversarial (1 of 2 seeds)") == text.count(" of 2 seeds)") == 1


def test_recipes_tested_on_fewer_samples_are_compared_on_those_and_it_is_said(tmp_path: Path) -> None:
    plan = planted(tmp_path, "seeds: [0, 1]\n")
    for number, run in enumerate(plan.runs):
        if run.recipe.name == "amr-adversarial":
            plant(run, number, samples=100)
    found = results(plan)
    assert found.against("concat-standard")["amr-adversarial"]["joint"].estimate.n == 100
    assert found.notes == (
        "amr-adversarial and concat-standard are compared on the 100 samples that they share, of 100 and 120",
    )


def test_a_pair_stands_in_every_export(tmp_path: Path) -> None:
    found = results(planted(tmp_path, "seeds: [0, 1]\npairs: [[amr-adversarial, concat-adversarial]]"))
    export(found, tmp_path, tuple(EXPORTS))
    page(found, tmp_path / "study.html")
    for name in ("study.tex", "study.md", "study.html"):
        assert "minus concat-adversarial" in (tmp_path / name).read_text().lower()
    with (tmp_path / "study.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["reference"] == "concat-adversarial"]
    by = found.against("concat-adversarial")["amr-adversarial"]
    assert {line["condition"]: float(line["difference"]) for line in lines} == {
        c: d.estimate.value for c, d in by.items()
    }
    assert {(line["recipe"], line["metric"], line["value"]) for line in lines} == {("amr-adversarial", "accuracy", "")}


def test_the_page_counts_the_trainings_of_all_folds(tmp_path: Path) -> None:
    plan = planted(tmp_path, FOLDS, samples=20)
    html = page(results(plan), tmp_path / "study.html").read_text()
    assert f"from the Records of {len(plan.runs)} trainings" in html


def test_a_record_of_another_recipe_is_not_of_this_study(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    path = plan.runs[0].folder / "record.json"
    meta = json.loads(path.read_text())
    meta["recipe"] |= {"digest": "0" * 12, "seed": 99}
    path.write_text(json.dumps(meta))
    assert not plan.runs[0].finished
    name, seed = plan.runs[0].recipe.name, plan.runs[0].recipe.seed
    assert results(plan).notes == (f"not finished, 1 of 9 runs: {name} (seed {seed})",)


def test_an_option_that_came_after_a_record_is_its_default_in_it(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    run = plan.runs[0]
    meta = json.loads((run.folder / "record.json").read_text())
    for optimizer, finished in ((None, True), ("sgd", False)):
        train = {key: value for key, value in run.recipe.document["train"].items() if key != "optimizer"}
        train |= {} if optimizer is None else {"optimizer": optimizer}
        older = {**meta["recipe"], "train": train, "digest": "0" * 12}
        (run.folder / "record.json").write_text(json.dumps({**meta, "recipe": older}))
        assert run.finished == finished


def test_what_is_missing_of_many_runs_is_said_in_one_line(tmp_path: Path) -> None:
    plan = planted(tmp_path, FOLDS)
    for run in plan.runs:
        if run.recipe.name == "concat-standard" or (run.recipe.name == "amr-adversarial" and run.fold == "2"):
            shutil.rmtree(run.folder)
    with pytest.raises(cg.RunError, match="no recipe has a finished seed"):
        results(dataclasses.replace(plan, runs=tuple(r for r in plan.runs if r.recipe.name == "concat-standard")))
    (note,) = (note for note in results(plan).notes if note.startswith("not finished"))
    assert note == "not finished, 6 of 12 runs: amr-adversarial (seeds 0, 1, 2 folds), concat-standard"


def test_without_any_record_there_is_nothing_to_tabulate(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    shutil.rmtree(plan.out)
    with pytest.raises(cg.RunError, match="no recipe has a finished seed"):
        results(plan)


def test_other_budgets_leave_clean_and_missing_alone_to_compare(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    for number, run in enumerate(plan.runs):
        if run.recipe.name == "amr-adversarial":
            plant(run, number, budgets={"rgb": cg.Linf(1 / 255, bounds=(0, 1)), "skeleton": cg.Linf(0.01)})
    found = results(plan)
    assert set(found.against("concat-standard")["amr-adversarial"]) == {"clean", "missing:rgb", "missing:skeleton"}
    row = next(row for row in found.rows if row.name == "amr-adversarial")
    assert row.relative_improvement is None
    assert any("other budgets" in note for note in found.notes)


def test_one_attacked_modality_has_no_balance(tmp_path: Path) -> None:
    found = results(planted(tmp_path, modalities=(RGB,)))
    assert all(row.balance == {} for row in found.rows)
    assert page(found, tmp_path / "study.html").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    tmp_path = tmp_path_factory.mktemp("exported")
    flags = ({"name": "attack_not_converged", "modality": "rgb", "detail": "more steps changed 9 %"},)
    found = results(planted(tmp_path, "title: A & B_1 <i>50 %</i>", flags=flags))
    export(found, tmp_path, tuple(EXPORTS))
    page(found, tmp_path / "study.html", {"Seed 0": "seed-0.html"})
    return found, tmp_path


def test_csv_has_every_figure(exported: tuple[Results, Path]) -> None:
    found, place = exported
    with (place / "study.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    by = {(line["recipe"], line["condition"], line["metric"]): line for line in lines}
    assert len(by) == len(lines), "a figure twice"
    for row in found.rows:
        for c, metrics in row.conditions.items():
            line = by[row.name, c, "accuracy"]
            values = [float(line[k]) for k in ("value", "low", "high")]
            assert values == [metrics["accuracy"].value, metrics["accuracy"].low, metrics["accuracy"].high]
        for price in ("cpu_seconds", "seconds", "forwards", "backwards", "peak_memory_mb", "parameters"):
            assert float(by[row.name, "", price]["value"]) == row.prices[price]
    d = found.against("concat-standard")["amr-adversarial"]["joint"]
    line = by["amr-adversarial", "joint", "accuracy"]
    assert (line["reference"], float(line["difference"])) == ("concat-standard", d.estimate.value)
    assert float(line["smallest_shown"]) == d.smallest_shown


def test_json_is_the_whole(exported: tuple[Results, Path]) -> None:
    found, place = exported
    assert json.loads((place / "study.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert found.to_dict()["rows"][0]["conditions"]["clean"]["accuracy"]["n"] == 120


def test_latex_is_well_formed_and_escaped(exported: tuple[Results, Path]) -> None:
    found, place = exported
    source = (place / "study.tex").read_text()
    assert source.count(r"\begin{tabular}") == source.count(r"\end{tabular}") == 3
    for body in re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}(.*?)\\end", source, re.DOTALL):
        for line in (line for line in body[1].splitlines() if line.endswith(r"\\")):
            assert len(re.findall(r"(?<!\\)&", line)) == len(body[0]) - 1
            assert line.count("{") == line.count("}")
            assert line.count("$") % 2 == 0
            assert not re.search(r"(?<!\\)[%#_]", line)
    joint = found.rows[0].conditions["joint"]["accuracy"]
    assert f"{100 * joint.value:.1f} {{\\scriptsize [{100 * joint.low:.1f}, {100 * joint.high:.1f}]}}" in source


def test_markdown_is_well_formed(exported: tuple[Results, Path]) -> None:
    found, place = exported
    lines = (place / "study.md").read_text().splitlines()
    assert sum(line.startswith("| amr-adversarial") for line in lines) == 4  # accuracies, differences, balance, price
    for above, line in itertools.pairwise(lines):
        if line.startswith("|") and above.startswith("|"):
            bars = [len(re.findall(r"(?<!\\)\|", row)) for row in (above, line)]
            assert bars[0] == bars[1]
    joint = found.rows[0].conditions["joint"]["accuracy"]
    assert f"| {100 * joint.value:.1f} [{100 * joint.low:.0f}, {100 * joint.high:.0f}] |" in "\n".join(lines)
    d = found.against("concat-standard")["amr-adversarial"]["joint"]
    assert d.shown
    assert f"**{100 * d.estimate.value:+.1f}**" in "\n".join(lines)
    assert "- amr-adversarial: attack_not_converged (rgb), in 3 of 3 runs" in lines


def test_prices_stand_in_the_page_and_in_latex(exported: tuple[Results, Path]) -> None:
    found, place = exported
    tex, html = (place / "study.tex").read_text(), (place / "study.html").read_text()
    head = next(line for line in tex.splitlines() if "CPU s" in line)
    assert head.endswith(r"latency, ms & latency, times concat-standard \\")
    amr = next(row for row in found.rows if row.name == "amr-adversarial")
    assert amr.prices["cpu_seconds"] == 120
    line = next(line for line in tex.split("CPU s")[1].splitlines() if line.startswith("amr-adversarial"))
    cells = [cell.strip(" \\") for cell in line.split("&")]
    assert cells[1:] == ["120", "141", r"12\,k", r"12\,k", "512", r"412\,k", "1.8", "1.00"]
    assert "CPU time" in html
    assert "<td>2.0 min</td>" in html.replace("120 s", "2.0 min")


def test_an_unknown_export_is_refused_before_anything_is_written(
    exported: tuple[Results, Path], tmp_path: Path
) -> None:
    with pytest.raises(cg.InputError, match="cannot export 'xlsx'; expected some of csv, json, latex, markdown"):
        export(exported[0], tmp_path, ["csv", "xlsx"])
    assert not list(tmp_path.iterdir())


def test_the_page_says_it_all_and_escapes(exported: tuple[Results, Path]) -> None:
    found, place = exported
    text = (place / "study.html").read_text()
    assert "A &amp; B_1 &lt;i&gt;50 %&lt;/i&gt;" in text
    assert "<i>50" not in text
    for row in found.rows:
        assert f"{100 * row.conditions['joint']['accuracy'].value:.1f}" in text
    kept = [row.conditions["joint"]["accuracy"].value for row in found.ranked]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]
    places = [text.index(f'<th scope="row">{html.escape(row.name)}') for row in found.ranked]
    assert places == sorted(places), "what keeps most stands first"
    assert re.search(rf"keeps most: {100 * kept[0]:.1f} \(", text)
    assert "attack_not_converged (rgb), in 3 of 3 seeds" in text
    assert 'href="seed-0.html"' in text
    assert "<script" not in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")


def checked(plan: Study, recipe: str, samples: int, withstood: int | None = None, nothing: bool = False) -> None:
    """Let the runs of a recipe have looked at so many samples, the last of them at a survivor less."""
    runs = [run for run in plan.runs if run.recipe.name == recipe]
    for run in runs:
        path = run.folder / "record.json"
        meta = json.loads(path.read_text())
        known = {} if withstood is None else {"withstood": withstood - (run is runs[-1])}
        check = {"modality": None, "passed": True, "samples": samples, **known}
        meta["checks"] = {"more_steps/only:rgb": check, "more_steps/joint": check}
        path.write_text(json.dumps(meta))
        if nothing:
            with np.load(run.folder / "samples.npz") as file:
                kept = dict(file)
            kept |= {f"margin/{c}": np.full(len(kept["ids"]), -1.0) for c in ("only:rgb", "joint")}
            np.savez_compressed(run.folder / "samples.npz", **kept)


def unseen(found: Results, tmp_path: Path) -> str:
    (written,) = (p for p in export(found, tmp_path, ("markdown",)) if p.suffix == ".md")
    return next(line for line in written.read_text().splitlines() if line.startswith("Whether attacks had converged"))


def test_how_much_of_what_withstood_a_check_leaves_unseen_is_said(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    checked(plan, "concat-standard", 16, 2)
    checked(plan, "concat-adversarial", 60, 17)
    checked(plan, "amr-adversarial", 60)
    found = results(plan)
    assert {row.name: row.checked for row in found.rows} == {
        "concat-standard": 16, "concat-adversarial": 60, "amr-adversarial": 60
    }  # fmt: skip
    assert {row.name: row.unseen for row in found.rows} == {
        "concat-standard": pytest.approx(0.95),
        "concat-adversarial": pytest.approx(0.2640, abs=1e-3),
        "amr-adversarial": None,
    }
    said = unseen(found, tmp_path)
    assert "on 16 samples of a run or more" in said
    assert "concat-adversarial 26 %" in said
    assert "concat-standard 95 %" in said
    assert "Of amr-adversarial it was not recorded" in said


def test_where_nothing_withstood_nothing_is_unseen(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    for name in ("concat-adversarial", "amr-adversarial"):
        checked(plan, name, 60, 17)
    checked(plan, "concat-standard", 16, 1, nothing=True)
    found = results(plan)
    assert [row.unseen for row in found.rows if row.name == "concat-standard"] == [0.0]
    assert "concat-standard" not in unseen(found, tmp_path)


def test_attention_is_said_by_layer_where_there_are_maps(tmp_path: Path) -> None:
    plan = planted(tmp_path, "seeds: [0, 1]\n")
    runs = [run for run in plan.runs if run.recipe.name == "amr-adversarial"]
    for seed, run in enumerate(runs):
        with np.load(run.folder / "samples.npz") as file:
            samples = dict(file)
        n = len(samples["ids"])
        for layer, value in enumerate((0.25, 0.75)):
            samples[f"attention/entropy/clean/{layer}"] = np.full((n, 4), value + 0.1 * seed, dtype=np.float32)
            samples[f"attention/drift/joint/{layer}"] = np.full((n, 4), 2 * value, dtype=np.float32)
        np.savez_compressed(run.folder / "samples.npz", **samples)
    found = results(plan)
    rows = {row.name: row.attention for row in found.rows}
    assert rows["amr-adversarial"] == {
        "entropy": pytest.approx((0.3, 0.8), abs=1e-6),
        "drift": pytest.approx((0.5, 1.5), abs=1e-6),
    }
    assert rows["concat-standard"] == {}
    export(found, tmp_path, ("csv", "markdown"))
    assert "| amr-adversarial | 0.30 / 0.80 | 0.50 / 1.50 |" in (tmp_path / "study.md").read_text()
    assert "| concat-standard | – | – |" in (tmp_path / "study.md").read_text()
    with (tmp_path / "study.csv").open() as file:
        lines = {(line["recipe"], line["metric"]): line["value"] for line in csv.DictReader(file)}
    assert float(lines["amr-adversarial", "attention_drift/1"]) == pytest.approx(1.5)
    html = page(found, tmp_path / "study.html").read_text()
    assert "<td>0.30 / 0.80</td><td>0.50 / 1.50</td>" in html
    without = results(planted(tmp_path / "other"))
    assert 'id="attention"' not in page(without, tmp_path / "other.html").read_text()


def test_absent_samples_do_not_count_in_what_is_said_of_attention(tmp_path: Path) -> None:
    plan = planted(tmp_path)
    for run in [run for run in plan.runs if run.recipe.name == "amr-adversarial"]:
        with np.load(run.folder / "samples.npz") as file:
            samples = dict(file)
        n = len(samples["ids"])
        half = np.where(np.arange(n)[:, None] < n // 2, 0.5, np.nan).repeat(4, axis=1).astype(np.float32)
        samples["attention/entropy/clean/0"] = half
        samples["attention/entropy/clean/1"] = np.full_like(half, np.nan)
        np.savez_compressed(run.folder / "samples.npz", **samples)
    found = results(plan)
    (entropy,) = [row.attention["entropy"] for row in found.rows if row.name == "amr-adversarial"]
    assert entropy == pytest.approx((0.5, np.nan), nan_ok=True)
    export(found, tmp_path, ("markdown",))
    assert "| amr-adversarial | 0.50 / \N{EN DASH} |" in (tmp_path / "study.md").read_text()
    assert "<td>0.50 / \N{EN DASH}</td>" in page(found, tmp_path / "study.html").read_text()


@pytest.mark.parametrize(("mine", "theirs"), [({0}, {1}), ({0}, {1, 2}), ({0, 1}, {2, 3, 4})])
def test_without_a_common_seed_there_is_no_relative_improvement(
    tmp_path: Path, mine: set[int], theirs: set[int]
) -> None:
    plan = read_study(folder(tmp_path, f"seeds: {sorted(mine | theirs)}\n"), tmp_path / "out")
    for number, run in enumerate(plan.runs):
        if run.recipe.seed in (theirs if run.recipe.name == "concat-standard" else mine):
            plant(run, number)
    found = results(plan)
    assert [row.relative_improvement for row in found.rows] == [None] * 3
    assert not found.differences
    assert any("no finished seed in common" in note for note in found.notes)
