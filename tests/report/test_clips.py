"""Clips: axes, quantisation, sizes, and which record's clips stand side by side."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossguard import Modality
from crossguard.evaluation.record import Record
from crossguard.report import clips
from crossguard.report.pack import arrange, kind, nice, pack, thin
from tests.report.synthetic import DEPTH, INERTIAL, RGB, SKELETON, make


def unpack(packed: dict[str, Any]) -> NDArray[np.float64]:
    codes = np.frombuffer(zlib.decompress(base64.b64decode(packed["z"])), dtype=f"<{packed['type']}")
    return (packed["offset"] + packed["step"] * codes.astype(np.float64)).reshape(packed["shape"])


@pytest.mark.parametrize(
    ("axes", "shape", "drawn", "arranged"),
    [
        ("NCTHW", (3, 5, 6, 7), "video", (5, 6, 7, 3)),
        ("NTHWC", (5, 6, 7, 1), "video", (5, 6, 7, 1)),
        ("NTHW", (5, 6, 7), "video", (5, 6, 7, 1)),
        ("NCHW", (3, 6, 7), "video", (1, 6, 7, 3)),
        ("NMCTHW", (2, 3, 5, 6, 7), "video", (5, 6, 7, 3)),
        ("NMTVC", (2, 5, 25, 3), "skeleton", (5, 2, 25, 3)),
        ("NTVC", (5, 25, 2), "skeleton", (5, 1, 25, 2)),
        ("NCTV", (3, 5, 25), "skeleton", (5, 1, 25, 3)),
        ("NTD", (50, 6), "series", (50, 6)),
        ("NT", (50,), "series", (50, 1)),
        ("NCT", (4, 50), "series", (50, 4)),
        ("ND", (9,), "series", (1, 9)),
        ("NCTD", (2, 50, 64), "series", (50, 64)),
    ],
)
def test_every_rank_finds_its_axes(axes: str, shape: tuple[int, ...], drawn: str, arranged: tuple[int, ...]) -> None:
    modality = Modality("x", axes, "1")
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert kind(modality) == drawn
    assert arrange(x, modality).shape == arranged


def test_arranged_values_are_those_of_the_sample() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 6, 7))
    assert arrange(x, RGB)[4, 2, 6, 1] == x[1, 4, 2, 6]
    y = np.random.default_rng(0).normal(size=(2, 5, 25, 3))
    assert arrange(y, SKELETON)[4, 1, 20, 2] == y[1, 4, 20, 2]


@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16]), st.booleans(), st.floats(1e-6, 1e6))
def test_packing_is_right_to_half_a_step(seed: int, bits: int, signed: bool, scale: float) -> None:
    x = scale * np.random.default_rng(seed).normal(size=(3, 4, 2))
    packed = pack(x, bits, signed=signed)
    assert np.abs(unpack(packed) - x).max() <= 0.5001 * packed["step"] + 1e-12 * scale


@pytest.mark.parametrize("signed", [True, False])
def test_constant_clips_are_packed(signed: bool) -> None:
    x = np.zeros((2, 3)) if signed else np.full((2, 3), 7.0)
    assert np.array_equal(unpack(pack(x, 8, signed=signed)), x)


def test_large_clips_are_thinned_to_what_a_page_can_carry() -> None:
    x, step, frames = thin(np.zeros((130, 224, 300, 3)), RGB)
    assert (step, frames) == (3, 3)
    assert max(x.shape[1:3]) <= 112
    assert x.shape[0] <= 64


@pytest.mark.parametrize(("wanted", "gain"), [(0.3, 1), (3.9, 2), (15.9, 10), (16.0, 16), (1e9, 1000)])
def test_gains_are_round_numbers(wanted: float, gain: int) -> None:
    assert nice(wanted) == gain


def test_changes_come_back_and_untouched_modalities_are_not_stored(tmp_path: Path) -> None:
    record = Record.load(make(tmp_path / "a"))
    shown = clips.reel([record], ["a"], 10**8).data["clips"][0]
    change = shown["models"]["0"]["changes"]
    assert set(change) == {"only:rgb", "only:skeleton", "joint"}
    assert set(change["only:rgb"]) == {"rgb"}
    assert set(change["joint"]) == {"rgb", "skeleton"}
    truth = arrange(record.clips["0/rgb/joint"], RGB) - arrange(record.clips["0/rgb/clean"], RGB)
    assert np.abs(unpack(change["joint"]["rgb"]) - truth).max() <= change["joint"]["rgb"]["step"]
    mask = unpack(shown["clean"]["skeleton"]["mask"])
    assert mask.shape == (16, 1, 25)
    assert not mask[:3, 0, 7].any()
    assert mask.sum() == 16 * 25 - 3


def test_records_of_one_sample_share_its_clip(tmp_path: Path) -> None:
    unimodal = Record.load(make(tmp_path / "a", "rgb", modalities=(RGB,)))
    both = Record.load(make(tmp_path / "b", "both"))
    shown = clips.reel([unimodal, both], ["rgb", "both"], 10**8).data["clips"]
    assert len(shown) == 2
    assert all(set(c["models"]) == {"0", "1"} and set(c["clean"]) == {"rgb", "skeleton"} for c in shown)


def test_other_content_under_the_same_id_is_another_clip(tmp_path: Path) -> None:
    one, two = Record.load(make(tmp_path / "a")), Record.load(make(tmp_path / "b"))
    changed = {k: np.asarray(v) for k, v in two.clips.items()}
    changed["0/rgb/clean"] = changed["0/rgb/clean"] * np.float32(0.5)
    shown = clips.reel([one, Record(two.meta, two.samples, changed)], ["a", "b"], 10**8).data["clips"]
    assert len(shown) == 3


def test_the_limit_holds_and_is_said(tmp_path: Path) -> None:
    records = [Record.load(make(tmp_path / n, n)) for n in "ab"]
    full = clips.reel(records, ["a", "b"], 10**8)
    cut = clips.reel(records, ["a", "b"], 150_000)
    size = sum(len(p["z"]) for c in cut.data["clips"] for m in c["models"].values() for k in m["changes"].values()
               for p in k.values())  # fmt: skip
    size += sum(len(p["z"]) for c in cut.data["clips"] for p in c["clean"].values())
    assert 0 < size <= 150_000
    assert not full.notes
    assert any("left out" in note for note in cut.notes)


def test_depth_is_shown_over_what_it_holds(tmp_path: Path) -> None:
    record = Record.load(make(tmp_path / "a", modalities=(DEPTH, SKELETON)))
    packed = clips.reel([record], ["a"], 10**8).data["clips"][0]["clean"]["depth"]
    assert packed["offset"] >= 1000  # not the sensor's 0 to 4000
    assert packed["offset"] + 255 * packed["step"] <= 3500


def test_records_without_clips_have_no_viewer(tmp_path: Path) -> None:
    assert not clips.reel([Record.load(make(tmp_path / "a", clips=0))], ["a"], 10**8)


def test_only_the_body_of_a_depth_map_and_the_real_part_of_a_series_are_shown(tmp_path: Path) -> None:
    record = Record.load(make(tmp_path / "a", modalities=(DEPTH, INERTIAL)))
    shown = clips.reel([record], ["a"], 10**8).data["clips"][0]
    depth = arrange(record.clips["0/depth/clean"], DEPTH)
    body = unpack(shown["clean"]["depth"]["mask"]) > 0
    assert np.array_equal(body, depth[..., 0] > 0)
    assert 0 < body.mean() < 0.5
    assert shown["clean"]["inertial"]["shape"] == [50, 6], "ten were added at the end"
    assert shown["clean"]["inertial"]["mask"] is None
    assert shown["models"]["0"]["changes"]["joint"]["inertial"]["shape"] == [50, 6]
    changed = unpack(shown["models"]["0"]["changes"]["joint"]["depth"])[..., 0]
    assert not changed[~body].any()


def test_shifts_of_joints_are_magnified_to_an_eighth_of_the_figure(tmp_path: Path) -> None:
    record = Record.load(make(tmp_path / "a", modalities=(SKELETON,)))
    (drawn,) = clips.reel([record], ["a"], 10**8).data["modalities"]
    tall = 1.6  # metres; every shift is 2 cm
    assert tall / 16 < drawn["gain"] * 0.02 <= tall / 8


def test_the_tally_counts_who_was_fooled_and_who_held_on_the_same_samples(tmp_path: Path) -> None:
    a, b = Record.load(make(tmp_path / "a", seed=1)), Record.load(make(tmp_path / "b", seed=2, modalities=(RGB,)))
    order = np.random.default_rng(0).permutation(len(b))[:100]
    fewer = Record(b.meta, {k: v[order] for k, v in b.samples.items()}, b.clips)
    found = clips.tally([a, fewer])
    assert set(found) == {"only:rgb", "only:skeleton", "joint"}
    assert set(found["only:skeleton"]) == {"0"}
    fates = {name: {"0": x} for name, x in zip(a.samples["ids"].tolist(), a.broken_at("joint").tolist(), strict=True)}
    for name, x in zip(fewer.samples["ids"].tolist(), fewer.broken_at("joint").tolist(), strict=True):
        fates[name]["1"] = x
    fooled = [f for f in fates.values() if 0 < f["0"] <= 1]
    assert found["joint"]["0"]["fooled"] == [len(fooled), 120]
    assert found["joint"]["0"]["held"] == [sum(f["0"] > 1 for f in fates.values()), 120]
    assert found["joint"]["0"]["1"] == [sum("1" in f and f["1"] > 1 for f in fooled), 100]
    assert found["joint"]["1"]["0"] == [
        sum("1" in f and 0 < f["1"] <= 1 and f["0"] > 1 for f in fates.values()), 100,
    ]  # fmt: skip
    assert found["joint"]["0"]["0"] == [0, 120], "nobody is fooled and holds"
    assert clips.reel([a], ["a"], 10**8).data["tally"] == {}


def test_a_constant_clip_leaves_the_others_magnified(tmp_path: Path) -> None:
    record = Record.load(make(tmp_path / "a", modalities=(DEPTH,)))
    (drawn,) = clips.reel([record], ["a"], 10**8).data["modalities"]
    blank = {k: np.asarray(v) for k, v in record.clips.items()}
    change = blank["1/depth/only:depth"] - blank["1/depth/clean"]
    blank["1/depth/clean"] = np.full_like(change, 1000.0)
    blank |= {f"1/depth/{c}": blank["1/depth/clean"] + change for c in ("only:depth", "joint")}
    (found,) = clips.reel([Record(record.meta, record.samples, blank)], ["a"], 10**8).data["modalities"]
    assert found["gain"] == drawn["gain"] > 1
