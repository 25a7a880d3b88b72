"""What is said before a run starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import crossguard as cg
from crossguard.core import InputError
from crossguard.data.base import Splits, TensorDataset
from crossguard.training.checks import check_fit, readable
from crossguard.training.validation import drawn
from tests.training.toys import TwoBranch, dataset


def several(part: TensorDataset, labelled: bool, sparse: bool) -> TensorDataset:
    dense = torch.nn.functional.one_hot(part.targets, 2).float() * labelled
    return replace(part, targets=dense.to_sparse() if sparse else dense)


def fit(validation: TensorDataset, **options: int) -> None:
    train, test = (several(dataset(name, 20, seed), True, False) for seed, name in enumerate(("train", "test")))
    together = Splits(train, validation, test)
    check_fit(TwoBranch(), together, cg.MultiLabel(2), None, device=torch.device("cpu"), batch_size=10, **options)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_ranking_cannot_be_validated_without_any_label(sparse: bool) -> None:
    validation = dataset("validation", 23, seed=1)
    fit(several(validation, True, sparse))
    with pytest.raises(InputError, match="none of 23 validation samples has a label"):
        fit(several(validation, False, sparse))


@pytest.mark.parametrize("sparse", [False, True])
def test_nor_can_one_of_which_no_sample_that_is_drawn_has_a_label(sparse: bool) -> None:
    whole = several(dataset("validation", 23, seed=1), True, False)
    dense = whole.targets.clone()
    dense[drawn(whole, 5)] = 0
    part = replace(whole, targets=dense.to_sparse() if sparse else dense)
    fit(part)
    fit(part, validation_samples=23)
    fit(part, validation_samples=6)
    with pytest.raises(InputError, match=r"none of 5 validation samples .*of 23.*validation_samples"):
        fit(part, validation_samples=5)


def test_what_a_model_reads_keeps_the_frames_that_must_agree() -> None:
    threat = cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.2), frames=cg.AlignedFrames(2, {"a": 1, "b": 1}), at_most=1)
    model = TwoBranch(("a",))
    kept = readable(model, threat)
    assert kept is not None
    assert kept.names == ("a",)
    assert kept.frames == cg.AlignedFrames(2, {"a": 1})
    assert kept.at_most is None
    both = readable(TwoBranch(), threat)
    assert both is not None
    assert both.to_dict() == threat.to_dict()
