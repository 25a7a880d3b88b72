"""Shards read front to back: every sample once, mixed within windows, fetched before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import crossguard as cg
from crossguard.core import DataError
from crossguard.data.base import Loader
from crossguard.data.windows import Windows
from crossguard.data.youtube8m_index import Indexed, index
from crossguard.defences import Standard
from crossguard.training import TrainConfig, train
from crossguard.training.batches import epoch_batches
from tests.data import yt8m
from tests.training import toys

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def shards(tmp_path: Path) -> Indexed:
    """Ten of six videos."""
    for shard in range(10):
        yt8m.write(tmp_path, f"train{shard:04d}.tfrecord", range(6 * shard, 6 * shard + 6))
    return index(tmp_path, "train*.tfrecord", [str(i) for i in range(3862)])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 3))
def test_a_window_is_a_stretch_of_files_in_turn(sizes: list[int], window: int, epoch: int) -> None:
    files = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    windows = Windows(SimpleNamespace(files=files, fetch=list), window)
    order = windows.order(0, epoch)
    assert order == windows.order(0, epoch)
    assert sorted(order) == list(range(len(files)))
    stretches = [sorted(order[i : i + window], key=lambda i: int(files[i])) for i in range(0, len(order), window)]
    # Samples of a file follow one another: over the windows, each file's samples come in the order in which they lie.
    for file in range(len(sizes)):
        parts = [[i for i in stretch if files[i] == file] for stretch in stretches]
        assert [i for part in parts for i in sorted(part)] == (files == file).nonzero().flatten().tolist()
        there = [at for at, part in enumerate(parts) if part]
        assert there == list(range(there[0], there[-1] + 1))


def test_windows_mix_and_epochs_differ(shards: Indexed) -> None:
    loader = Loader(shards, 8, shuffle=True, seed=3, window=30)
    first = loader.order()
    assert len({int(shards.files[i]) for i in first[:30]}) == 5
    assert sum(b - a == 1 for a, b in pairwise(first)) < 15
    loader.set_epoch(1)
    assert loader.order() != first
    assert Loader(shards, 8, shuffle=True, seed=4, window=30).order() != first


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_window_is_fetched_once_and_before_it_is_read(shards: Indexed, first: int, rank: int) -> None:
    told: list[tuple[str, set[int]]] = []

    class Told(Indexed):
        def fetch(self, index: Sequence[int]) -> None:
            super().fetch(index)
            told.append(("fetch", set(index)))

        def read(self, index: Sequence[int]) -> cg.Batch:
            told.append(("read", set(index)))
            return super().read(index)

    watched = Told(**{f.name: getattr(shards, f.name) for f in fields(shards)})
    options: dict[str, Any] = {"batch_size": 8, "seed": 1, "window": 20, "first": first, "rank": rank, "world": 2}
    found = [batch.ids for batch, _ in epoch_batches(watched, 0, **options)]
    assert found == [batch.ids for batch, _ in epoch_batches(shards, 0, **options)]
    fetched: set[int] = set()
    for what, rows in told:
        if what == "fetch":
            assert not fetched & rows
            fetched |= rows
        else:
            assert rows <= fetched
    assert len(fetched) == (60 if first == 0 else 40), "what a resumed epoch is past is left alone"


def test_a_shard_that_is_gone_is_named_by_the_read(shards: Indexed) -> None:
    shards.shards[4].unlink()
    shards.fetch(range(60))
    with pytest.raises(DataError, match="train0004"):
        list(epoch_batches(shards, 0, batch_size=8, seed=0, window=20))


def test_sets_without_files_are_refused_before_any_work(shards: Indexed) -> None:
    with pytest.raises(DataError, match=r"window 8 for data set 'toy'.*leave it out"):
        Loader(toys.dataset("toy", 16, 0), 4, shuffle=True, window=8)
    with pytest.raises(DataError, match="found window 0"):
        Loader(shards, 4, shuffle=True, window=0)
    with pytest.raises(DataError, match="leave it out"):
        train(
            toys.TwoBranch(), toys.splits(), task=toys.TASK, threat=toys.THREAT, objective=Standard(),
            config=TrainConfig.model_validate({"epochs": 1, "window": 8}),
        )  # fmt: skip
