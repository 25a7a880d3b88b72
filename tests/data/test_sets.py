"""The registry, and the look at the files of a set."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from crossguard import data
from crossguard.core import DataError
from tests.data import yt8m
from tests.data.conftest import Write

CLIPS = tuple(f"a{a}_s{s}_t{t}" for a in (1, 9) for s in (1, 2, 5) for t in (1, 2))


@pytest.mark.parametrize("name", list(data.SOURCES))
def test_every_source_is_described_and_can_be_asked_by_a_recipe(name: str) -> None:
    source = data.SOURCES[name]
    assert data.SETS[name] is source.load
    assert source.name == name
    assert all((source.summary, source.origin, source.licence, source.layout))
    signature = inspect.signature(source.load, eval_str=True)
    assert signature.return_annotation is data.Splits
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert ("path" in signature.parameters) == (source.look is not None)  # what is fetched can be damaged


def test_a_whole_folder(make_utd: Write) -> None:
    folder = make_utd(CLIPS, frames=2, rgb=True)
    report = data.check("utd_mhad", folder)
    assert report.ok
    assert report.path == folder
    assert report.header == ("kind", "files", "actions", "subjects", "missing", "damaged")
    assert report.rows == tuple((kind, "12", "2", "3", "0", "0") for kind in ("depth", "skeleton", "inertial", "rgb"))
    assert report.notes == ()


def test_gaps_are_notes_and_damage_is_a_problem(make_utd: Write) -> None:
    folder = make_utd(CLIPS, frames=2)
    (folder / "Skeleton/a9_s5_t1_skeleton.mat").unlink()
    (folder / "Skeleton/a9_s5_t2_skeleton.mat").unlink()
    broken = folder / "Depth/a1_s1_t1_depth.mat"
    broken.write_bytes(broken.read_bytes()[:500])
    savemat(folder / "Inertial/a1_s2_t2_inertial.mat", {"other": 1})
    report = data.check("utd_mhad", folder)
    assert not report.ok
    assert report.rows == (
        ("depth", "12", "2", "3", "0", "1"),
        ("skeleton", "10", "2", "3", "2", "0"),
        ("inertial", "12", "2", "3", "0", "1"),
        ("rgb", "0", "0", "0", "12", "0"),
    )
    assert report.notes == ("skeleton: 2 clips have none (a9_s5_t1, a9_s5_t2)", "no rgb file: it cannot be asked for")
    assert len(report.problems) == 2
    assert "a1_s1_t1_depth.mat: truncated or damaged" in report.problems[0]
    assert "a1_s2_t2_inertial.mat: found ['other']" in report.problems[1]


def test_what_cannot_be_looked_at(tmp_path: Path, make_utd: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = data.check("figures")
    assert generated.ok
    assert "generated" in generated.notes[0]
    with pytest.raises(DataError, match="did you mean 'utd_mhad'"):
        data.check("utd_mhat", tmp_path)
    with pytest.raises(DataError, match="known: figures"):
        data.check("zzz", tmp_path)
    with pytest.raises(DataError, match="give its path"):
        data.check("utd_mhad")
    with pytest.raises(DataError, match="no file of UTD-MHAD"):
        data.check("utd_mhad", tmp_path)
    folder = make_utd(CLIPS[:1], frames=2)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"crossguard\[data\]"):
        data.check("utd_mhad", folder)


@pytest.mark.parametrize("name", ["figures", "events"])
def test_a_path_of_what_reads_none_is_refused(name: str, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"{name} is generated and reads no folder, found the path {path}"):
            data.check(name, path)


@pytest.mark.usefixtures("own_cache")
def test_what_is_read_in_place_of_a_generated_set_is_looked_at(tmp_path: Path) -> None:
    yt8m.write(tmp_path, "train0.tfrecord", range(3))
    yt8m.write(tmp_path, "validate0.tfrecord", range(3, 5))
    assert data.check("moments", tmp_path).rows == data.check("youtube8m", tmp_path).rows
    with pytest.raises(DataError, match="no such folder"):
        data.check("moments", tmp_path / "nowhere")
    assert data.check("moments").ok


def refusal(name: str, path: Path, **options: Any) -> str | None:
    """What the reader says of a folder that it does not take."""
    try:
        data.SETS[name](path, **options)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a g train,b h train,c i test", None),
        ("a g train,b h train,c g test,d h test,e i test", "group 'g' is in the splits train and test (2 such)"),
        ("a g train,b g validation,c i test", "group 'g' is in the splits train and validation (1 such)"),
        ("a g train,b h train,c i validation", "no sample that can be taken is in the split 'test'"),
        ("a g train,b g train,c i test", "cannot hold out 1 of the 1 training groups (g)"),
        ("a g train,a h train,c i test", "the id 'a' occurs twice"),
    ],
)
def test_of_a_manifest_the_look_says_what_the_reader_would(tmp_path: Path, lines: str, words: str | None) -> None:
    rows = ["id,targets,group,split,rgb"]
    for number, line in enumerate(lines.split(",")):
        np.save(tmp_path / f"{number}.npy", np.zeros((2, 3), np.float32))
        name, group, split = line.split()
        rows.append(f"{name},walk,{group},{split},{number}.npy")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    said = refusal("manifest", tmp_path)
    assert (said is None) == (words is None)
    assert (words or "") in (said or "")
    try:
        problems = data.check("manifest", tmp_path).problems
    except DataError as error:  # of the manifest itself, before any file is looked at
        problems = (str(error),)
    assert problems == (() if said is None else (said,))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ({"train0": range(4), "train1": range(4, 6), "validate0": range(6, 8)}, None),
        ({"train0": range(4), "train0 (1)": range(4), "validate0": range(6, 8)}, "the id 'v0' occurs twice (4 such)"),
        ({"train0": range(4), "validate0": range(3, 6)}, "the id 'v3' occurs twice (1 such)"),
        ({"train0": range(4)}, "validate*.tfrecord: no example"),
        ({"train0": range(4), "validate0": range(0)}, "validate*.tfrecord: no example"),
        ({"validate0": range(4)}, "train*.tfrecord: no example"),
    ],
)
def test_of_shards_the_look_says_what_the_reader_would(
    tmp_path: Path, shards: dict[str, range], words: str | None
) -> None:
    for name, numbers in shards.items():
        yt8m.write(tmp_path, f"{name}.tfrecord", numbers)
    assert (refusal("youtube8m", tmp_path) is None) == (words is None)
    problems = data.check("youtube8m", tmp_path).problems
    assert len(problems) == (words is not None)
    assert (words or "") in "".join(problems)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """An AudioSet of five clips, four to train on, as features alone."""
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/s,Speech\n")
    for name, numbers in (("balanced_train", range(4)), ("eval", range(4, 5))):
        lines = [f'video{i:06d}, 30.000, 40.000, "/m/s"' for i in numbers]
        (tmp_path / f"{name}_segments.csv").write_text("\n".join(lines) + "\n")
    folder = tmp_path / "features" / "vggish"
    folder.mkdir(parents=True)
    for i in range(5):
        np.save(folder / f"video{i:06d}.npy", np.zeros((2, 3), np.float32))
    return tmp_path


@pytest.mark.usefixtures("own_cache")
def test_what_a_system_leaves_among_features_is_none(clips: Path) -> None:
    (clips / "features" / ".DS_Store").write_bytes(b"Bud1")
    (clips / "features" / "notes.txt").write_text("mine")
    (clips / "features" / ".Trash").mkdir()
    report = data.check("audioset", clips)
    assert report.ok
    assert report.notes[0] == "5 of 5 clips (100.0 %) have all of vggish"


@pytest.mark.usefixtures("own_cache")
def test_of_clips_the_look_says_what_the_reader_would(clips: Path) -> None:
    with (clips / "eval_segments.csv").open("a") as file:
        file.write('video000001, 50.000, 60.000, "/m/s"\n')
    said = refusal("audioset", clips, inputs=("vggish",))
    assert said is not None
    assert "group 'video000001' is in the splits train and test (1 such)" in said
    assert data.check("audioset", clips).problems == (said,)
    for file in (clips / "features" / "vggish").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="none of 6 clips has any of vggish"):
        data.check("audioset", clips)


@pytest.mark.slow
def test_the_real_folder_is_whole(shared_data: Path) -> None:
    report = data.check("utd_mhad", shared_data / "utd_mhad")
    assert report.ok
    assert [row[:4] for row in report.rows[:3]] == [(k, "319", "10", "8") for k in ("depth", "skeleton", "inertial")]
