"""The contract of data sets: what is refused, what is read, in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossguard.core import CrossguardError, DataError, InputError, Modality
from crossguard.data.base import Loader, Splits, TensorDataset, hold_out

PIXELS = Modality("rgb", "NCTHW", "1", bounds=(0.0, 1.0))
JOINTS = Modality("skeleton", "NMTVC", "m")


def make(samples: int = 6, **changes: Any) -> TensorDataset:
    options: dict[str, Any] = {
        "name": "toy",
        "modalities": {"rgb": PIXELS, "skeleton": JOINTS},
        "classes": ("a", "b"),
        "inputs": {
            "rgb": torch.arange(samples, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 4, 4).clone(),
            "skeleton": torch.arange(samples).float().view(-1, 1, 1, 1, 1).expand(-1, 1, 2, 5, 3).clone(),
        },
        "targets": torch.arange(samples) % 2,
        "mask": {"skeleton": torch.ones(samples, 1, 2, dtype=torch.bool)},
        "ids": tuple(f"id{i}" for i in range(samples)),
        "groups": tuple(f"g{i // 2}" for i in range(samples)),
    }
    return TensorDataset(**(options | changes))


def test_read_follows_the_index_in_physical_units() -> None:
    batch = make().read([4, 1])
    assert batch.ids == ("id4", "id1")
    assert batch.groups == ("g2", "g0")
    assert batch.targets.tolist() == [0, 1]
    assert batch.inputs["rgb"].dtype == torch.float32
    assert batch.inputs["rgb"][:, 0, 0, 0, 0].tolist() == pytest.approx([4 / 255, 1 / 255])
    assert batch.inputs["skeleton"][:, 0, 0, 0, 0].tolist() == [4.0, 1.0]
    assert batch.mask["skeleton"].shape == (2, 1, 2)


def test_a_batch_does_not_share_memory_with_the_set() -> None:
    data = make()
    data.read([0, 1]).inputs["skeleton"].fill_(99.0)
    assert float(data.inputs["skeleton"].max()) == 5.0


def test_subset_keeps_everything_together() -> None:
    part = make().subset([5, 0])
    assert (len(part), part.ids, part.groups) == (2, ("id5", "id0"), ("g2", "g0"))
    assert part.inputs["skeleton"][:, 0, 0, 0, 0].tolist() == [5.0, 0.0]
    with pytest.raises(DataError, match="empty"):
        make().subset([])


def test_ids_and_groups_default_to_rows() -> None:
    data = make(ids=(), groups=())
    assert data.ids == data.groups == ("0", "1", "2", "3", "4", "5")


def test_multi_label_targets() -> None:
    data = make(targets=torch.tensor([[1, 0]] * 6))
    assert data.read([0, 3]).targets.tolist() == [[1, 0], [1, 0]]


def _with_nan() -> dict[str, Any]:
    good = make().inputs
    bad = good["skeleton"].clone()
    bad[3, 0, 1, 2, 0] = torch.nan
    return {"inputs": good | {"skeleton": bad}}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"targets": torch.zeros(0, dtype=torch.long), "ids": (), "groups": ()}, DataError, "empty"),
        ({"targets": torch.zeros(5, dtype=torch.long)}, DataError, "has 6 entries, the targets 5"),
        ({"ids": ("x",) * 6}, DataError, "'x' occurs twice"),
        ({"ids": ("x", "y")}, DataError, "ids has 2 entries"),
        ({"groups": ("x",)}, DataError, "groups has 1 entries"),
        ({"modalities": {"rgb": PIXELS}}, DataError, r"modalities \['rgb'\]"),
        ({"modalities": {"rgb": PIXELS, "skeleton": replace(JOINTS, axes="NTVC")}}, InputError, "expected 4 axes"),
        ({"modalities": {"rgb": replace(PIXELS, bounds=None), "skeleton": JOINTS}}, InputError, "uint8"),
        ({"targets": torch.full((6,), 2)}, InputError, r"expected \[0, 1\]"),
        ({"mask": {"skeleton": torch.ones(6, 1, 3, dtype=torch.bool)}}, InputError, "mask of 'skeleton'"),
        ({"inputs": make().inputs | {"skeleton": torch.zeros(6, 1, 2, 5, 3).long()}}, InputError, "floating point"),
        (_with_nan(), InputError, "NaN or Inf in 1 of 6 samples .id3."),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], error: type[CrossguardError], words: str) -> None:
    with pytest.raises(error, match=words):
        make(**changes)


def test_splits_refuse_a_sample_that_is_in_two_parts() -> None:
    data = make()
    a, b, c = data.subset([0, 1]), data.subset([2, 3]), data.subset([4, 5])
    assert Splits(a, b, c).classes == ("a", "b")
    with pytest.raises(DataError, match="'id3' is in two"):
        Splits(a, b, data.subset([3, 4]))
    with pytest.raises(DataError, match="classes or modalities differ"):
        Splits(a, b, replace(c, classes=("a", "c")))


def ids(loader: Loader) -> list[str]:
    return [i for batch in loader for i in batch.ids]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    data = make(20)
    loader = Loader(data, 3, shuffle=True, seed=1)
    first = ids(loader)
    assert sorted(first) == sorted(data.ids)
    assert first != list(data.ids)
    assert ids(Loader(data, 7, shuffle=True, seed=1)) == first
    loader.set_epoch(1)
    assert ids(loader) != first
    loader.set_epoch(0)
    assert ids(loader) == first
    assert ids(Loader(data, 3, shuffle=True, seed=2)) != first
    assert ids(Loader(data, 3)) == list(data.ids)


def test_the_order_is_fixed_for_good() -> None:
    """A resumed run and another version must read the same samples: this value may never change."""
    assert Loader(make(6), 6, shuffle=True, seed=3).order() == ORDER


def test_every_order_is_about_as_likely() -> None:
    first = [Loader(make(4), 4, shuffle=True, seed=seed).order()[0] for seed in range(400)]
    assert all(70 < first.count(i) < 130 for i in range(4))


@given(samples=st.integers(1, 23), batch=st.integers(1, 6), world=st.integers(1, 5), shuffle=st.booleans())
def test_ranks_together_read_every_sample_once(samples: int, batch: int, world: int, shuffle: bool) -> None:
    data = make(samples)
    ranks = [Loader(data, batch, shuffle=shuffle, rank=r, world=world) for r in range(world)]
    read = [ids(loader) for loader in ranks]
    assert sorted(i for part in read for i in part) == sorted(data.ids)
    assert [len(list(loader)) for loader in ranks] == [len(loader) for loader in ranks]


@given(samples=st.integers(1, 23), batch=st.integers(1, 4), world=st.integers(1, 4))
def test_drop_last_gives_ranks_equal_numbers_of_full_batches(samples: int, batch: int, world: int) -> None:
    data = make(samples)
    if samples < batch * world:
        with pytest.raises(DataError, match="smaller batch_size"):
            Loader(data, batch, world=world, drop_last=True)
        return
    ranks = [Loader(data, batch, shuffle=True, rank=r, world=world, drop_last=True) for r in range(world)]
    sizes = [[len(b) for b in loader] for loader in ranks]
    assert sizes == [[batch] * (samples // (batch * world))] * world
    whole = [set(b.ids) for b in Loader(data, batch * world, shuffle=True, drop_last=True)]
    assert [set().union(*(b.ids for b in step)) for step in zip(*ranks, strict=True)] == whole
    assert len(ranks[0]) == len(sizes[0])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2, "rank": 2, "world": 2}])
def test_impossible_loaders_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected"):
        Loader(make(), **options)


def test_hold_out_takes_whole_groups_and_ignores_the_order_of_samples() -> None:
    groups = ["s1", "s1", "s3", "s5", "s3", "s7"]
    kept, held = hold_out(groups, count=1)
    assert sorted(kept + held) == list(range(6))
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    backwards = groups[::-1]
    again = hold_out(backwards, count=1)[1]
    assert {backwards[i] for i in again} == {groups[i] for i in held}
    assert len({groups[hold_out(groups, count=1, seed=s)[1][0]] for s in range(20)}) == 4
    assert len({groups[i] for i in hold_out(groups, share=0.5)[1]}) == 2
    assert len({groups[i] for i in hold_out(groups, share=0.01)[1]}) == 1


@pytest.mark.parametrize("options", [{}, {"count": 1, "share": 0.5}, {"count": 0}, {"count": 4}, {"share": 1.0}])
def test_hold_out_leaves_no_side_empty(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="hold"):
        hold_out(["a", "b", "c", "d"], **options)


ORDER = [3, 0, 4, 2, 1, 5]
