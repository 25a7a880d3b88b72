"""AV-MNIST's layout, made small; and the real recordings where they are."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from crossguard import data
from crossguard.core import DataError
from crossguard.data.avmnist import avmnist
from tests.data.media import tone, write_sound

SPEAKERS = ("ann", "bob", "cid")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two digits by three speakers, six recordings each, the first two of them for the test; picture i holds i."""
    root = tmp_path / "avmnist"
    rows: list[dict[str, object]] = []
    for digit in (3, 8):
        for speaker in SPEAKERS:
            for i in range(6):
                name = f"{digit}_{speaker}_{i}.wav"
                write_sound(root / "recordings" / name, tone(0.05 * (i + 1), 8000, 100 * (digit + 1)), 8000)
                index, split = len(rows), "test" if i < 2 else "train"
                rows.append(dict(zip(("wav", "mnist_index", "label", "speaker", "split"),
                                     (name, index, digit, speaker, split), strict=True)))  # fmt: skip
    x = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, 28, 28))
    np.savez(root / "mnist10k.npz", x=x, y=np.array([3] * 18 + [8] * 22))
    write_pairs(root, rows)
    return root


def write_pairs(root: Path, rows: list[dict[str, object]]) -> None:
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_sounds_pictures_and_masks(folder: Path) -> None:
    splits = avmnist(folder, seconds=0.2)
    batch = splits.test.read([1, 0])
    assert batch.ids == ("3_ann_1", "3_ann_0")
    assert batch.inputs["audio"].shape == (2, 1600)
    assert batch.inputs["image"].shape == (2, 1, 28, 28)
    assert batch.mask["audio"].sum(dim=1).tolist() == [800, 400]
    expected = torch.from_numpy(np.round(tone(0.1, 8000, 400) * 32768) / 32768).float()
    torch.testing.assert_close(batch.inputs["audio"][0, :800], expected, rtol=0, atol=1.5 / 32768)
    assert not batch.inputs["audio"][0, 800:].any()
    assert (batch.inputs["image"].flatten(1)[:, 0] * 255).round().tolist() == [1, 0]
    assert splits.modalities["audio"].rate == 8000
    assert batch.targets.tolist() == [3, 3]


def test_the_order_of_the_rows_changes_no_sound(folder: Path) -> None:
    before = avmnist(folder, seconds=0.2).test
    with (folder / "pairs.csv").open(newline="") as file:
        rows: list[dict[str, object]] = [*csv.DictReader(file)]
    write_pairs(folder, rows[::-1])
    after = avmnist(folder, seconds=0.2).test
    there = [after.ids.index(name) for name in before.ids]
    torch.testing.assert_close(after.read(there).inputs, before.read(range(len(before))).inputs)


def test_the_official_split(folder: Path) -> None:
    splits = avmnist(folder, validation=0.25)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [18, 6, 12]
    assert {i[-1] for i in splits.test.ids} == {"0", "1"}
    assert {i[-1] for i in splits.validation.ids} == {"5"}
    counts = Counter(i.rsplit("_", 1)[0] for i in splits.validation.ids)
    assert set(counts.values()) == {1}
    assert len(counts) == 6
    assert splits.train.groups == splits.train.ids


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_one_speaker_out(folder: Path, speaker: str) -> None:
    splits = avmnist(folder, protocol="leave_one_speaker_out", speaker=speaker)
    assert set(splits.test.groups) == {speaker}
    held, seen = set(splits.validation.groups), set(splits.train.groups)
    assert len(held) == 1
    assert held | seen | {speaker} == set(SPEAKERS)
    assert not held & seen
    assert len(splits.test) == 12


def test_one_input_alone(folder: Path) -> None:
    for wav in (folder / "recordings").iterdir():
        wav.unlink()
    splits = avmnist(folder, inputs=("image",))
    assert set(splits.modalities) == {"image"}
    with pytest.raises(DataError, match="36 of 36 recordings are missing"):
        avmnist(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "leave_one_speaker_out"}, "with one of ann, bob, cid"),
        ({"protocol": "leave_one_speaker_out", "speaker": "eve"}, "'eve'"),
        ({"speaker": "ann"}, "expected 'official' without one"),
        ({"inputs": ("image", "image")}, "each once"),
    ],
)
def test_impossible_options(folder: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        avmnist(folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mnist_index": 35}, "shows another digit"),
        ({"mnist_index": 99}, "not there"),
        ({"mnist_index": "x"}, "line 2: found"),
        ({"label": 11}, "line 2: label 11"),
        ({"split": "valid"}, "'valid'"),
        ({"wav": "3_ann_1.wav"}, "'3_ann_1' occurs twice"),
        ({"wav": "none.wav"}, "1 of 36 recordings are missing"),
    ],
)
def test_rows_that_cannot_be_meant(folder: Path, change: dict[str, object], words: str) -> None:
    with (folder / "pairs.csv").open(newline="") as file:
        rows: list[dict[str, object]] = [dict(row) for row in csv.DictReader(file)]
    write_pairs(folder, [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(DataError, match=words):
        avmnist(folder)


def test_the_look_at_the_files(folder: Path) -> None:
    report = data.check("avmnist", folder)
    assert report.ok
    assert report.rows == tuple((speaker, "8", "4", "0", "0") for speaker in SPEAKERS)
    (folder / "recordings/8_bob_3.wav").unlink()
    (folder / "recordings/8_bob_4.wav").write_bytes(b"RIFF")
    report = data.check("avmnist", folder)
    assert report.rows[1] == ("bob", "8", "4", "1", "1")
    assert len(report.problems) == 2
    (folder / "pairs.csv").unlink()
    with pytest.raises(DataError, match=r"pairs\.csv: no list that can be read"):
        data.check("avmnist", folder)


def test_the_real_recordings(shared_data: Path) -> None:
    folder = shared_data / "avmnist"
    splits = avmnist(folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2280, 420, 300]
    assert set(Counter(splits.test.targets.tolist()).values()) == {30}
    out = avmnist(folder, protocol="leave_one_speaker_out", speaker="theo", inputs=("image",))
    assert [len(part) for part in (out.train, out.validation, out.test)] == [2000, 500, 500]
