"""Sound files that the tests write themselves: what comes back, at which rate, and what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from crossguard.core import DataError
from crossguard.data.faults import SampleError
from crossguard.data.sound import read_sound, resample
from tests.data.conftest import grey_ramp, write_avi
from tests.data.media import tone, write_mp4, write_sound


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_a_file_at_its_own_rate_comes_back_to_the_bit(tmp_path: Path, suffix: str) -> None:
    codes = np.random.default_rng(0).integers(-32768, 32767, 1000).astype(np.int16)
    wave = read_sound(write_sound(tmp_path / f"a{suffix}", codes, 8000), 8000)
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, codes.astype(np.float32) / 32768)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.1, 8000, 300), tone(0.1, 8000, 700)
    path = write_sound(tmp_path / "a.wav", np.stack([left, right], axis=1), 8000, "FLOAT")
    np.testing.assert_allclose(read_sound(path, 8000), (left + right) / 2, atol=1e-6)
    opposite = write_sound(tmp_path / "b.wav", np.stack([left, -left], axis=1), 8000, "FLOAT")
    assert not read_sound(opposite, 8000).any()


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (8000, 16000), (48000, 16000), (11025, 16000), (16001, 8000)])
def test_any_rate_becomes_the_rate_asked_for(tmp_path: Path, old: int, new: int) -> None:
    path = write_sound(tmp_path / "a.wav", tone(0.5, old), old, "FLOAT")
    wave = read_sound(path, new)
    assert len(wave) == -(-len(tone(0.5, old)) * new // old)
    inside = slice(new // 20, -new // 20)
    np.testing.assert_allclose(wave[inside], tone(0.5, new)[: len(wave)][inside], atol=2e-3)


def test_what_the_lower_rate_cannot_hold_is_damped() -> None:
    high = torch.from_numpy(tone(0.2, 16000, 6500)).double()
    assert float(resample(high, 16000, 8000)[200:-200].abs().max()) < 5e-3
    low = torch.from_numpy(tone(0.2, 16000, 1000)).double()
    assert float(resample(low, 16000, 8000)[200:-200].abs().max()) == pytest.approx(0.5, abs=5e-3)


def test_resampling_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = torch.rand(3000, dtype=torch.float64)
    whole = resample(wave, 11025, 16000)
    monkeypatch.setattr("crossguard.data.sound._CHUNK", 100)
    torch.testing.assert_close(resample(wave, 11025, 16000), whole, rtol=0, atol=1e-12)


def test_only_the_first_seconds_are_kept(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(1.0, 11025), 11025)
    assert len(read_sound(path, 8000, 0.25)) == 2000
    np.testing.assert_allclose(read_sound(path, 8000, 0.25), read_sound(path, 8000)[:2000], atol=1e-6)
    assert len(read_sound(path, 8000, 9.0)) == 8000


@pytest.mark.parametrize("channels", [1, 2])
def test_the_track_of_a_video(tmp_path: Path, channels: int) -> None:
    sound = np.stack([tone(0.5, 44100, 500)] * channels, axis=1)
    path = write_mp4(tmp_path / "a.mp4", grey_ramp(4), sound, 44100)
    wave = read_sound(path, 16000)
    assert len(wave) == pytest.approx(8000, abs=16000 * 1024 // 44100 * 2)
    spectrum = np.abs(np.fft.rfft(wave))
    assert spectrum.argmax() * 16000 / len(wave) == pytest.approx(500, abs=3)
    assert np.abs(wave[2000:6000]).max() == pytest.approx(0.5, abs=0.1)


def test_a_name_in_another_encoding(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write_sound(tmp_path / "a.wav", tone(0.1, 8000), 8000).rename(path)
    assert len(read_sound(path, 8000)) == 800


def fault(path: Path) -> str:
    with pytest.raises(SampleError, match=path.name.replace(".", r"\.")) as error:
        read_sound(path, 8000)
    return error.value.kind


def test_what_cannot_be_taken_is_named_by_kind(tmp_path: Path) -> None:
    assert fault(tmp_path / "gone.wav") == "damaged"
    assert fault(tmp_path / "gone.mp4") == "damaged"
    (tmp_path / "text.wav").write_bytes(b"no sound at all" * 20)
    assert fault(tmp_path / "text.wav") == "damaged"
    assert fault(write_sound(tmp_path / "none.wav", np.zeros(0, np.int16), 8000)) == "empty"
    assert fault(write_avi(tmp_path / "mute.avi", grey_ramp(4))) == "no sound"
    whole = write_sound(tmp_path / "short.wav", tone(1.0, 8000), 8000)
    whole.write_bytes(whole.read_bytes()[:5000])
    assert fault(whole) == "damaged"
    values = tone(0.1, 8000)
    values[7] = np.nan
    assert fault(write_sound(tmp_path / "nan.wav", values, 8000, "FLOAT")) == "not finite"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_without_its_end_is_named(tmp_path: Path, subtype: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48000).astype(np.float32)
    path = write_sound(tmp_path / "a.ogg", noise, 48000, subtype)
    assert len(read_sound(path, 8000)) == 8000
    data = path.read_bytes()
    last = data.rindex(b"OggS")
    for end in (len(data) // 2, last, last + 20, last + 100, len(data) - 1):
        path.write_bytes(data[:end])
        assert fault(path) == "damaged", end


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4", "a.avi"])
def test_the_track_of_a_truncated_video_is_named(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = write_mp4(tmp_path / name, grey_ramp(8), tone(1.0, 16000), options=options)
    assert len(read_sound(path, 8000)) == pytest.approx(8000, abs=1100)
    data = path.read_bytes()
    for share in (0.97, 0.5):
        path.write_bytes(data[: int(len(data) * share)])
        assert fault(path) == "damaged", share


def test_a_track_of_unknown_length_is_read(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.webm", grey_ramp(2), tone(1.0, 16000), options={"live": "1"})
    assert len(read_sound(path, 8000)) == pytest.approx(8000, abs=200)


def test_impossible_wishes_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sound(tmp_path / "a.wav", tone(0.1, 8000), 8000)
    with pytest.raises(DataError, match="rate 0"):
        read_sound(path, 0)
    with pytest.raises(DataError, match="seconds 0"):
        read_sound(path, 8000, 0)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"pip install 'crossguard\[media\]'"):
        read_sound(path, 8000)
