"""Batches, masks and modalities."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import crossguard as cg
from crossguard.core.batch import Feature, check_finite, check_mask, expand_mask, flat, outside, present, take
from crossguard.models.fusion_model import Partial
from tests.models_for_tests import Linear


def test_masks_spread_over_trailing_axes() -> None:
    x = torch.zeros(2, 3, 4, 5)
    assert expand_mask(torch.ones(2, dtype=torch.bool), x).shape == (2, 1, 1, 1)
    assert expand_mask(torch.ones(2, 1, 4, dtype=torch.bool), x).shape == (2, 1, 4, 1)


@pytest.mark.parametrize(
    "mask",
    [
        {"b": torch.ones(2, dtype=torch.bool)},
        {"a": torch.ones(2)},
        {"a": torch.ones(3, dtype=torch.bool)},
        {"a": torch.ones(1, 3, dtype=torch.bool)},
        {"a": torch.ones(2, 2, dtype=torch.bool)},
        {"a": torch.ones(2, 3, 1, 1, dtype=torch.bool)},
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: dict[str, torch.Tensor]) -> None:
    with pytest.raises(cg.InputError):
        check_mask(mask, {"a": torch.zeros(2, 3, 4)})


def test_presence() -> None:
    mask = {"a": torch.tensor([[True, False], [False, False]])}
    found = present(mask, "a", 2)
    assert found is not None
    assert found.tolist() == [True, False]
    assert present(mask, "b", 2) is None
    assert present(None, "a", 2) is None


def test_non_finite_samples_are_named_by_id() -> None:
    x = torch.zeros(3, 2)
    x[1, 0] = torch.nan
    with pytest.raises(cg.InputError, match="clip-b"):
        check_finite({"a": x}, ["clip-a", "clip-b", "clip-c"])
    with pytest.raises(cg.InputError, match=r"1 of 3 samples \(1\)"):
        check_finite({"a": x[:, 0]})


def test_take_indexes_a_nest() -> None:
    nest = {"f": Feature(torch.arange(4), None), "t": (torch.arange(4), "text")}
    taken = take(nest, torch.tensor([2, 0]))
    assert taken["f"].value.tolist() == [2, 0]
    assert taken["t"][0].tolist() == [2, 0]
    assert taken["t"][1] == "text"


def test_a_feature_between_two_is_real_where_either_is() -> None:
    a = Partial(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]]), torch.tensor([True, True, False]))
    b = Partial(torch.zeros(3, 1, 2), torch.tensor([True, False, True]))
    masks = torch.tensor([[1, 0], [1, 1], [0, 0]]).bool(), torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    a, b = (replace(f, mask=mask) for f, mask in zip((a, b), masks, strict=True))
    found = a.between(b, torch.tensor([0.25, 0.25, 0.25], dtype=torch.float64))
    assert found.value.tolist() == [[[0.25, 0.5]], [[3.0, 4.0]], [[0.0, 0.0]]]
    assert found.present is not None
    assert found.present.tolist() == [True, True, True]
    assert found.mask is not None
    assert torch.equal(found.mask, masks[0] | masks[1])
    whole = Feature(torch.ones(2, 3)).between(Feature(torch.zeros(2, 3)), 0.5)
    assert whole.present is None
    assert bool((whole.value == 0.5).all())


def test_batch_take_keeps_everything_together() -> None:
    batch = cg.Batch(
        {"a": torch.arange(3.0)[:, None]}, torch.arange(3), {"a": torch.eye(3, dtype=torch.bool)[0]},
        ("x", "y", "z"), ("g", "g", "h"),
    )  # fmt: skip
    part = batch.take([2, 0])
    assert part.inputs["a"].flatten().tolist() == [2.0, 0.0]
    assert part.targets.tolist() == [2, 0]
    assert part.mask["a"].tolist() == [False, True]
    assert part.ids == ("z", "x")
    assert part.groups == ("h", "g")


def test_modality_says_its_axes() -> None:
    rgb = cg.Modality("rgb", "NCTHW", "intensity", (0, 1), 30.0)
    x = torch.zeros(2, 3, 8, 4, 5)
    rgb.check(x)
    assert rgb.size(x, "T") == 8
    assert rgb.size(x, "V") == 1
    assert cg.Modality.from_dict(rgb.to_dict()) == rgb
    with pytest.raises(cg.InputError, match="NCTHW"):
        rgb.check(x[0])
    with pytest.raises(cg.InputError, match="codes"):
        rgb.check(x.to(torch.uint8))
    with pytest.raises(cg.InputError, match="axes"):
        cg.Modality("rgb", "CTHW", "intensity")


def test_presence_in_a_batch_of_no_samples() -> None:
    for shape in ((0,), (0, 4), (0, 2, 3)):
        found = present({"a": torch.zeros(shape, dtype=torch.bool)}, "a", 0)
        assert found is not None
        assert found.shape == (0,)


X, Y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (({"a": X.numpy()}, Y), r"inputs of 'a': found a ndarray, expected a tensor: torch\.as_tensor"),
        (({"a": X}, Y.numpy()), r"targets: found a ndarray, expected a tensor: torch\.as_tensor"),
        (({"a": X}, [0, 0]), r"targets: found a list"),
        ((X, Y), "inputs: found a Tensor, expected a dict of tensors by modality"),
        (({"a": X}, Y, X.bool()), "mask: found a Tensor, expected a dict"),
        (({"a": X}, Y, {"a": X.bool().numpy()}), "mask of 'a': found a ndarray"),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(parts: tuple[Any, ...], said: str) -> None:
    with pytest.raises(cg.InputError, match=said):
        cg.Batch(*parts)


def test_no_mask_is_said_by_none_as_well() -> None:
    batch = cg.Batch({"a": X}, Y, None)
    assert batch.mask == {}
    assert batch.take([0]).to("cpu").mask == {}


def test_a_batch_is_no_loader() -> None:
    batch = cg.Batch({"a": X}, Y)
    with pytest.raises(cg.InputError, match=r"found a Batch, expected a loader.*\[batch\]"):
        cg.evaluate(Linear({"a": (3,)}), batch, cg.ThreatModel(a=cg.Linf(0.1)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "expected"), [((3,), (3, 1)), ((3, 2), (3, 2)), ((3, 2, 4), (3, 8)), ((0, 5), (0, 5))]
)
def test_samples_are_laid_flat(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert flat(torch.zeros(shape)).shape == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize("padding", [0, 1, 200, math.nan, math.inf])
@pytest.mark.parametrize("shape", [(4,), (4, 1, 5), (4, 3, 5), (4, 3, 5, 2)])
def test_the_span_of_what_is_real_is_told_where_it_leaves_the_range(
    shape: tuple[int, ...], padding: float, dtype: torch.dtype
) -> None:
    if dtype == torch.uint8 and not math.isfinite(padding):
        return
    generator = torch.Generator().manual_seed(len(shape))
    mask = torch.rand(shape, generator=generator) > 0.4
    real = expand_mask(mask, torch.empty(4, 3, 5, 2)).expand(4, 3, 5, 2)
    values = (torch.rand(4, 3, 5, 2, generator=generator) * 50 + 2).to(dtype)
    x = torch.where(real, values, torch.tensor(padding).to(dtype))
    span = float(values[real].min()), float(values[real].max())
    for low, high in ((0, 60), (1.5, span[1]), (span[0], 210)):
        assert outside(x, mask, low, high) is None
    for low, high in ((10, 60), (0, 20), (10, 20), (60, 61), (0, 1)):
        assert outside(x, mask, low, high) == span
        assert outside(values.where(real, values[real][0]), None, low, high) == span
    assert outside(x, torch.zeros_like(mask), 60, 61) is None
    assert outside(x[:0], mask[:0], 60, 61) is None
    if dtype.is_floating_point:
        x[tuple(real.nonzero()[0])] = math.nan  # told by check_finite, which names the sample
        assert outside(x, mask, 60, 61) is None
        x[tuple(real.nonzero()[0])] = -math.inf
        assert outside(x, mask, 0, 60) == (-math.inf, float(x[real].max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_values_are_finite_whatever_their_sum(dtype: torch.dtype, sign: int) -> None:
    x = torch.full((3, 40), sign * torch.finfo(dtype).max, dtype=dtype)
    assert not x.sum().isfinite()
    check_finite({"a": x, "b": torch.ones(3, dtype=torch.uint8), "c": torch.zeros(0, 4)})
    for bad in (math.nan, math.inf, -math.inf):
        x[2, 7] = bad
        with pytest.raises(cg.InputError, match=r"modality 'a': NaN or Inf in 1 of 3 samples \(2\)"):
            check_finite({"b": torch.ones(3, 2), "a": x})
    with pytest.raises(cg.InputError, match=r"in 2 of 3 samples \(0, 1\)"):  # whose sum is NaN
        check_finite({"a": torch.tensor([[math.inf], [-math.inf], [0.0]], dtype=dtype)})
