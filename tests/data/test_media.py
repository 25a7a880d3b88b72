"""Recordings through the manifest: what is decoded, kept and masked; every kind of clip that cannot be taken."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from crossguard import data
from crossguard.core import DataError
from crossguard.data.base import Loader
from crossguard.data.manifest import manifest
from crossguard.data.media import media_decoders
from tests.data.conftest import grey_ramp
from tests.data.media import tone, write_mp4, write_sound

pytestmark = pytest.mark.usefixtures("own_cache")


def write_pictures(folder: Path, pictures: np.ndarray, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        with av.open(str(folder / f"{i}{suffix}"), "w", format="image2", options={"update": "1"}) as container:
            stream = container.add_stream({".png": "png", ".jpg": "mjpeg"}[suffix])
            stream.height, stream.width = picture.shape[:2]
            stream.pix_fmt = {".png": "rgb24", ".jpg": "yuvj444p"}[suffix]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            for packet in [*stream.encode(frame), *stream.encode()]:
                container.mux(packet)
    return folder


def listed(root: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A manifest of (id, audio, rgb), in turn for training, validation and test."""
    lines = ["id,targets,group,split,audio,rgb"]
    for i, (name, audio, rgb) in enumerate(rows):
        split = ("train", "validation", "test")[i % 3]
        lines.append(f"{name},{'ab'[i % 2]},{name},{split},{audio},{rgb}")
    (root / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips, in stereo and at odd rates: sound in wav, flac or the video; pictures as mp4 or in folders."""
    root = tmp_path / "clips"
    write_sound(root / "0.wav", tone(0.5, 8000), 8000)
    write_sound(root / "1.flac", np.stack([tone(0.25, 44100)] * 2, axis=1), 44100)
    write_sound(root / "2.wav", tone(0.5, 22051), 22051, "FLOAT")
    for i in range(6):
        if i % 2:
            write_pictures(root / f"{i}.frames", grey_ramp(12, (24, 32)))
        else:
            write_mp4(root / f"{i}.mp4", grey_ramp(12, (32, 48)), tone(0.5, 16000), 16000)
    names = [("0.wav", "0.mp4"), ("1.flac", "1.frames"), ("2.wav", "2.mp4")]
    names += [("2.mp4#audio", "3.frames"), ("4.mp4#audio", "4.mp4"), ("2.wav", "5.frames")]
    return listed(root, [(f"clip{i}", *pair) for i, pair in enumerate(names)])


def test_everything_arrives_at_one_rate_and_size(folder: Path) -> None:
    splits = manifest(folder, rate=8000, frames=4, size=(8, 12))
    assert splits.modalities["audio"].rate == 8000
    assert splits.modalities["audio"].bounds == (-1, 1)
    assert splits.modalities["rgb"].axes == "NCTHW"
    parts = (splits.train, splits.validation, splits.test)
    batches = {i: b for part in parts for b in Loader(part, 1) for i in b.ids}
    assert set(batches) == {f"clip{i}" for i in range(6)}
    for name, batch in batches.items():
        wave = batch.inputs["audio"][0]
        seconds = 0.25 if name == "clip1" else 0.5
        assert len(wave) == pytest.approx(8000 * seconds, abs=1200 if name in ("clip3", "clip4") else 1)
        spectrum = np.abs(np.fft.rfft(wave.numpy()))
        assert spectrum.argmax() * 8000 / len(wave) == pytest.approx(440, abs=6), name
        assert batch.inputs["rgb"].shape == (1, 3, 4, 8, 12)
        levels = batch.inputs["rgb"][0].mean(dim=(0, 2, 3)) * 255
        torch.testing.assert_close(levels, torch.tensor([10.0, 40.0, 70.0, 100.0]), rtol=0, atol=4.5)
    pair = splits.validation.read([0, 1])
    assert pair.mask["audio"].sum(dim=1).tolist()[0] == 2000
    assert not pair.inputs["audio"][~pair.mask["audio"]].any()
    assert pair.mask["rgb"].shape == (2, 1, 4)


def test_pieces_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifest(folder, rate=8000, frames=2, size=8).train.read([0, 1])

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("crossguard.data.media.read_sound", never)
    monkeypatch.setattr("crossguard.data.media.read_video", never)
    again = manifest(folder, rate=8000, frames=2, size=8).train.read([0, 1])
    assert torch.equal(first.inputs["audio"], again.inputs["audio"])
    assert torch.equal(first.inputs["rgb"], again.inputs["rgb"])
    with pytest.raises(AssertionError, match="decoded again"):
        manifest(folder, rate=4000, frames=2, size=8)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    decode = media_decoders(frames=12, size=4)[""]
    levels = decode.read(write_pictures(tmp_path / "a", grey_ramp(12)), None).mean(dim=(0, 2, 3)) * 255
    torch.testing.assert_close(levels, torch.arange(12.0) * 10, rtol=0, atol=1)
    jpeg = decode.read(write_pictures(tmp_path / "b", grey_ramp(12), ".jpg"), None)
    torch.testing.assert_close(jpeg.mean(dim=(0, 2, 3)) * 255, torch.arange(12.0) * 10, rtol=0, atol=3)


BAD = {
    "no sound": lambda root: write_mp4(root / "bad.mp4", grey_ramp(4)),
    "no picture": lambda root: write_mp4(root / "bad.mp4", None, tone(0.2, 16000)),
    "empty": lambda root: write_sound(root / "bad.wav", np.zeros(0, np.int16), 8000),
    "silent": lambda root: write_sound(root / "bad.wav", np.zeros(800, np.int16), 8000),
    "not finite": lambda root: write_sound(root / "bad.wav", np.full(99, np.inf, np.float32), 8000, "FLOAT"),
    "missing": lambda root: root / "bad.wav",
    "damaged": lambda root: (root / "bad.wav").write_bytes(b"RIFF") and root / "bad.wav",
}


@pytest.mark.parametrize("kind", [*BAD, "no picture in the folder", "no file"])
def test_what_cannot_be_taken_is_named_counted_and_left_out(folder: Path, kind: str) -> None:
    good = [("0.wav", "0.mp4"), ("1.flac", "1.frames"), ("2.wav", "2.mp4"), ("4.mp4#audio", "5.frames")]
    rows = [(f"clip{i}", *pair) for i, pair in enumerate(good)]
    if kind == "no file":
        rows.append(("poor", "", ""))
    elif kind == "no picture in the folder":
        (folder / "bad.frames").mkdir()
        rows.append(("poor", "1.flac", "bad.frames"))
    else:
        bad = BAD[kind](folder)
        picture = kind == "no picture"
        sound = "1.flac" if picture else bad.name + ("#audio" if bad.suffix == ".mp4" else "")
        rows.append(("poor", sound, bad.name if picture else "1.frames"))
    listed(folder, rows)
    counted = f"{kind.removesuffix(' in the folder')}: 1\n  poor: "
    with pytest.raises(DataError, match="1 samples cannot be taken") as error:
        manifest(folder, rate=8000, frames=2, size=8)
    assert counted in str(error.value)
    with pytest.warns(UserWarning, match="1 samples are left out") as caught:
        splits = manifest(folder, rate=8000, frames=2, size=8, bad="skip")
    assert counted in str(caught[0].message)
    assert "poor" not in {i for part in (splits.train, splits.validation, splits.test) for i in part.ids}
    if kind != "no file":
        report = data.check("manifest", folder)
        assert not report.ok
        assert any(problem.startswith(kind.removesuffix(" in the folder")) for problem in report.problems)


def test_pictures_that_were_damaged_or_mended_since_are_looked_at_again(folder: Path) -> None:
    manifest(folder, frames=4, size=8)
    picture = folder / "1.frames" / "1.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:60])
    with pytest.raises(DataError, match="damaged"):
        manifest(folder, frames=4, size=8)
    picture.write_bytes(whole)
    manifest(folder, frames=4, size=8)


def test_silence_can_be_kept(folder: Path) -> None:
    write_sound(folder / "quiet.wav", np.zeros(800, np.int16), 8000)
    listed(folder, [("a", "0.wav", "0.mp4"), ("b", "1.flac", "2.mp4"), ("c", "quiet.wav", "4.mp4")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = manifest(folder, rate=8000, frames=2, size=8, silent="keep")
    assert not splits.test.read([0]).inputs["audio"].any()


def test_one_modality_may_be_absent(folder: Path) -> None:
    listed(folder, [("a", "0.wav", "0.mp4"), ("b", "", "2.mp4"), ("c", "1.flac", "")])
    splits = manifest(folder, rate=8000, frames=2, size=8)
    assert not splits.validation.read([0]).mask["audio"].any()
    assert not splits.test.read([0]).mask["rgb"].any()


def test_a_file_whose_name_is_not_utf8_is_no_obstacle(folder: Path) -> None:
    os.rename(folder / "0.wav", os.fsencode(folder) + b"/caf\xe9.wav")
    listed(folder, [("a", "1.flac", "0.mp4"), ("b", "2.wav", "2.mp4"), ("c", "4.mp4#audio", "1.frames")])
    assert len(manifest(folder, rate=8000, frames=2, size=8).train) == 1


@pytest.mark.parametrize("options", [{"frames": 0}, {"rate": 0}, {"seconds": 0.0}, {"size": 0}])
def test_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(options))}"):
        media_decoders(**options)  # type: ignore[arg-type]
