"""YouTube-8M as a stream and by index: values, faults, every example exactly once, going on in mid-epoch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import crossguard as cg
from crossguard import data
from crossguard.core import DataError, RunError
from crossguard.data.sequence_example import build
from crossguard.data.tfrecord import write_records
from crossguard.data.youtube8m import YouTube8M
from crossguard.data.youtube8m_examples import dequantised
from crossguard.data.youtube8m_index import index, vocabulary, youtube8m
from tests.data import yt8m

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten training shards of six, one of four to test on."""
    for shard in range(10):
        yt8m.write(tmp_path, f"train{shard:04d}.tfrecord", range(6 * shard, 6 * shard + 6))
    yt8m.write(tmp_path, "validate0000.tfrecord", range(100, 104), frames=2)
    return tmp_path


def test_every_code_stands_for_the_nearest_float() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = dequantised(np.pad(codes, ((0, 0), (0, 4)))[:, :16])
    assert found.flatten().tolist() == [np.float32(q * 4 / 255 + 4 / 512 - 2) for q in range(256)]
    assert torch.equal(found, cg.YOUTUBE8M.decode(torch.from_numpy(codes).long()))


def ids(stream: YouTube8M) -> list[str]:
    return [sample.id for sample in stream]


def test_values_and_targets(folder: Path) -> None:
    sample = next(iter(YouTube8M(folder)))
    assert sample.id == sample.group == "v0"
    assert {m: tuple(x.shape) for m, x in sample.inputs.items()} == {"rgb": (3, 1024), "audio": (3, 128)}
    expected = [np.float32(q * 4 / 255 + 4 / 512 - 2) for q in (0, 1, 2)]
    assert sample.inputs["rgb"][:, 5].tolist() == expected
    assert sample.targets.shape == (3862,)
    assert sample.targets.nonzero().flatten().tolist() == [0]
    assert float(cg.YOUTUBE8M.decode(torch.tensor(255))) == 2.0078125


@pytest.mark.parametrize(("world", "pattern"), [(1, "train*"), (3, "train*"), (4, "train000[01]*"), (7, "train0000*")])
@pytest.mark.parametrize("buffer", [1, 7])
def test_every_example_exactly_once_over_ranks(folder: Path, world: int, pattern: str, buffer: int) -> None:
    parts = [ids(YouTube8M(folder, pattern, buffer=buffer, rank=r, world=world)) for r in range(world)]
    expected = ids(YouTube8M(folder, pattern))
    assert Counter(i for part in parts for i in part) == Counter(expected)
    assert len(set(expected)) == len(expected)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= (1 if world > 3 else 6)  # by record, or by shard


def test_every_example_exactly_once_over_workers(folder: Path) -> None:
    loader = DataLoader(YouTube8M(folder, buffer=5), batch_size=None, num_workers=2)
    assert sorted(sample.id for sample in loader) == sorted(f"v{i}" for i in range(60))


def test_the_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    stream = YouTube8M(folder, buffer=20, seed=1)
    first = ids(stream)
    assert ids(stream) == first
    assert first != sorted(first)
    assert ids(YouTube8M(folder, buffer=20, seed=2)) != first
    stream.set_epoch(1)
    assert ids(stream) != first
    assert sorted(ids(stream)) == sorted(first)


@pytest.mark.parametrize("taken", [0, 1, 23, 59, 60])
@pytest.mark.parametrize(("buffer", "world"), [(1, 1), (9, 1), (9, 2), (4, 13)])
def test_a_pass_goes_on_where_it_stood(folder: Path, taken: int, buffer: int, world: int) -> None:
    stream = YouTube8M(folder, buffer=buffer, seed=3, rank=world - 1, world=world)
    stream.set_epoch(2)
    whole = ids(stream)
    reading = iter(stream)
    before = [sample.id for _, sample in zip(range(min(taken, len(whole))), reading, strict=False)]
    state = json.loads(json.dumps(reading.state()))
    again = YouTube8M(folder, buffer=buffer, seed=3, rank=world - 1, world=world).resume(state)
    assert before + [sample.id for sample in again] == whole


def test_a_state_of_another_stream_is_refused(folder: Path) -> None:
    state = iter(YouTube8M(folder, buffer=4)).state()
    with pytest.raises(RunError, match="another seed"):
        YouTube8M(folder, buffer=4, seed=1).resume(state)
    with pytest.raises(RunError, match="another part, parts"):
        YouTube8M(folder, buffer=4, rank=1, world=2).resume(state)


def test_the_stream_holds_no_more_than_its_buffer(folder: Path) -> None:
    reading = iter(YouTube8M(folder, buffer=8))
    held = [len(reading.state()["waiting"]) for _ in reading]
    assert max(held) == 7


# Kind, what is named, and the example that shows it.
FAULTS = [
    ("wrong width", "v99: rgb has 1023 values a frame, expected 1024", yt8m.payload(99, width=1023)),
    ("empty video", "v99: no frame of rgb", yt8m.payload(99, frames=0)),
    ("too long", "v99: 301 frames of rgb, expected at most 300", yt8m.payload(99, frames=301)),
    ("unknown label", "v99: class 3862, expected 0 to 3861", yt8m.payload(99, labels=[1, 3862])),
    ("unknown label", "v99: class -1, expected", yt8m.payload(99, labels=[-1])),
    ("no label", "v99: no class is named", yt8m.payload(99, labels=[])),
    ("damaged", "no SequenceExample", yt8m.payload(99)[:-5]),
    ("damaged", "without an id", build({"labels": [1]}, yt8m.codes(1, 3))),
    ("other length", "v99: 3 frames of rgb and 2 of audio",
     build({"id": b"v99", "labels": [1]}, {**yt8m.codes(1, 3), "audio": yt8m.codes(1, 2)["audio"]})),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "words", "spoilt"), FAULTS)
def test_examples_that_cannot_be_taken(tmp_path: Path, kind: str, words: str, spoilt: bytes) -> None:
    path = tmp_path / "train0000.tfrecord"
    write_records(path, [yt8m.payload(1), spoilt, yt8m.payload(2)])
    offset = len(yt8m.payload(1)) + 16
    named = f"{kind}: .*train0000.tfrecord, byte {offset}: .*{words}"
    with pytest.raises(DataError, match=named):
        ids(YouTube8M(tmp_path))
    stream = YouTube8M(tmp_path, bad="skip")
    assert ids(stream) == ["v1", "v2"]
    assert stream.faults.counts == {kind: 1}
    classes = [str(i) for i in range(3862)]
    with pytest.raises(DataError, match=rf"1 samples cannot be taken(.|\n)*{kind}: 1\n(.|\n)*byte {offset}: .*{words}"):
        index(tmp_path, "train*", classes)
    with pytest.warns(UserWarning, match=f"1 samples are left out(.|\n)*{kind}: 1"):
        assert index(tmp_path, "train*", classes, bad="skip").ids == ("v1", "v2")


def test_damaged_and_truncated_shards(folder: Path) -> None:
    path = folder / "train0003.tfrecord"
    whole = path.read_bytes()
    size = len(whole) // 6
    path.write_bytes(whole[: size + 500] + b"?" + whole[size + 501 :])
    with pytest.raises(DataError, match=f"corrupt: .*train0003.tfrecord, byte {size}: .*checksum"):
        ids(YouTube8M(folder))
    # Shared out by record, so that one rank alone counts it.
    every = [YouTube8M(folder, bad="skip", world=20, rank=r) for r in range(20)]
    assert sorted(i for s in every for i in ids(s)) == sorted(f"v{i}" for i in range(60) if i != 19)
    assert sum(len(s.faults) for s in every) == 1
    path.write_bytes(whole[: 4 * size + 7])
    stream = YouTube8M(folder, bad="skip", buffer=4)
    assert sorted(ids(stream)) == sorted(f"v{i}" for i in range(60) if i not in (22, 23))
    assert stream.faults.counts == {"truncated": 1}
    path.write_bytes(whole[:2] + b"?" + whole[3:])
    with pytest.warns(UserWarning, match="1 samples are left out"):
        assert len(index(folder, "train*", ["x"] * 3862, bad="skip")) == 54


def test_folders_without_a_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no shard is called train\*.tfrecord; there: nothing"):
        YouTube8M(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        youtube8m(tmp_path / "none")
    yt8m.write(tmp_path, "train0.tfrecord", [1, 2])
    with pytest.raises(DataError, match=r"no shard is called validate\*"):
        youtube8m(tmp_path)
    yt8m.write(tmp_path, "train1.tfrecord", [1, 3])
    with pytest.raises(DataError, match="the id 'v1' occurs twice"):
        index(tmp_path, "train*", ["x"] * 10)


def test_splits_by_index(folder: Path) -> None:
    splits = youtube8m(folder, validation=0.1)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [54, 6, 4]
    assert splits.train.targets.is_sparse
    batch = splits.train.read([3, 1])
    assert batch.ids == (splits.train.ids[3], splits.train.ids[1])
    assert torch.equal(batch.targets, splits.train.targets.to_dense()[[3, 1]])
    streamed = {sample.id: sample for sample in YouTube8M(folder)}
    for name, x in zip(batch.ids, batch.inputs["rgb"], strict=True):
        assert torch.equal(x, streamed[name].inputs["rgb"])
    assert youtube8m(folder, validation=0.1).train.ids == splits.train.ids


def test_batches_are_padded_with_a_mask(tmp_path: Path) -> None:
    write_records(tmp_path / "train0.tfrecord", [yt8m.payload(n, frames=n) for n in (2, 5, 3)])
    found = index(tmp_path, "train*", ["x"] * 10)
    assert found.frames.tolist() == [2, 5, 3]
    batch = found.read([0, 2])
    assert batch.inputs["rgb"].shape == (2, 3, 1024)
    assert batch.mask["rgb"].tolist() == [[True, True, False], [True] * 3]
    assert (batch.inputs["rgb"][0, 2] == 0).all()
    assert batch.mask["audio"].tolist() == batch.mask["rgb"].tolist()


def test_segments(tmp_path: Path) -> None:
    context = {"id": b"v1", "labels": [1], "segment_start_times": [5, 0, 5], "segment_end_times": [10, 5, 10],
               "segment_labels": [3, 4, 7]}  # fmt: skip
    # Scores are floats, which `build` does not write: spliced in as a context of their own.
    score = b"\x12\x0e\x0a\x0c" + np.array([1, 0, 0.75], "<f4").tobytes()
    entry = b"\x0a\x0e" + b"segment_scores" + b"\x12" + bytes([len(score)]) + score
    scores = b"\x0a" + bytes([len(entry)]) + entry
    record = b"\x0a" + bytes([len(scores)]) + scores + build(context, yt8m.codes(0, 12))
    write_records(tmp_path / "train0.tfrecord", [record, yt8m.payload(2)])
    with pytest.raises(DataError, match="v2: no segment is rated"):
        ids(YouTube8M(tmp_path, labels="segments"))
    found = list(YouTube8M(tmp_path, labels="segments", bad="skip", classes=8))
    assert [(s.id, s.group, s.targets.nonzero().flatten().tolist()) for s in found] == [
        ("v1:0", "v1", []),
        ("v1:5", "v1", [3, 7]),
    ]
    assert found[1].inputs["rgb"].shape == (5, 1024)
    assert found[1].inputs["rgb"][0, 0] == np.float32(5 * 4 / 255 + 4 / 512 - 2)
    with pytest.warns(UserWarning, match="no label: 1"):
        indexed = index(tmp_path, "train*", ["x"] * 8, labels="segments", bad="skip")
    assert indexed.ids == ("v1:0", "v1:5")
    assert torch.equal(indexed.read([1]).inputs["audio"][0], found[1].inputs["audio"])
    with pytest.raises(DataError, match="class 7, expected 0 to 4"):
        index(tmp_path, "train*", ["x"] * 5, labels="segments")


def test_a_vocabulary_names_the_classes(folder: Path) -> None:
    (folder / "vocabulary.csv").write_text("Index,TrainVideoCount,Name\n1,5,Food\n0,9,Game\n")
    with pytest.raises(DataError, match="class 2, expected 0 to 1"):
        youtube8m(folder)
    (folder / "vocabulary.csv").write_text("Index,Name\n" + "".join(f"{i},c{i}\n" for i in range(200)))
    assert youtube8m(folder).classes[7] == "c7"
    (folder / "vocabulary.csv").write_text("Index,Name\n1,Food\n")
    with pytest.raises(DataError, match="expected columns Index"):
        youtube8m(folder)


@pytest.mark.parametrize("text", ["Index,Name\n0,a\n0,b\n", "Index,Label\n0,a\n", "Index,Name\n0\n"])
def test_vocabularies_that_cannot_be_meant(text: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.csv").write_text(text)
    with pytest.raises(DataError, match="expected columns Index"):
        vocabulary(tmp_path)


def test_no_two_classes_have_one_name(tmp_path: Path) -> None:
    names = ["", "Car", "class 0", " ", "Car", "Car 1", " Nova", "class 0 2", "Café"]
    text = "Index,Name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names))
    (tmp_path / "vocabulary.csv").write_text(text, encoding="utf-8-sig")
    found = vocabulary(tmp_path)
    assert len(set(found)) == len(names)
    assert (found[3], found[4], found[6], found[8]) == ("class 3", "Car 4", "Nova", "Café")
    (tmp_path / "vocabulary.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"vocabulary\.csv: .* save the file as UTF-8"):
        vocabulary(tmp_path)


def test_a_look_at_the_files(folder: Path) -> None:
    report = data.check("youtube8m", folder)
    assert report.ok
    assert report.rows == (("train", "10", "60", "180", "60"), ("validate", "1", "4", "8", "4"))
    path = folder / "train0003.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])
    assert "train0003.tfrecord, byte" in data.check("youtube8m", folder).problems[0]


def test_it_can_be_evaluated_and_capped(folder: Path) -> None:
    (folder / "vocabulary.csv").write_text("Index,Name\n" + "".join(f"{i},c{i}\n" for i in range(110)))
    splits = youtube8m(folder)

    class Level(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.linspace(-1, 1, 110))

        def forward(self, inputs: dict[str, torch.Tensor], mask: dict[str, torch.Tensor]) -> torch.Tensor:
            real = mask["rgb"][..., None]
            mean = (inputs["rgb"] * real).sum((1, 2)) / real.sum(1).squeeze(1).clamp_min(1) / 1024
            return -((mean[:, None] - 2 * self.scale) ** 2)

    threat = cg.ThreatModel(rgb=cg.Linf(0.2, bounds=(-1.9921875, 2.0078125), constraints=(cg.YOUTUBE8M,)))
    protocol = cg.Protocol("quick", samples=3, check_samples=1)
    record = cg.evaluate(Level(), data.Loader(splits.test, 2), threat, protocol=protocol)
    assert len(record) == 3
    assert set(record.summary()["joint"]) >= {"hit@1", "map", "gap"}


def test_the_real_example(shared_data: Path) -> None:
    splits = youtube8m(shared_data / "yt8m", train="made*.tfrecord", test="real*.tfrecord")
    assert len(splits.train) + len(splits.validation) == 64
    batch = splits.test.read([0])
    assert batch.ids == ("SjJ3",)
    assert batch.inputs["rgb"].shape == (1, 170, 1024)
    assert splits.classes[int(batch.targets[0].argmax())] == "Food"
    assert -1.9921875 <= batch.inputs["rgb"].min() < batch.inputs["rgb"].max() <= 2.0078125
    streamed = list(YouTube8M(shared_data / "yt8m", "made*"))
    assert len(streamed) == 64
    assert {len(s.inputs["rgb"]) for s in streamed} <= set(range(1, 301))
