"""The names of conditions and their order."""

from __future__ import annotations

from crossguard.evaluation.conditions import in_order, names


def test_conditions_of_models_with_other_modalities_stand_in_the_order_of_reading() -> None:
    found = in_order([*names(["b"], ["b"]), *names(["a", "b"], ["a", "b"])])
    assert found == ["clean", "missing:b", "missing:a", "noise", "only:b", "only:a", "any_one", "joint"]
    assert in_order(names(["a"], ["a"])) == names(["a"], ["a"])
