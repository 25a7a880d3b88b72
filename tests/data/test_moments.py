"""The generated set: its form, that few frames tell, and that it is the same everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossguard.core import InputError
from crossguard.data import cache
from crossguard.data import moments as module
from crossguard.data.moments import generate, moments, video
from crossguard.data.sequence_example import frames, parse
from crossguard.data.youtube8m import YouTube8M
from tests.data import yt8m

SIZES: dict[str, Any] = {"classes": 1024, "train": 30, "test": 8, "frames": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_it_is_read_as_youtube8m_is(folder: Path) -> None:
    splits = moments(**SIZES, cache=folder)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [27, 3, 8]
    assert len(splits.classes) == 1024
    assert not set(splits.train.groups) & set(splits.validation.groups)
    batch = splits.train.read(range(27))
    assert batch.inputs["rgb"].shape[2] == 1024
    assert batch.inputs["audio"].shape[2] == 128
    lengths = batch.mask["rgb"].sum(1)
    assert 16 <= int(lengths.min()) < int(lengths.max()) <= 40
    labels = batch.targets.sum(1)
    assert 1 <= int(labels.min()) < int(labels.max()) <= 5
    shards = generate(**SIZES, cache=folder)
    assert sorted(p.name for p in shards.iterdir()) == ["train0000.tfrecord", "validate0000.tfrecord", "vocabulary.csv"]
    assert len(list(YouTube8M(shards, classes=1024))) == 30


def test_the_same_bytes_on_any_machine() -> None:
    found = hashlib.sha256(b"".join(video("train", n, 1024, 300, 0) for n in range(3))).hexdigest()
    assert found == "f8724a105c150f54d809bc253f7064bb2b0d065b8909721343e09e356115d33c"
    assert video("train", 0, 1024, 300, 0) != video("validate", 0, 1024, 300, 0)
    assert video("train", 0, 1024, 300, 0)[40:] != video("train", 0, 1024, 300, 1)[40:]


def test_videos_have_up_to_300_frames_and_labels_by_zipf() -> None:
    lengths, labels = [], []
    for number in range(60):
        data = video("train", number, 1024, 300, 0)
        context, lists = parse(data)
        lengths.append(len(frames(data, lists["rgb"])))
        labels += list(context["labels"])
    assert 16 <= min(lengths) < 40 < 200 < max(lengths) <= 300
    assert 2 < len(labels) / 60 < 4
    assert 0.2 < np.mean(np.array(labels) < 10) < 0.45  # by Zipf's law from rank 3 on: 0.25


def test_few_frames_tell_and_the_others_do_not() -> None:
    """Whoever knows the mark and the classes' pictures names the labels; from the mean over all frames nobody can."""
    pictures, mark = module._pictures("rgb", 1024, 1024)
    told, pooled, share = [], [], []
    for number in range(30):
        data = video("train", number, 1024, 120, 0)
        context, lists = parse(data)
        labels = set(np.asarray(context["labels"]).tolist())
        codes = frames(data, lists["rgb"]).astype(float) - 127
        marked = codes @ mark / 1024 > module.MARK / 2
        share.append(marked.mean())
        told.append({int(i) for i in (codes[marked] @ pictures.T).argmax(1)} <= labels)
        pooled.append(int((codes.mean(0) @ pictures.T).argmax()) in labels)
    assert np.mean(told) == 1
    assert np.mean(share) < 0.2
    assert np.mean(pooled) < 0.4


def test_another_folder_is_read_in_its_place(tmp_path: Path) -> None:
    yt8m.write(tmp_path, "train0.tfrecord", range(9))
    yt8m.write(tmp_path, "validate0.tfrecord", range(20, 23))
    splits = moments(path=tmp_path, validation=0.3, cache=tmp_path / "cache")
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [6, 3, 3]
    assert splits.train.read([0]).inputs["rgb"].shape == (1, 3, 1024)


@pytest.mark.parametrize("change", [{"classes": 4}, {"train": 0}, {"frames": 301}, {"frames": 8}, {"seed": -1}])
def test_sizes_that_cannot_be(change: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="moments: classes"):
        moments(**{**SIZES, **change}, cache=tmp_path)


def test_a_stopped_build_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**SIZES, "train": 2, "test": 2}
    calls: list[str] = []

    def stop(split: str, *rest: Any) -> bytes:
        calls.append(split)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return video(split, *rest)

    monkeypatch.setattr(module, "video", stop)
    with pytest.raises(KeyboardInterrupt):
        generate(**small, cache=tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_dir() and p.suffix != ".part"]
    whole = generate(**small, cache=tmp_path)
    assert len(calls) == 7
    assert generate(**small, cache=tmp_path) == whole
    assert len(calls) == 7
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]
    assert torch.equal(
        moments(**small, cache=tmp_path, validation=0.5).test.read([0]).targets.sum(1) >= 1, torch.tensor([True])
    )


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    path = cache.folder_or_build("x", lambda folder: (folder / "a").write_text("1"), tmp_path)
    assert (path / "a").read_text() == "1"
    assert cache.folder_or_build("x", lambda folder: 1 / 0, tmp_path) == path
