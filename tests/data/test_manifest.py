"""Files that a manifest lists: what is read, what is refused, what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import crossguard as cg
from crossguard import data
from crossguard.core import DataError
from crossguard.data.decoders import DECODERS, Decoder, read_h5
from crossguard.data.faults import Faults
from crossguard.data.manifest import manifest
from crossguard.data.recordings import File, Row, open_recordings

LENGTHS = (3, 5, 2, 4, 6, 1)
Make = Callable[..., Path]


pytestmark = pytest.mark.usefixtures("own_cache")


def clip(i: int, length: int, width: int) -> np.ndarray:
    """Frame t of clip i holds 10 i + t in every feature."""
    return np.broadcast_to(10 * i + np.arange(length, dtype=np.float32)[:, None], (length, width)).copy()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Six clips of six groups: rgb as .npy, audio in an .npz each, motion all in one .h5; clip 5 has no audio."""

    def write(lines: Callable[[list[list[str]]], object] = lambda rows: None, header: str | None = None) -> Path:
        rows: list[list[str]] = []
        with h5py.File(tmp_path / "all.h5", "w") as h5:
            for i, length in enumerate(LENGTHS):
                np.save(tmp_path / f"c{i}.npy", clip(i, length, 4))
                np.savez(tmp_path / f"c{i}.npz", vggish=clip(i, length + 1, 3), other=np.zeros(2))
                h5[f"clips/c{i}"] = clip(i, 2, 2)
                split = ("train", "train", "train", "validation", "test", "test")[i]
                audio = "" if i == 5 else f"c{i}.npz#vggish"
                labels = ("walk", "talk", "walk|talk", "walk", "talk", "sit")[i]
                rows.append([f"c{i}", labels, f"g{i}", split, f"c{i}.npy", str(length), audio, f"all.h5#clips/c{i}"])
        lines(rows)
        head = header or "id,targets,group,split,rgb,rgb:length,audio,motion"
        (tmp_path / "manifest.csv").write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
        return tmp_path

    return write


def test_what_is_read(make: Make) -> None:
    splits = manifest(make(), multi_label=True)
    assert splits.classes == ("sit", "talk", "walk")
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [3, 1, 2]
    batch = splits.train.read([2, 0])
    assert batch.ids == ("c2", "c0")
    assert batch.groups == ("g2", "g0")
    assert batch.targets.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert {m: tuple(x.shape) for m, x in batch.inputs.items()} == {
        "rgb": (2, 3, 4),
        "audio": (2, 4, 3),
        "motion": (2, 2, 2),
    }
    assert batch.inputs["rgb"][0, :, 0].tolist() == [20, 21, 0]
    assert batch.mask["rgb"].tolist() == [[True, True, False], [True, True, True]]
    assert batch.inputs["audio"][1, :, 2].tolist() == [0, 1, 2, 3]
    assert torch.equal(batch.targets, splits.train.targets[[2, 0]])


def test_an_absent_modality_is_masked_out(make: Make) -> None:
    splits = manifest(make(), multi_label=True)
    both = splits.test.read([0, 1])
    assert both.mask["audio"].tolist() == [[True] * 7, [False] * 7]
    alone = splits.test.read([1])
    assert alone.inputs["audio"].shape == (1, 1, 3)
    assert not alone.mask["audio"].any()


def test_what_is_read_can_be_evaluated(make: Make) -> None:
    splits = manifest(make(), multi_label=True)

    class Mean(torch.nn.Module):
        def forward(self, inputs: dict[str, torch.Tensor], mask: dict[str, torch.Tensor]) -> torch.Tensor:
            return sum(
                torch.where(mask[m][..., None], x, 0).sum(1).mean(1, keepdim=True) for m, x in inputs.items()
            ) * (torch.tensor([1.0, -1.0, 0.5]))

    threat = cg.ThreatModel(rgb=cg.Linf(0.1))
    record = cg.evaluate(Mean(), data.Loader(splits.test, 2), threat, protocol="quick")
    assert set(record.summary()["clean"]) >= {"hit@1", "map", "gap"}


def test_validation_is_held_out_where_no_line_is_of_it(make: Make) -> None:
    def lines(rows: list[list[str]]) -> None:
        rows[3][3] = "train"

    splits = manifest(make(lines), multi_label=True, validation=0.4)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [2, 2, 2]


def test_a_vocabulary_orders_the_classes(make: Make) -> None:
    folder = make()
    (folder / "classes.txt").write_text("walk\ntalk\nsit\nrun\n")
    splits = manifest(folder / "manifest.csv", multi_label=True)
    assert splits.classes == ("walk", "talk", "sit", "run")
    assert splits.train.targets.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("walk\n\ntalk\nsit\n", "line 2: no name"),
        ("walk\ntalk\nsit\ntalk\n", "line 4: 'talk' is in line 2 too"),
        ("\n", "no class"),
    ],
)
def test_vocabularies_that_cannot_be_meant(make: Make, names: str, words: str) -> None:
    folder = make()
    (folder / "classes.txt").write_text(names)
    with pytest.raises(DataError, match=f"classes.txt.*{words}"):
        manifest(folder, multi_label=True)


@pytest.mark.parametrize("file", ["manifest.csv", "classes.txt"])
def test_a_byte_order_mark_changes_nothing(make: Make, file: str) -> None:
    folder = make(lambda rows: rows[0].__setitem__(1, "gêne"))
    (folder / "classes.txt").write_text("gêne\nwalk\ntalk\nsit\n\n", encoding="utf-8")
    before = manifest(folder, multi_label=True)
    text = (folder / file).read_text(encoding="utf-8")
    (folder / file).write_text(text, encoding="utf-8-sig")
    after = manifest(folder, multi_label=True)
    assert after.classes == before.classes == ("gêne", "walk", "talk", "sit")
    assert torch.equal(after.train.targets, before.train.targets)
    (folder / file).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=f"{file}: found the byte 0xea, which is not UTF-8; save the file as UTF-8"):
        manifest(folder, multi_label=True)


def test_samples_of_one_split_may_share_a_file(make: Make) -> None:
    splits = manifest(make(lambda rows: rows[1].__setitem__(slice(4, 6), ["c0.npy", "3"])), multi_label=True)
    shared = splits.train.read([0, 1]).inputs["rgb"]
    assert torch.equal(shared[0], shared[1])


def spoil(folder: Path) -> None:
    np.save(folder / "c0.npy", np.zeros((3, 7), np.float32))
    np.save(folder / "c1.npy", np.zeros((0, 4), np.float32))
    (folder / "c2.npy").write_bytes((folder / "c2.npy").read_bytes()[:-9])
    (folder / "c3.npy").unlink()
    np.save(folder / "c4.npy", np.full((6, 4), np.nan, np.float32))


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("wrong width", 0, "c0.npy: found 3 x 7, expected T x 4"),
        ("empty", 1, "c1.npy: no frame"),
        ("damaged", 2, "c2.npy: missing, truncated"),
        ("damaged", 3, "c3.npy: missing"),
        ("not finite", 4, "c4.npy: 24 values"),
    ],
)
def test_files_that_cannot_be_taken(make: Make, kind: str, row: int, words: str) -> None:
    folder = make()
    original = {i: (folder / f"c{i}.npy").read_bytes() for i in range(5)}
    spoil(folder)
    for i, content in original.items():
        if i != row:
            (folder / f"c{i}.npy").write_bytes(content)
    with pytest.raises(DataError, match=rf"1 samples cannot be taken(.|\n)*{kind}: 1\n  c{row}: .*{words}"):
        manifest(folder, multi_label=True)
    if row not in (3, 4):
        with pytest.warns(UserWarning, match=f"1 samples are left out(.|\n)*{kind}: 1"):
            splits = manifest(folder, multi_label=True, bad="skip")
        assert f"c{row}" not in splits.train.ids + splits.validation.ids + splits.test.ids


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[0].__setitem__(1, ""), "no label: 1\n  c0"),
        (lambda rows: rows[0].__setitem__(1, "fly"), "unknown label: 1\n  c0: 'fly' is none of the 3 classes"),
        (lambda rows: rows[1].__setitem__(5, "9"), "other length: 1\n  c1: .*5 frames, announced were 9"),
        (lambda rows: rows[0].__setitem__(slice(4, None), [""] * 4), "no file: 1\n  c0"),
        (lambda rows: rows[0].__setitem__(6, "c0.npz"), "holds 2 arrays"),
        (lambda rows: rows[0].__setitem__(6, "c0.npz#x"), "holds no array 'x'; there: vggish, other"),
        (lambda rows: rows[0].__setitem__(7, "all.h5#clips"), "found Group, expected numbers"),
        (lambda rows: rows[0].__setitem__(6, "c0.npz#other"), r"shape \(2,\), expected numbers, T frames"),
    ],
)
def test_samples_that_cannot_be_taken(make: Make, change: Callable[[list[list[str]]], object], words: str) -> None:
    folder = make(change)
    (folder / "classes.txt").write_text("walk\ntalk\nsit\n")
    with pytest.raises(DataError, match=words):
        manifest(folder, multi_label=True)
    with pytest.warns(UserWarning, match="left out"):
        assert len(manifest(folder, multi_label=True, bad="skip").train) == 2


def test_several_labels_and_long_clips(make: Make) -> None:
    folder = make()
    with pytest.raises(DataError, match=r"several labels: 1\n  c2: 2 classes are named .*multi_label: true"):
        manifest(folder)
    with pytest.raises(DataError, match=r"too long: 2(.|\n)*c4\.npy: 6 frames, expected at most 5"):
        manifest(folder, multi_label=True, max_frames=5)
    with pytest.warns(UserWarning, match="several labels: 1"):
        splits = manifest(folder, bad="skip")
    assert splits.train.targets.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1].__setitem__(0, "c0"), "the id 'c0' occurs twice"),
        (lambda rows: rows[1].__setitem__(3, "val"), "line 3: split is 'val', expected one of train"),
        (lambda rows: rows[1].__setitem__(2, ""), "line 3: id and group"),
        (lambda rows: rows[1].__setitem__(5, "five"), "line 3: rgb:length is 'five'"),
        (lambda rows: rows[1].pop(), "line 3: more or fewer"),
        (lambda rows: rows[4].__setitem__(2, "g0"), "group 'g0' is in the splits train and test"),
        (lambda rows: rows[4].__setitem__(4, "x/../c0.npy"), r"in the splits train \(id 'c0'\) and test \(id 'c4'\)"),
        (lambda rows: rows[3].__setitem__(7, rows[1][7]), r"all.h5#clips/c1 is in the splits train .* and validation"),
        (lambda rows: rows[1].__setitem__(4, "c1.jpg"), "c1.jpg: no reader for '.jpg'; known: .npy"),
        (lambda rows: rows.clear(), "no line below the header"),
        (lambda rows: [row.__setitem__(3, "train") for row in rows], "no sample .* in the split 'test'"),
    ],
)
def test_manifests_that_cannot_be_meant(make: Make, change: Callable[[list[list[str]]], object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        manifest(make(change), multi_label=True, bad="skip")


@pytest.mark.parametrize(
    "header", ["id,targets,group,rgb", "id,targets,group,split", "id,targets,group,split,x:length"]
)
def test_columns_that_cannot_be_meant(make: Make, header: str) -> None:
    with pytest.raises(DataError, match="found the columns id, targets"):
        manifest(make(header=header))
    with pytest.raises(DataError, match="no list that can be read"):
        manifest(Path("/nowhere/manifest.csv"))


def test_a_look_at_the_files(make: Make) -> None:
    folder = make()
    report = data.check("manifest", folder)
    assert report.ok
    assert report.rows[1] == ("audio", "5", "3", "1", "1", "1 x 3")
    spoil(folder)
    np.save(folder / "c3.npy", clip(3, 4, 4))
    report = data.check("manifest", folder)
    assert [p.split(":")[0] for p in report.problems] == ["wrong width", "empty", "damaged", "not finite"]


def test_a_look_says_what_a_recipe_must_say_of_several_labels(make: Make) -> None:
    assert "1 of 6 samples name several classes: a recipe must say multi_label: true" in " ".join(
        data.check("manifest", make()).notes
    )

    def single(rows: list[list[str]]) -> None:
        rows[2][1] = "walk"

    assert "multi_label" not in " ".join(data.check("manifest", make(single)).notes)


def test_other_kinds_of_files_need_a_reader_alone(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(bytes(range(i + 2)))
    wave = Decoder(lambda path, part: torch.tensor(list(path.read_bytes())) / 128, axes="NT", rate=8000.0)
    rows = [Row(str(i), str(i), ("a",), {"sound": File(tmp_path / f"{i}.wav")}) for i in range(3)]
    found = open_recordings("mine", rows, ["a"], Faults(), decoders={**DECODERS, ".wav": wave}, cache=tmp_path)
    assert found.modalities["sound"].rate == 8000
    batch = found.read([0, 2])
    assert batch.mask["sound"].tolist() == [[True, True, False, False], [True] * 4]
    mixed = [*rows, Row("n", "n", ("a",), {"sound": File(tmp_path / "n.npy")})]
    with pytest.raises(DataError, match="holds NTD in feature, other files of 'sound' NT"):
        open_recordings("mine", mixed, ["a"], Faults(), decoders={**DECODERS, ".wav": wave}, cache=tmp_path)


def test_an_h5_of_one_array_needs_no_name(tmp_path: Path) -> None:
    read = read_h5
    with h5py.File(tmp_path / "one.h5", "w") as h5:
        h5["x"] = clip(2, 3, 4)
    assert torch.equal(read(tmp_path / "one.h5"), torch.from_numpy(clip(2, 3, 4)))
    with h5py.File(tmp_path / "one.h5", "a") as h5:
        h5["y"] = clip(2, 3, 4)
    with pytest.raises(DataError, match=r"holds 2 arrays \(x, y\), expected one; name it: one\.h5#NAME"):
        read(tmp_path / "one.h5")


def test_files_are_looked_at_again_when_they_change(make: Make) -> None:
    folder = make()
    manifest(folder, multi_label=True)
    np.save(folder / "c0.npy", np.full((3, 4), np.inf, np.float32))
    with pytest.raises(DataError, match="not finite"):
        manifest(folder, multi_label=True)
