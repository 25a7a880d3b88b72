"""A set written as recordings, and read back by the readers of real ones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import crossguard as cg
from crossguard.core.errors import DataError
from crossguard.core.modality import Modality
from crossguard.data import check
from crossguard.data.base import Splits, TensorDataset
from crossguard.data.events import CLASSES, events
from crossguard.data.manifest import manifest
from crossguard.data.written import write_recordings
from crossguard.data.youtube8m_index import youtube8m
from crossguard.training import TrainConfig, train
from tests.data import yt8m


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Splits, Path]:
    folder = tmp_path_factory.mktemp("events")
    splits = events(train=12, validation=4, test=4, size=16, frames=8, seconds=1.0, cache=folder / "cache")
    return splits, write_recordings(splits, folder / "written")


def test_the_folder_is_whole(made: tuple[Splits, Path]) -> None:
    splits, file = made
    found = check("manifest", file.parent)
    assert found.ok
    assert (file.parent / "classes.txt").read_text().split() == list(CLASSES)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["split"] for row in rows] == ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    assert rows[0]["group"] == splits.train.groups[0]
    assert (file.parent / rows[0]["audio"]).suffix == ".wav"
    assert (file.parent / rows[0]["rgb"]).suffix == ".mp4"


def test_it_is_read_back_as_it_was(made: tuple[Splits, Path], tmp_path: Path) -> None:
    splits, file = made
    read = manifest(file.parent, multi_label=True, frames=8, size=16, cache=tmp_path)
    assert read.classes == splits.classes
    for part in ("train", "validation", "test"):
        before, after = getattr(splits, part), getattr(read, part)
        assert before.ids == after.ids
        assert before.groups == after.groups
        assert torch.equal(before.targets, after.targets)
    first, again = splits.train.read(range(12)), read.train.read(range(12))
    longest = again.inputs["audio"].shape[1]
    assert torch.equal(again.inputs["audio"], first.inputs["audio"][:, :longest])
    assert torch.equal(again.mask["audio"], first.mask["audio"][:, :longest])
    whole = first.mask["rgb"].flatten(1).all(dim=1)
    assert whole.any()
    apart = (again.inputs["rgb"] - first.inputs["rgb"]).abs().flatten(1).mean(dim=1)
    assert (apart[whole] < 0.03).all(), "what the codec loses, grain above all"


def test_a_model_trains_and_is_attacked_on_what_was_written(made: tuple[Splits, Path], tmp_path: Path) -> None:
    read = manifest(made[1].parent, multi_label=True, frames=8, size=16, cache=tmp_path)
    torch.manual_seed(0)
    encoders = {
        "audio": cg.models.AudioCNN(front="audioset", settings={"mels": 16}, width=2, passes=1),
        "rgb": cg.models.FrameCNN(width=4, passes=1),
    }
    model = cg.FusionModel(encoders, cg.fusion.Mid(width=16), classes=10)
    threat = cg.ThreatModel(audio=cg.SNR(30, bounds=(-1, 1)), rgb=cg.Linf(8 / 255, bounds=(0, 1)))
    config = TrainConfig(epochs=2, batch_size=6, learning_rate=3e-3)
    result = train(
        model, read, task=cg.MultiLabel(10), threat=threat, objective=cg.defences.Adversarial(steps=1), config=config
    )
    losses = [epoch["loss"] for epoch in result.history]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    batch = read.test.read(range(4))
    found = cg.attacks.pgd(result.model, batch.inputs, batch.targets, threat, mask=batch.mask, steps=2)
    assert threat.contains(found.inputs, batch.inputs, batch.mask).all()


def test_nothing_is_written_over(made: tuple[Splits, Path]) -> None:
    with pytest.raises(DataError, match="is there already"):
        write_recordings(made[0], made[1].parent)


def small(
    modality: Modality,
    x: torch.Tensor,
    ids: tuple[str, ...] = ("a", "b"),
    real: torch.Tensor | None = None,
    classes: tuple[str, ...] = ("p", "q"),
) -> Splits:
    mask = {} if real is None else {"x": real}

    def part(prefix: str) -> TensorDataset:
        named = tuple(prefix + i for i in ids)
        return TensorDataset("toy", {"x": modality}, classes, {"x": x}, torch.tensor([0, 1]), mask, named)

    return Splits(part("1"), part("2"), part("3"))


def test_features_and_what_is_absent(tmp_path: Path) -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    real = torch.tensor([[True, True, False], [False, False, False]])
    file = write_recordings(small(Modality("x", "NTD", "feature"), x, real=real), tmp_path / "out")
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert np.array_equal(np.load(tmp_path / "out" / rows[0]["x"]), x[0, :2].numpy())
    assert rows[1]["x"] == ""
    assert [row["targets"] for row in rows[:2]] == ["p", "q"]


def test_what_has_no_file_of_its_own_is_refused(tmp_path: Path) -> None:
    skeleton = small(Modality("x", "NMTVC", "metre"), torch.zeros(2, 1, 2, 3, 3))
    with pytest.raises(DataError, match="'x' is NMTVC in metre"):
        write_recordings(skeleton, tmp_path)
    features = Modality("x", "NTD", "feature")
    with pytest.raises(DataError, match=r"id '1\.\./b' cannot name a file"):
        write_recordings(small(features, torch.zeros(2, 1, 1), ids=("../b", "c")), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "p", "a|b", "a\nb", "b\u2028", " b"])
def test_classes_that_would_be_read_back_otherwise_are_refused(name: str, tmp_path: Path) -> None:
    splits = small(Modality("x", "NTD", "feature"), torch.zeros(2, 1, 1), classes=("p", name))
    with pytest.raises(DataError, match=r"class \d is named .* name it otherwise"):
        write_recordings(splits, tmp_path)
    assert not list(tmp_path.iterdir())


def test_classes_of_youtube8m_keep_their_numbers(tmp_path: Path) -> None:
    yt8m.write(tmp_path, "train0.tfrecord", range(8))
    yt8m.write(tmp_path, "validate0.tfrecord", [8])
    names = ["Game", "", "Car", " Nova", "", "Car", "Food", '"Cat, big"', "Dog"]
    (tmp_path / "vocabulary.csv").write_text("Index,Name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    splits = youtube8m(tmp_path, validation=0.2, cache=tmp_path)
    read = manifest(write_recordings(splits, tmp_path / "out"), multi_label=True, cache=tmp_path)
    assert read.classes == splits.classes
    for before, after in ((splits.train, read.train), (splits.test, read.test)):
        assert torch.equal(before.targets.to_dense(), after.targets)
