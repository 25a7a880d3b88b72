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


def test_what_is_repaired_holds_by_modality_and_between_them() -> None:
    """Taking moments back bends what is left; repairing that may not touch moments that are clean again."""
    generator = torch.Generator().manual_seed(0)
    x = {"pose": torch.randn(8, 12, 4, generator=generator), "rgb": torch.rand(8, 12, 2, generator=generator)}
    threat = cg.ThreatModel(
        pose=cg.Linf(0.5, constraints=(cg.Acceleration(0.05, axis=1),)),
        rgb=cg.L2(1.0, bounds=(0, 1), constraints=(cg.PIXELS8,)),
        frames=cg.AlignedFrames(3, {"pose": 1, "rgb": 1}),
    )
    mask = {"pose": torch.rand(8, 12, generator=generator) > 0.2}
    balls = threat.balls(x, mask)
    found = threat.repair({n: v + torch.randn(v.shape, generator=generator) for n, v in x.items()}, balls)
    assert threat.contains(found, x, mask).all()
    assert all((found[n] != x[n]).flatten(1).any(dim=1).float().mean() > 0.5 for n in x)


def test_single_numbers_are_modalities_too() -> None:
    x = {"age": torch.tensor([20.0, 30.0, 40.0]), "id": torch.arange(3)}
    threat = cg.ThreatModel(age=cg.Linf(1.0))
    threat.check(x)
    assert threat.contains({**x, "age": torch.tensor([21.0, 30.0, 42.0])}, x).tolist() == [True, True, False]
    assert threat.contains({**x, "id": torch.tensor([0, 1, 3])}, x).tolist() == [True, True, False]


def test_bounds_are_checked_under_the_mask() -> None:
    threat = cg.ThreatModel(a=cg.Linf(0.1, bounds=(0.5, 1)))
    x = {"a": torch.tensor([[0.7, 0.0]])}
    threat.check(x, {"a": torch.tensor([[True, False]])})
    with pytest.raises(cg.ThreatError, match="span"):
        threat.check(x, {})
