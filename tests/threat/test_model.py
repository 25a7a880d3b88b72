"""Threat models: which modalities, how many at once."""

from __future__ import annotations

import pytest
import torch

import crossguard as cg

X = {"rgb": torch.rand(4, 3), "skeleton": torch.randn(4, 5), "audio": torch.randn(4, 2)}
THREAT = cg.ThreatModel(rgb=cg.Linf(0.1, bounds=(0, 1)), skeleton=cg.L2(0.2), audio=cg.Linf(0.0))


def test_a_zero_budget_is_no_budget() -> None:
    assert THREAT.names == ("rgb", "skeleton")
    assert THREAT.scaled(0).subsets() == []


def test_names_that_are_no_identifiers() -> None:
    assert cg.ThreatModel({"audio/mel": cg.Linf(0.1)}).names == ("audio/mel",)


def test_subsets_follow_at_most() -> None:
    three = cg.ThreatModel(a=cg.Linf(1), b=cg.Linf(1), c=cg.Linf(1))
    assert [t.names for t in three.subsets()] == [("a", "b", "c")]
    pairs = cg.ThreatModel(three.budgets, at_most=2).subsets()
    assert [t.names for t in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    with pytest.raises(cg.ThreatError, match="at_most"):
        cg.ThreatModel(at_most=0)


def test_fewer_modalities_keep_the_cap_where_it_still_says_something() -> None:
    three = cg.ThreatModel(a=cg.Linf(1), b=cg.Linf(1), c=cg.Linf(1), off=cg.Linf(0), at_most=2)
    assert three.only("a", "b", "c").at_most == 2
    assert three.only(*three.declared) == three
    assert three.only("a", "b").at_most is None
    assert three.only("a", "b", "off").at_most is None, "what may not change is not counted"
    assert [t.at_most for t in three.subsets()] == [None] * 3
    assert cg.ThreatModel(three.budgets, at_most=1).only("b", "c").at_most == 1


def test_contains_sees_every_breach() -> None:
    clean = {k: v.clone() for k, v in X.items()}
    assert THREAT.contains(clean, X).all()
    for name, row, size in (("rgb", 0, 0.5), ("skeleton", 1, 0.3), ("audio", 2, 1e-3)):
        moved = {**clean, name: clean[name].clone()}
        moved[name][row, 0] += size
        assert THREAT.contains(moved, X).tolist() == [i != row for i in range(4)]
    single = cg.ThreatModel(THREAT.budgets, at_most=1)
    both = {k: v.clone() for k, v in X.items()}
    both["skeleton"][3, 0] += 0.01
    both["rgb"][3, 0] = both["rgb"][3, 0] * 0.999 + 0.0005
    assert THREAT.contains(both, X).all()
    assert single.contains(both, X).tolist() == [True, True, True, False]


@pytest.mark.parametrize("threat", [THREAT, cg.ThreatModel(THREAT.budgets, at_most=1)])
def test_round_trip(threat: cg.ThreatModel) -> None:
    assert cg.ThreatModel.from_dict(threat.to_dict()) == threat


def test_errors_name_what_is_missing() -> None:
    with pytest.raises(cg.ThreatError, match="'depth'"):
        cg.ThreatModel(depth=cg.Linf(1)).check(X)
    with pytest.raises(cg.ThreatError, match="'depth'"):
        THREAT.only("depth")
    with pytest.raises(cg.ThreatError, match="rgb"):
        cg.ThreatModel(rgb=0.1)  # type: ignore[arg-type]
    with pytest.raises(cg.ThreatError, match="norm"):
        cg.ThreatModel.from_dict({"budgets": {"a": {"norm": "linff", "eps": 1}}, "at_most": None})
