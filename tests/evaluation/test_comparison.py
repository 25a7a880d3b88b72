"""RI, balance, reliance and paired differences on Records whose outcomes are written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import crossguard as cg
from crossguard.evaluation import Record
from crossguard.evaluation import comparison as compare

THREAT = cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.2)).to_dict()


def record(name: str, right: dict[str, str], ids: str | None = None, groups: int = 1, **meta: object) -> Record:
    """Outcomes as strings of 1 (right) and 0, one a condition."""
    n = len(right["clean"])
    samples: dict[str, np.ndarray] = {
        "ids": np.array(list(ids or "abcdefghijklmnopqrst"[:n])),
        "groups": np.array([f"g{i % groups}" for i in range(n)]),
        "targets": np.arange(n) % 2,
    }
    for condition, outcome in right.items():
        samples[f"margin/{condition}"] = np.array([1.0 if c == "1" else -1.0 for c in outcome], dtype=np.float32)
    for condition in ("only:a", "only:b", "joint"):
        samples[f"broken_at/{condition}"] = np.where(samples[f"margin/{condition}"] > 0, np.inf, 1.0)
    base = {
        "name": name, "format": 1, "conditions": list(right), "task": {"kind": "single_label", "classes": 2},
        "classes": ["x", "y"], "threat": THREAT, "scales": [1.0], "flags": [], "training": None,
        "model": {"parameters": 3}, "latency": {"milliseconds_per_sample": 1.0},
    }  # fmt: skip
    return Record(base | meta, samples)


ONE = {
    "clean": "1111111110", "missing:a": "1111100000", "missing:b": "1111111110", "only:a": "1111110000",
    "only:b": "1110000000", "any_one": "1110000000", "joint": "1100000000",
}  # fmt: skip
TWO = {**ONE, "clean": "1111111100", "only:a": "1111000000", "only:b": "1111000000", "joint": "1000000000"}


def test_average_balance_and_reliance() -> None:
    one = record("one", ONE)
    assert one.average().value == pytest.approx((0.6 + 0.3 + 0.2) / 3)
    assert one.balance()["gap"].value == pytest.approx(0.3)
    assert one.balance()["ratio"].value == pytest.approx(0.5)
    assert one.reliance()["a"].value == pytest.approx(0.4)
    assert one.reliance()["b"].value == 0.0
    assert one.reliance()["b"].low < 0 < one.reliance()["b"].high, "ten samples are not certainty"
    for estimate in (one.average(), *one.balance().values(), *one.reliance().values()):
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == 10


def test_no_interval_of_a_share_leaves_its_range() -> None:
    lost = record("lost", {**ONE, **dict.fromkeys(("only:a", "only:b", "any_one", "joint"), "0000000000")})
    whole = record("whole", dict.fromkeys(ONE, "1111111111"))
    for one in (lost, whole):
        for estimate in (one.average(), *one.balance().values()):
            assert 0 <= estimate.low < estimate.high <= 1, "what nothing varies in is open to one side"
    assert whole.reliance()["a"].low < 0


def test_relative_improvement_is_clean_plus_average_over_the_reference() -> None:
    one, two = record("one", ONE), record("two", TWO)
    expected = 100 * ((0.9 + (0.6 + 0.3 + 0.2) / 3) - (0.8 + (0.4 + 0.4 + 0.1) / 3))
    found = compare.relative_improvement(one, two)
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high
    back = compare.relative_improvement(two, one)
    assert back.value == pytest.approx(-expected)
    assert compare.relative_improvement(one, one).value == 0


def test_differences_are_paired_by_id_and_not_by_place() -> None:
    one = record("one", ONE)
    reversed_ = record("two", {c: o[::-1] for c, o in ONE.items()}, ids="abcdefghij"[::-1])
    reversed_.samples["targets"] = reversed_.samples["targets"][::-1].copy()
    for condition in ONE:
        assert compare.paired_difference(one, reversed_, condition).value == 0
    half = record("half", {c: o[:5] for c, o in TWO.items()})
    found = compare.paired_difference(one, half, "only:b")
    assert (found.value, found.n) == (pytest.approx((3 - 4) / 5), 5)
    assert compare.smallest_shown(one, half, "only:b") > abs(found.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": "klmnopqrst"}, "share no sample"),
        ({"threat": cg.ThreatModel(a=cg.Linf(0.1)).to_dict()}, "other budgets"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(cg.InputError, match=words):
        compare.relative_improvement(record("one", ONE), record("two", TWO, **change))  # pyright: ignore


def test_other_targets_for_the_same_id_are_refused() -> None:
    one, two = record("one", ONE), record("two", TWO)
    two.samples["targets"] = 1 - two.samples["targets"]
    with pytest.raises(cg.InputError, match="other targets"):
        compare.paired_difference(one, two, "clean")


def test_the_table_has_a_row_for_each_record() -> None:
    rows = compare.table([record("one", ONE, groups=3), record("two", TWO, groups=3)])
    assert [r["name"] for r in rows] == ["one", "two"]
    assert rows[0]["relative_improvement"].value == 0
    assert rows[1]["difference"]["clean"].value == pytest.approx(-0.1)
    assert set(rows[1]["conditions"]) == set(ONE)
    assert compare.table([]) == []


def test_a_condition_that_is_not_there_is_named() -> None:
    with pytest.raises(cg.RunError, match="no condition 'only:c'"):
        record("one", ONE).right("only:c")


def test_by_class_and_curve() -> None:
    one = record("one", ONE)
    even, odd = one.by_class("only:a")
    assert (even.value, odd.value, even.n) == (pytest.approx(3 / 5), pytest.approx(3 / 5), 5)
    assert [(s, e.value) for s, e in one.curve("any_one")] == [(0.0, 1.0), (1.0, pytest.approx(0.3))]


def test_a_saved_record_is_the_same(tmp_path: Path) -> None:
    one = record("one", ONE)
    one.save(tmp_path)
    again = Record.load(tmp_path)
    assert again.meta == one.meta
    assert all(np.array_equal(again.samples[k], v) for k, v in one.samples.items())
    assert dict(again.clips) == {}


def test_a_budget_of_what_the_other_has_no_data_of_is_no_obstacle() -> None:
    budgets = THREAT["budgets"]
    more = {**THREAT, "budgets": {**budgets, "c": budgets["a"]}}
    both, three = {"a": {}, "b": {}}, {"a": {}, "b": {}, "c": {}}
    two = record("two", TWO, modalities=both)
    wider = record("wider", ONE, threat=more, modalities=three)
    assert compare.same_budgets(two, wider)
    assert compare.same_budgets(wider, two)
    assert compare.paired_difference(wider, two, "joint").value == pytest.approx(0.1)
    for other in (
        record("it reads c", TWO, modalities=three),
        record("nobody knows", TWO),
        record("another a", TWO, modalities=both, threat={**THREAT, "budgets": {**budgets, "a": {"eps": 9}}}),
        record("one at once", TWO, modalities=both, threat={**THREAT, "at_most": 1}),
    ):
        assert not compare.same_budgets(other, wider), other.name
        assert not compare.same_budgets(wider, other), other.name
    wider.meta["conditions"] = [*ONE, "only:c"]
    with pytest.raises(cg.InputError, match="condition by condition"):
        compare.relative_improvement(wider, two)


def test_records_of_attacks_of_other_strength_are_not_compared() -> None:
    strong, weak = {"steps": 50, "samples": None}, {"steps": 5, "samples": 100}
    a, b = record("a", ONE, protocol=strong), record("b", TWO, protocol=weak)
    for compared in (lambda: compare.relative_improvement(b, a), lambda: compare.paired_difference(b, a, "joint")):
        with pytest.raises(cg.InputError, match="steps"):
            compared()
    assert compare.paired_difference(b, a, "clean").value == pytest.approx(-0.1)
    capped = record("capped", TWO, protocol=strong | {"samples": 100})
    assert compare.relative_improvement(capped, a).n == 10


def ranked(name: str, scores: dict[str, list[list[float]]], ids: str = "abc", **meta: object) -> Record:
    """Three samples of two labels; what a condition's scores come to is worked out by hand below."""
    right = dict.fromkeys(("clean", "missing:a", "missing:b", "only:a", "only:b", "any_one", "joint"), "111")
    found = record(name, right, ids=ids, task={"kind": "multi_label", "classes": 3}, classes=["x", "y", "z"], **meta)
    order = [ids.index(i) for i in "abc"]
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    found.samples["targets"] = truth[np.argsort(order)]
    for c in right:
        found.samples[f"scores/{c}"] = np.array(scores.get(c, scores["clean"]))[np.argsort(order)]
    return found


# One list of all entries, the best first; four labels. Whole: the first four are right. Broken: right at places 2 to 5.
WHOLE = [[0.9, 0.1, 0.2], [0.1, 0.8, 0.2], [0.7, 0.6, 0.2]]
BROKEN = [[0.9, 0.1, 0.95], [0.1, 0.8, 0.2], [0.7, 0.6, 0.2]]
GAP = (1 / 2 + 2 / 3 + 3 / 4 + 4 / 5) / 4


def test_several_labels_are_compared_by_gap_though_hit_1_says_otherwise() -> None:
    one = ranked("one", {"clean": WHOLE, "joint": BROKEN, "only:a": BROKEN})
    assert one.metric == "gap"
    assert next(iter(one.summary()["joint"])) == "gap"
    assert one.summary()["joint"]["gap"].value == pytest.approx(GAP)
    assert one.summary()["joint"]["hit@1"].value == 1.0
    assert one.average().value == pytest.approx((1 + 2 * GAP) / 3)
    assert one.balance()["gap"].value == pytest.approx(1 - GAP)
    assert one.balance()["ratio"].value == pytest.approx(GAP)
    assert one.reliance()["a"].value == pytest.approx(0)


def test_differences_of_gap_are_paired_by_id() -> None:
    one = ranked("one", {"clean": WHOLE})
    two = ranked("two", {"clean": WHOLE, "joint": BROKEN}, ids="cab")
    found = compare.paired_difference(one, two, "joint")
    assert found.value == pytest.approx(1 - GAP)
    assert 0 <= found.low <= found.value <= found.high
    assert compare.paired_difference(one, two, "clean").value == pytest.approx(0)
    assert compare.relative_improvement(one, two).value == pytest.approx(100 * (1 - GAP) / 3)
    assert 0 < compare.smallest_shown(one, two, "joint") < 2


def test_of_samples_that_only_one_record_has_none_counts() -> None:
    one, two = ranked("one", {"clean": WHOLE, "joint": BROKEN}), ranked("two", {"clean": WHOLE}, ids="abc")
    for name, x in one.samples.items():
        one.samples[name] = x[1:]  # without the sample that is broken
    assert compare.paired_difference(one, two, "joint").value == pytest.approx(0)
    assert compare.paired_difference(one, two, "joint").n == 2


def test_records_of_other_stages_are_not_compared_whatever_their_protocols_are_called() -> None:
    names = ("standard", "thorough", "quick")
    plain = {n: cg.Protocol(n, scales=(1.0,)) for n in names}
    found = {
        n: record(n, ONE, protocol=p.to_dict(), stages=[stage.to_dict() for stage in p.stages])
        for n, p in plain.items()
    }
    for n in ("thorough", "quick"):
        with pytest.raises(cg.InputError, match="stages"):
            compare.paired_difference(found["standard"], found[n], "joint")
        # Records of before stages were kept do not say.
        old = record(n, ONE, protocol=plain[n].to_dict())
        assert compare.paired_difference(found["standard"], old, "joint").value == 0
        assert compare.paired_difference(old, found["standard"], "joint").value == 0
    objectives = {n: cg.Protocol(n, objectives=("margin",), steps=5) for n in ("standard", "thorough")}
    one, two = (
        record(n, ONE, protocol=p.to_dict(), stages=[stage.to_dict() for stage in p.stages])
        for n, p in objectives.items()
    )
    assert compare.paired_difference(one, two, "joint").value == 0, "only the name differs"


def test_records_with_and_without_remedies_are_not_compared() -> None:
    none, few, many = (record(str(k), ONE, protocol={"steps": 5, "check_samples": k}) for k in (0, 16, 128))
    old = record("old", ONE, protocol={"steps": 5})
    with pytest.raises(cg.InputError, match="check_samples"):
        compare.paired_difference(none, many, "joint")
    assert compare.paired_difference(few, many, "joint").value == 0
    assert compare.paired_difference(old, many, "joint").value == 0


def drawn(seed: int, shares: tuple[float, ...], n: int = 400) -> Record:
    """Independent outcomes of single attacks, with these shares right."""
    rng = np.random.default_rng(seed)
    right = {"clean": "1" * n} | {
        f"only:{m}": "".join("01"[int(rng.random() < p)] for _ in range(n)) for m, p in zip("ab", shares, strict=True)
    }
    right |= dict.fromkeys(("missing:a", "missing:b", "any_one", "joint"), right["only:a"])
    found = record("drawn", right, ids="".join(chr(0x4E00 + i) for i in range(n)))
    found.samples["groups"] = np.array([""] * n)
    return found


def test_modalities_that_hold_alike_are_balanced() -> None:
    found = [drawn(seed, (0.5, 0.5)).balance() for seed in range(100)]
    assert np.mean([b["gap"].low == 0 for b in found]) >= 0.9
    assert all((b["gap"].low == 0) == (b["ratio"].high == 1) for b in found)
    for b in found:
        for estimate in b.values():
            assert estimate.low <= estimate.value <= estimate.high
    apart = drawn(0, (0.6, 0.3)).balance()
    assert 0.15 < apart["gap"].low < apart["gap"].value
    assert apart["ratio"].high < 0.7
