"""AudioSet's and Kinetics-Sounds' layouts, made small; and the official lists where they are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from crossguard import data
from crossguard.core import DataError
from crossguard.data.audioset import audioset
from crossguard.data.audioset_files import Segment, read_segments, read_vocabulary
from crossguard.data.kinetics_sounds import kinetics_sounds
from crossguard.recipe import load, load_splits, train_run
from crossguard.recipe.run import task_of
from tests.data.conftest import grey_ramp
from tests.data.media import tone, write_mp4, write_sound

LABELS = 'index,mid,display_name\n0,/m/s,Speech\n1,/m/g,Guitar\n2,/m/d,Drum\n3,/m/n,"Noise, loud"\n'
ONTOLOGY = [
    {"id": "/m/m", "name": "Music", "child_ids": ["/m/i"]},
    {"id": "/m/i", "name": "Instrument", "child_ids": ["/m/g", "/m/d"]},
    {"id": "/m/g", "name": "Guitar", "child_ids": []},
    {"id": "/m/d", "name": "Drum", "child_ids": []},
    {"id": "/m/s", "name": "Speech", "child_ids": []},
    {"id": "/m/n", "name": "Noise, loud", "child_ids": []},
]
ROOT = Path(__file__).parents[2] / "recipes"
SMALL = {"rate": 8000, "seconds": 0.2, "frames": 2, "size": 8}


pytestmark = pytest.mark.usefixtures("own_cache")


def video(i: int) -> str:
    return f"-_{i:03d}abcdef"  # eleven characters, as YouTube has them


def write_lists(root: Path, train: int = 6, test: int = 3) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "class_labels_indices.csv").write_text(LABELS)
    (root / "ontology.json").write_text(json.dumps(ONTOLOGY))
    mids = ("/m/s", "/m/g,/m/n", "/m/d")
    for name, numbers in (("balanced_train", range(train)), ("eval", range(train, train + test))):
        lines = ["# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=…", "# YTID, start_seconds, …"]
        lines += [f'{video(i)}, 30.000, 40.000, "{mids[i % 3]}"' for i in numbers]
        (root / f"{name}_segments.csv").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine listed clips under as many names as tools give them; clip 5 has no sound file but a video with sound."""
    root = tmp_path / "audioset"
    write_lists(root)
    for i in range(9):
        v = video(i)
        name = [v, f"{v}_30", f"Y{v}", f"{v}_30000", f"{v}_30.000_40.000", f"{v}_000030_000040"][i % 6]
        if i != 5:
            write_sound(root / "audio" / "some" / f"{name}.wav", tone(0.3, 8000, 300 + 50 * i), 8000)
        write_mp4(root / "video" / f"{v}.mp4", grey_ramp(4, (16, 16)), tone(0.3, 16000), 16000)
    return root


def test_clips_are_found_under_every_name(folder: Path) -> None:
    splits = audioset(folder, validation=0.2, **SMALL)
    assert splits.classes == ("Speech", "Guitar", "Drum", "Noise, loud")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5, 1, 3]
    batch = splits.test.read([0, 1])
    assert batch.ids == (f"{video(6)}_30", f"{video(7)}_30")
    assert batch.targets.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1]]
    assert batch.inputs["audio"].shape == (2, 1600)
    assert batch.inputs["rgb"].shape == (2, 3, 2, 8, 8)
    spectrum = np.abs(np.fft.rfft(batch.inputs["audio"][1].numpy()))
    assert spectrum.argmax() * 5 == pytest.approx(650, abs=5)
    assert batch.groups == (video(6), video(7))


def test_missing_clips_are_left_out_or_masked(folder: Path) -> None:
    (folder / "video" / f"{video(0)}.mp4").unlink()
    (folder / "video" / f"{video(6)}.mp4").unlink()
    shutil.rmtree(folder / "frames", ignore_errors=True)
    left = audioset(folder, validation=0.2, **SMALL)
    assert len(left.train) + len(left.validation) == 5
    assert len(left.test) == 2
    masked = audioset(folder, validation=0.2, missing="mask", **SMALL)
    assert len(masked.test) == 3
    assert masked.test.read([0, 1]).mask["rgb"].flatten(1).any(dim=1).tolist() == [False, True]


def test_some_classes_and_what_lies_below_them(folder: Path) -> None:
    splits = audioset(folder, classes=("Music", "/m/s"), validation=0.2, **SMALL)
    assert splits.classes == ("Music", "Speech")
    assert splits.test.read([0, 1, 2]).targets.tolist() == [[0, 1], [1, 0], [1, 0]]
    both = audioset(folder, classes=("Guitar", "Music"), validation=0.4, **SMALL)
    assert both.test.read([0, 1]).targets.tolist() == [[1, 1], [0, 1]]
    with pytest.raises(DataError, match="no class 'Musik'; did you mean 'Music'"):
        audioset(folder, classes=("Musik",))


def test_the_check_says_what_share_of_each_class_is_there(folder: Path) -> None:
    (folder / "video" / f"{video(0)}.mp4").unlink()
    report = data.check("audioset", folder)
    assert report.ok
    assert report.header == ("class", "train", "there", "test", "there")
    assert report.rows[0] == ("Speech", "2", "50 %", "1", "100 %")
    assert report.rows[2] == ("Drum", "2", "100 %", "1", "100 %")
    assert report.notes == (
        "8 of 9 clips (88.9 %) have all of audio, rgb",
        "audio: 0 of 9 clips have none",
        "rgb: 1 of 9 clips have none",
    )
    damaged = folder / "video" / f"{video(1)}.mp4"
    damaged.write_bytes(damaged.read_bytes()[:300])
    silent = write_sound(folder / "audio" / f"{video(7)}_30.wav", np.zeros(900, np.int16), 8000)
    (folder / "audio" / "some" / silent.name).unlink()
    os.rename(folder / "audio" / "some" / f"Y{video(2)}.wav", os.fsencode(folder / "audio") + b"/caf\xe9.wav")
    report = data.check("audioset", folder)
    assert not report.ok
    assert sorted(problem.split(":")[0] for problem in report.problems) == ["damaged", "name", "silent"]
    with pytest.raises(DataError, match="not UTF-8"):
        audioset(folder, **SMALL)
    with pytest.warns(UserWarning, match="3 samples are left out"):
        splits = audioset(folder, bad="skip", validation=0.3, **SMALL)
    assert len(splits.test) == 2


def test_features_in_place_of_media(folder: Path) -> None:
    for i in range(9):
        (folder / "features" / "vggish").mkdir(parents=True, exist_ok=True)
        np.save(folder / "features" / "vggish" / f"{video(i)}.npy", np.full((10, 4), i, np.float32))
    splits = audioset(folder, inputs=("vggish",), validation=0.2)
    batch = splits.test.read([2])
    assert batch.inputs["vggish"].shape == (1, 10, 4)
    assert float(batch.inputs["vggish"][0, 0, 0]) == 8


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("eval_segments.csv", "abc, x, 10.0, /m/s", r"line \d+: found"),
        ("eval_segments.csv", f'{video(6)}, 30.000, 40.000, "/m/s"', "occurs twice"),
        ("class_labels_indices.csv", "4,/m/x", "expected the columns"),
    ],
)
def test_lists_that_cannot_be_meant(folder: Path, file: str, line: str, words: str) -> None:
    with (folder / file).open("a", encoding="utf-8") as stream:
        stream.write("\n" + line)
    with pytest.raises(DataError, match=words):
        audioset(folder, **SMALL)


@pytest.mark.parametrize(
    "file", ["balanced_train_segments.csv", "eval_segments.csv", "class_labels_indices.csv", "ontology.json"]
)
def test_a_byte_order_mark_changes_nothing(file: str, folder: Path) -> None:
    for kind in ("balanced_train", "eval"):  # without the comments that begin them
        lines = (folder / f"{kind}_segments.csv").read_text(encoding="utf-8").splitlines()[3:]
        (folder / f"{kind}_segments.csv").write_text("\n".join(lines), encoding="utf-8")
    options = {**SMALL, "classes": ("Music", "Speech"), "validation": 0.2}
    before = audioset(folder, **options)
    text = (folder / file).read_text(encoding="utf-8")
    (folder / file).write_text(text, encoding="utf-8-sig")
    after = audioset(folder, **options)
    assert (after.classes, after.train.ids, after.test.ids) == (before.classes, before.train.ids, before.test.ids)
    (folder / file).write_text(f"{text}\né", encoding="latin-1")
    with pytest.raises(DataError, match=f"{file}: found the byte 0xe9, .* save the file as UTF-8"):
        audioset(folder, **options)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no list that can be read"):
        audioset(tmp_path)
    write_lists(tmp_path / "bare")
    with pytest.raises(DataError, match="none of audio, frames, video is there"):
        audioset(tmp_path / "bare")
    (tmp_path / "bare" / "audio").mkdir()
    with pytest.raises(DataError, match="none of 9 clips has all of audio, rgb"):
        audioset(tmp_path / "bare")
    (tmp_path / "bare" / "ontology.json").write_text("{")
    with pytest.raises(DataError, match="no ontology that can be read"):
        audioset(tmp_path / "bare", classes=("Music",))


@pytest.fixture
def kinetics(tmp_path: Path) -> Path:
    root = tmp_path / "ks"
    names = [f"{video(i)}_{i:06d}_{i + 10:06d}" for i in range(9)]
    root.mkdir()
    (root / "my_train.txt").write_text("\n".join(f"{name},10,{i % 31}" for i, name in enumerate(names[:6])))
    (root / "my_test.txt").write_text("\n".join(f"{name},10,{i}" for i, name in enumerate(names[6:])) + "\n")
    for name in names:
        write_mp4(root / "video" / f"{name}.mp4", grey_ramp(4, (16, 16)), tone(0.3, 16000), 16000)
    return root


def test_kinetics_sounds(kinetics: Path) -> None:
    splits = kinetics_sounds(kinetics, validation=0.2, **SMALL)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5, 1, 3]
    assert len(splits.classes) == 31
    assert splits.test.read([2]).targets.tolist() == [2]
    (kinetics / "classes.txt").write_text("\n".join(f"action {i}" for i in range(31)))
    assert kinetics_sounds(kinetics, validation=0.2, **SMALL).classes[3] == "action 3"
    (next((kinetics / "video").iterdir())).unlink()
    report = data.check("kinetics_sounds", kinetics)
    assert report.notes[0].startswith("8 of 9 clips (88.9 %)")
    with (kinetics / "my_test.txt").open("a") as file:
        file.write("name,10,31\n")
    with pytest.raises(DataError, match=r"my_test\.txt, line 4: found 'name,10,31'"):
        kinetics_sounds(kinetics)
    (kinetics / "classes.txt").write_text("one")
    with pytest.raises(DataError, match="1 different names, expected 31"):
        kinetics_sounds(kinetics)


def test_a_byte_order_mark_loses_no_clip(kinetics: Path) -> None:
    (kinetics / "classes.txt").write_text("\n".join(f"action {i}" for i in range(31)), encoding="utf-8-sig")
    for name in ("my_train.txt", "my_test.txt"):
        (kinetics / name).write_text((kinetics / name).read_text(), encoding="utf-8-sig")
    splits = kinetics_sounds(kinetics, validation=0.2, **SMALL)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5, 1, 3]
    assert splits.classes[0] == "action 0"
    (kinetics / "classes.txt").write_text("é\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"classes\.txt: found the byte 0xe9, .* save the file as UTF-8"):
        kinetics_sounds(kinetics)


@pytest.mark.parametrize("stem", ["mid-standard", "mid-adversarial"])
@pytest.mark.parametrize("name", ["audioset", "kinetics_sounds"])
def test_the_recipes_train_on_what_is_there(name: str, stem: str, folder: Path, kinetics: Path, tmp_path: Path) -> None:
    place = {"audioset": folder, "kinetics_sounds": kinetics}[name]
    small = (
        *(f"data.path={place}", "data.seconds=0.2", "data.frames=2", "data.size=16", "data.validation=0.2"),
        *("model.encoders.audio.width=2", "model.encoders.audio.settings={mels: 16, n_fft: 1024}"),
        *("model.encoders.rgb.width=4", "model.fusion={name: mid, width: 16}", "train.epochs=2", "train.batch_size=5"),
    )
    recipe = load(ROOT / name / f"{stem}.yaml", small)
    splits = load_splits(recipe)
    task = task_of(splits)
    assert type(task).__name__ == ("MultiLabel" if name == "audioset" else "SingleLabel")
    trained = train_run(recipe, tmp_path / "run", splits=splits)
    assert len(trained.history) == 2
    assert trained.price.backwards > 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_the_official_lists(shared_data: Path) -> None:
    lists = shared_data / "lists" / "audioset"
    everything = read_vocabulary(lists, ())
    assert len(everything.classes) == 527
    train = read_segments(lists / "balanced_train_segments.csv", everything)
    evaluation = read_segments(lists / "eval_segments.csv", everything)
    assert [len(train), len(evaluation)] == [22160, 20371]
    assert isinstance(train[0], Segment)
    assert not {s.video for s in train} & {s.video for s in evaluation}
    music = read_vocabulary(lists, ("Music",))
    assert 130 < len(music.counts_as) < 250
    assert len(read_segments(lists / "eval_segments.csv", music)) > 4000
