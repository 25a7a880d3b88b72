"""UTD-MHAD: the protocols, what the tensors mean, the real recordings, and files that are damaged or missing."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

import crossguard as cg
from crossguard.core import DataError
from crossguard.data import SETS, Splits
from crossguard.data.utd_mhad import ACTIONS, BONES, JOINTS, modalities, utd_mhad
from crossguard.models import VideoResNet
from tests.data.conftest import Write, inertial

CLIPS = tuple(f"a{a}_s{s}_t1" for a in (2, 27, 10) for s in (1, 2, 3, 4))


pytestmark = pytest.mark.usefixtures("own_cache")


def ids(splits: Splits) -> tuple[set[str], set[str], set[str]]:
    return set(splits.train.ids), set(splits.validation.ids), set(splits.test.ids)


def test_names_are_complete_and_bones_a_tree() -> None:
    assert len(set(ACTIONS)) == 27
    assert len(set(JOINTS)) == 20
    joined = {BONES[0][0]}
    for _ in BONES:
        joined |= {b for a, b in BONES if a in joined}
    assert len(BONES) == 19
    assert joined == set(range(20))
    assert (JOINTS[BONES[6][0]], JOINTS[BONES[6][1]]) == ("left wrist", "left hand")


def test_cross_subject(make_utd: Write) -> None:
    splits = utd_mhad(make_utd(CLIPS), frames=4, size=24)
    train, validation, test = ids(splits)
    assert test == {c for c in CLIPS if c[-4] in "24"}
    assert train | validation == {c for c in CLIPS if c[-4] in "13"}
    assert len(set(splits.validation.groups)) == 1
    assert set(splits.test.groups) == {"s2", "s4"}
    assert splits.classes == ("swipe right", "draw circle (counter clockwise)", "squat")
    batch = splits.test.read(range(len(splits.test)))
    assert [splits.classes[t] for t in batch.targets.tolist()] == [
        {"a2": "swipe right", "a10": "draw circle (counter clockwise)", "a27": "squat"}[i.split("_")[0]]
        for i in batch.ids
    ]


def test_leave_one_subject_out(make_utd: Write) -> None:
    folder = make_utd(CLIPS)
    splits = utd_mhad(folder, protocol="leave_one_subject_out", subject=3, validation_subjects=2, frames=2, size=8)
    assert set(splits.test.groups) == {"s3"}
    assert len(set(splits.validation.groups)) == 2
    assert len(set(splits.train.groups)) == 1
    assert set.union(*ids(splits)) == set(CLIPS)


def test_validation_subjects_by_name(make_utd: Write) -> None:
    folder = make_utd(CLIPS)
    for held in (1, 3):
        splits = utd_mhad(folder, validation_subjects=(held,), frames=2, size=8)
        assert (set(splits.validation.groups), set(splits.train.groups)) == ({f"s{held}"}, {f"s{4 - held}"})
    for wrong in ((), (2,), (1, 3)):
        with pytest.raises(DataError, match=r"validation_subjects are .*, expected some, and not all, .*\[1, 3\]"):
            utd_mhad(folder, validation_subjects=wrong, frames=2, size=8)


def test_the_background_that_the_sensor_removed_is_not_the_attackers(make_utd: Write) -> None:
    splits = utd_mhad(make_utd(CLIPS), inputs=("depth",), frames=4, size=48)
    batch = splits.test.read(range(len(splits.test)))
    threat = cg.ThreatModel(depth=cg.Linf(30.0, bounds=(0.0, 8000.0)))
    torch.manual_seed(0)
    encoder = VideoResNet(channels=1, width=2, mean=None, std=100.0)
    model = cg.FusionModel({"depth": encoder}, cg.fusion.Concat(), 3)
    for attack in (cg.attacks.pgd, cg.attacks.square):
        found = attack(model, batch.inputs, batch.targets, threat, mask=batch.mask, ids=batch.ids, stop="never")
        moved = (found.inputs["depth"] - batch.inputs["depth"]).abs()
        assert not moved[~batch.mask["depth"]].any()
        assert 0 < float(moved[batch.mask["depth"]].max()) <= 30.0 + 1e-3


def test_depth_and_skeleton_are_of_the_same_frames_in_physical_units(make_utd: Write) -> None:
    splits = utd_mhad(make_utd(CLIPS), frames=4, size=48)
    batch = splits.train.read([0])
    depth, skeleton = batch.inputs["depth"], batch.inputs["skeleton"]
    assert depth.shape == (1, 1, 4, 48, 48)
    assert skeleton.shape == (1, 1, 4, 20, 3)
    body = torch.zeros(48, 48, dtype=torch.bool)
    body[12:36, 18:30] = True  # rows 60 to 179, columns 130 to 189 less 40, at 5 pixels each
    for t, frame in enumerate((1, 3, 5, 7)):
        assert torch.equal(batch.mask["depth"][0, 0, t], body)
        assert depth[0, 0, t][body].unique().tolist() == [2000.0 + 10 * frame]
        assert depth[0, 0, t][~body].unique().tolist() == [0.0]
        assert skeleton[0, 0, t].unique().tolist() == [float(frame)]


def test_inertial_is_padded_and_masked(make_utd: Write) -> None:
    splits = utd_mhad(make_utd(CLIPS), inputs=("gyroscope", "accelerometer"))
    longest = 20 + len(CLIPS) - 1
    for part in (splits.train, splits.validation, splits.test):
        batch = part.read(range(len(part)))
        for i, clip in enumerate(batch.ids):
            length = 20 + CLIPS.index(clip)
            raw = torch.from_numpy(inertial(length)).float()
            for name, columns in (("accelerometer", raw[:, :3]), ("gyroscope", raw[:, 3:])):
                assert batch.inputs[name].shape == (len(part), longest, 3)
                assert batch.mask[name][i].tolist() == [True] * length + [False] * (longest - length)
                assert torch.equal(batch.inputs[name][i, :length], columns)
                assert not batch.inputs[name][i, length:].any()


def test_rgb_where_present(make_utd: Write) -> None:
    folder = make_utd(CLIPS[:4], rgb=True)
    splits = utd_mhad(folder, inputs=("rgb", "skeleton"), frames=3, size=(12, 16))
    batch = splits.test.read([0, 1])
    assert batch.inputs["rgb"].shape == (2, 3, 3, 12, 16)
    assert batch.inputs["rgb"].dtype == torch.float32
    level = batch.inputs["rgb"].mean(dim=(1, 3, 4))
    torch.testing.assert_close(level, torch.tensor([[20.0, 60.0, 100.0]] * 2) / 255, atol=0.012, rtol=0)
    os.rename(folder / "RGB", folder / "RGB-part1")
    again = utd_mhad(folder, inputs=("rgb", "skeleton"), frames=3, size=(12, 16)).test.read([0, 1])
    assert torch.equal(again.inputs["rgb"], batch.inputs["rgb"])


def test_a_clip_that_lacks_a_modality_is_left_out_and_counted(make_utd: Write) -> None:
    folder = make_utd(CLIPS)
    (folder / "Skeleton/a2_s1_t1_skeleton.mat").unlink()
    (folder / "Depth/a2_s2_t1_depth.mat").unlink()
    with pytest.warns(UserWarning, match="2 of 12 clips lack one of depth, skeleton"):
        splits = utd_mhad(folder, frames=2, size=8)
    assert set.union(*ids(splits)) == set(CLIPS) - {"a2_s1_t1", "a2_s2_t1"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(utd_mhad(folder, inputs=("accelerometer",)).test) == 6


def test_the_cache_is_used_and_follows_files_and_options(make_utd: Write, tmp_path: Path) -> None:
    folder = make_utd(CLIPS[:4])
    first = utd_mhad(folder, frames=2, size=8).test.read([0])
    kept = list((tmp_path / "cache").glob("*.npz"))
    assert len(kept) == 1
    assert torch.equal(utd_mhad(folder, frames=2, size=8).test.read([0]).inputs["depth"], first.inputs["depth"])
    assert list((tmp_path / "cache").glob("*.npz")) == kept
    other = utd_mhad(folder, frames=3, size=8, cache=tmp_path / "elsewhere")
    assert other.test.read([0]).inputs["depth"].shape[2] == 3
    assert list((tmp_path / "cache").glob("*.npz")) == kept
    savemat(folder / f"Skeleton/{CLIPS[1]}_skeleton.mat", {"d_skel": np.full((20, 3, 8), 7.0)})
    assert utd_mhad(folder, frames=2, size=8).test.read([0]).inputs["skeleton"].unique().tolist() == [7.0]


@pytest.mark.parametrize(
    ("size", "point", "pixel"), [((48, 48), (0, 0, 2), (24, 24)), ((48, 64), (0.56019, 0, 2), (48, 24))]
)
def test_the_camera_is_that_of_the_window(
    size: tuple[int, int], point: tuple[float, float, float], pixel: tuple[float, float]
) -> None:
    fx, fy, cx, cy = modalities(size)["skeleton"].camera or ()
    x, y, z = point
    u, v = size[1] * (cx + fx * x / z), size[0] * (cy - fy * y / z)
    assert (u, v) == pytest.approx(pixel, abs=1e-3)


def damaged(folder: Path, kind: str, change: Callable[[bytes], bytes]) -> None:
    path = next(folder.glob(f"{kind}/a2_s2_t1_*"))
    path.write_bytes(change(path.read_bytes()))


FILES = {
    "Depth": ("depth.mat", "depth"),
    "Skeleton": ("skeleton.mat", "skeleton"),
    "Inertial": ("inertial.mat", "gyroscope"),
}


@pytest.mark.parametrize("kind", list(FILES))
@pytest.mark.parametrize(
    "change",
    [
        *(lambda data, n=n: data[:n] for n in (0, 10, 127, 128, 135, 200)),
        *(lambda data, s=s: data[: int(len(data) * s)] for s in (0.5, 0.9)),
        lambda data: data[:-1],
        lambda data: data[:160] + bytes(b ^ 0x5A for b in data[160:]),
        lambda data: b"no mat file at all" * 100,
    ],
)
def test_a_truncated_or_damaged_mat_file_is_named(make_utd: Write, kind: str, change: Callable[[bytes], bytes]) -> None:
    folder = make_utd(CLIPS[:4], frames=3)
    damaged(folder, kind, change)
    suffix, name = FILES[kind]
    with pytest.raises(DataError, match=f"a2_s2_t1_{suffix}.*fetch"):
        utd_mhad(folder, inputs=(name,), frames=2, size=8)


def test_a_truncated_avi_is_named(make_utd: Write) -> None:
    folder = make_utd(CLIPS[:4], rgb=True)
    damaged(folder, "RGB", lambda data: data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a2_s2_t1_color\.avi: truncated"):
        utd_mhad(folder, inputs=("rgb",), frames=2, size=8)


def nan(shape: tuple[int, ...], value: float = np.nan) -> np.ndarray[Any, Any]:
    array = np.zeros(shape)
    array[1, 2] = value
    return array


@pytest.mark.parametrize(
    ("kind", "variables", "words"),
    [
        ("depth", {"d_skel": np.zeros((20, 3, 4))}, r"found \['d_skel'\], expected 'd_depth'"),
        ("depth", {}, "found no variable, expected 'd_depth'"),
        ("depth", {"d_depth": np.zeros((320, 240, 4), np.uint16)}, "320 x 240 x 4 of uint16, .*240 x 320 x T"),
        ("depth", {"d_depth": np.zeros((240, 320), np.uint16)}, "240 x 320 of uint16"),
        ("depth", {"d_depth": np.zeros((240, 320, 0), np.uint16)}, "240 x 320 x 0"),
        ("depth", {"d_depth": np.full((240, 320, 2), 9000, np.uint16)}, "depth spans 9000 to 9000, .*millimetres"),
        ("depth", {"d_depth": np.full((240, 320, 2), -1.0)}, "depth spans -1"),
        ("skeleton", {"d_skel": np.zeros((25, 3, 4))}, "25 x 3 x 4 of float64, .*20 x 3 x T"),
        ("skeleton", {"d_skel": nan((20, 3, 4))}, "d_skel has NaN or Inf"),
        ("skeleton", {"d_skel": nan((20, 3, 4), -np.inf)}, "d_skel has NaN or Inf"),
        ("skeleton", {"d_skel": np.array([["a"]], dtype=object)}, "expected numbers"),
        ("inertial", {"d_iner": np.zeros((40, 9))}, "40 x 9 of float64, .*T x 6"),
        ("inertial", {"d_iner": nan((40, 6))}, "d_iner has NaN or Inf"),
    ],
)
def test_a_file_with_other_content_is_named(make_utd: Write, kind: str, variables: dict[str, Any], words: str) -> None:
    folder = make_utd(CLIPS[:4], frames=2)
    file = folder / kind.capitalize() / f"a2_s2_t1_{kind}.mat"
    savemat(file, variables)
    with pytest.raises(DataError, match=rf"a2_s2_t1_{kind}\.mat: .*{words}"):
        utd_mhad(folder, inputs=("gyroscope" if kind == "inertial" else kind,), frames=2, size=8)


@pytest.mark.parametrize("there", [[], ["photos/cat.jpg", "readme.txt"], ["Depth/notes.txt"], ["a1_s1_t1_depth.mat"]])
def test_a_folder_in_another_layout_is_told_the_layout(tmp_path: Path, there: list[str]) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in there:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    with pytest.raises(DataError, match=r"no file of UTD-MHAD; expected:\nDepth/aA_sS_tT_depth\.mat"):
        utd_mhad(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": ("depth", "sound")}, "expected some of depth, skeleton, accelerometer, gyroscope, rgb"),
        ({"inputs": ()}, "expected some of"),
        ({"inputs": ("depth", "depth")}, "each once"),
        ({"inputs": ("depth", "rgb")}, r"no clip has all of depth, rgb .*rgb: 0"),
        ({"frames": 0}, "frames is 0"),
        ({"size": (8, 0)}, "size is"),
        ({"protocol": "random"}, "'random', expected 'cross_subject'"),
        ({"protocol": "leave_one_subject_out"}, r"subject is None, .* of \[1, 2, 3, 4\]"),
        ({"protocol": "leave_one_subject_out", "subject": 7}, "subject is 7"),
        ({"subject": 2}, "say leave_one_subject_out"),
        ({"validation_subjects": 2}, "cannot hold out 2 of the 2 training groups"),
        ({"validation_subjects": 0}, "cannot hold out 0"),
    ],
)
def test_impossible_options_are_refused(make_utd: Write, options: dict[str, Any], words: str) -> None:
    folder = make_utd(CLIPS[:4], frames=2)
    with pytest.raises(DataError, match=words):
        utd_mhad(folder, **({"frames": 2, "size": 8} | options))


def test_missing_folders_subjects_names_and_packages(make_utd: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such folder"):
        utd_mhad(Path("/nowhere/utd"))
    folder = make_utd(["a1_s1_t1", "a1_s3_t1"], frames=2)
    with pytest.raises(DataError, match=r"subjects \[1, 3\], expected some to train on and some to test on"):
        utd_mhad(folder, frames=2, size=8)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"pip install 'crossguard\[data\]'"):
        utd_mhad(folder, frames=3, size=8)
    (folder / "Depth/a28_s1_t1_depth.mat").write_text("")
    with pytest.raises(DataError, match=r"a28_s1_t1_depth\.mat: .*action 1 to 27"):
        utd_mhad(folder)


@pytest.fixture
def few_real(shared_data: Path, tmp_path: Path) -> Path:
    """Sixteen real clips, linked into a folder of their own."""
    for kind in ("depth", "skeleton", "inertial"):
        folder = tmp_path / "real" / kind.capitalize()
        folder.mkdir(parents=True)
        for subject in range(1, 9):
            for action in (1, 15):
                name = f"a{action}_s{subject}_t2_{kind}.mat"
                (folder / name).symlink_to(shared_data / "utd_mhad" / kind.capitalize() / name)
    return tmp_path / "real"


def test_real_recordings(few_real: Path) -> None:
    inputs = ("depth", "skeleton", "accelerometer", "gyroscope")
    splits = SETS["utd_mhad"](path=few_real, inputs=inputs)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 2, 8)
    assert splits.classes == ("swipe left", "tennis swing")
    batch = splits.test.read(range(8))
    for name, modality in splits.modalities.items():
        low, high = modality.bounds or (-10.0, 10.0)
        assert low <= float(batch.inputs[name].min()) < float(batch.inputs[name].max()) <= high
    depth, body = batch.inputs["depth"], batch.mask["depth"]
    assert 0.05 < float(body.float().mean()) < 0.2
    assert torch.equal(body, depth > 0)

    # Joints fall on the body in the resized picture, and are as far away as the depth there.
    skeleton = batch.inputs["skeleton"][:, 0]
    fx, fy, cx, cy = splits.modalities["skeleton"].camera or ()
    u = (48 * (cx + fx * skeleton[..., 0] / skeleton[..., 2])).long().clamp(0, 47)
    v = (48 * (cy - fy * skeleton[..., 1] / skeleton[..., 2])).long().clamp(0, 47)
    clip, frame = torch.arange(8)[:, None, None], torch.arange(16)[None, :, None]
    hit = body[clip, 0, frame, v, u]
    assert float(hit.float().mean()) > 0.9
    assert float((depth[clip, 0, frame, v, u] - 1000 * skeleton[..., 2])[hit].abs().median()) < 100

    # The silhouette keeps its area: as many square centimetres as in the files.
    for i, name in enumerate(batch.ids):
        raw = loadmat(few_real / "Depth" / f"{name}_depth.mat")["d_depth"]
        frames = (2 * np.arange(16) + 1) * raw.shape[2] // 32
        share = (raw[:, 40:280, frames] > 0).mean()
        assert float(body[i].float().mean()) == pytest.approx(float(share), rel=0.05)
        raw = loadmat(few_real / "Inertial" / f"{name}_inertial.mat")["d_iner"]
        both = torch.cat([batch.inputs["accelerometer"][i], batch.inputs["gyroscope"][i]], dim=1)
        torch.testing.assert_close(both[: len(raw)], torch.from_numpy(raw).float())
        assert int(batch.mask["gyroscope"][i].sum()) == len(raw)
