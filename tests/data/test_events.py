"""The generated audio-visual events: sound follows picture, determinism, several labels, masks, regimes, cache."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossguard.core.errors import InputError
from crossguard.data.base import Splits
from crossguard.data.events import CLASSES, REGIMES, events, generate
from crossguard.data.events.clips import RATE, SCENES, Clips, make, planned
from crossguard.data.events.happening import Happening
from crossguard.data.events.impacts import ball_height, bounces, hammer_lift, strikes
from crossguard.data.events.kinds import KINDS
from crossguard.data.events.noises import sparks, swing
from crossguard.data.events.regimes import Regime
from crossguard.data.events.tones import height, second
from crossguard.data.figures.chance import keys

SOUND, PICTURES = 144099991, 1692553615
SMALL = {"size": 16, "frames": 4, "samples": 16000, "seed": 0}
TIME = torch.arange(2 * RATE, dtype=torch.float64)[None] / RATE - 0.25  # seconds since it began


def one(happens: bool = True, lasts: float = 1.2, count: int = 1) -> Happening:
    """Events of any kind."""
    flag, ones = torch.full((count, 1), happens), torch.ones(count, 1, dtype=torch.float64)
    return Happening(keys(torch.arange(count), "test"), flag, lasts * ones, 0.5 * ones, ones.expand(count, 3), ones)


def loudness(wave: Tensor, width: int = 160) -> Tensor:
    """(S / width,) the largest amplitude of each 10 ms."""
    return wave[0].abs().unflatten(0, (-1, width)).amax(dim=1)


def some(regime: Regime = "balanced", count: int = 96, **changed: int) -> Clips:
    return make(torch.arange(count), "train", regime, **{**SMALL, **changed})


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("cache")
    return events(train=48, validation=8, test=12, size=16, frames=8, seconds=1.0, cache=folder)


@pytest.mark.parametrize("name", CLASSES)
def test_a_kind_is_heard_when_it_happens_and_not_else(name: str) -> None:
    heard = KINDS[name].heard
    assert not heard(one(happens=False), TIME).any()
    wave = heard(one(), TIME)
    assert torch.isfinite(wave).all()
    assert 0.05 < wave.abs().max() < 1.2
    assert not wave[TIME < 0].any(), "nothing is heard before it begins"
    assert not wave[TIME > 1.2 + 0.36].any(), "nor when the last blow has rung out"


@pytest.mark.parametrize(("name", "moments"), [("bounce", lambda e: bounces(e)[1]), ("hammer", strikes)])
def test_blows_are_heard_at_the_sample_of_contact(name: str, moments: object) -> None:
    event = one()
    wave = KINDS[name].heard(event, TIME)
    contacts = ((moments(event)[0] + 0.25) * RATE).tolist()  # pyright: ignore
    assert not wave[0, : int(contacts[0])].any()
    for contact in contacts:
        before, after = wave[0, int(contact) - 400 : int(contact)], wave[0, int(contact) + 1 : int(contact) + 161]
        assert after.abs().max() > before.abs().max() + 0.02


def test_things_touch_where_they_are_heard() -> None:
    event = one()
    left, back = bounces(event)
    assert torch.allclose(ball_height(event, back), torch.zeros(1, 3).double(), atol=1e-9)
    assert (ball_height(event, (left + back) / 2) > 0.05).all(), "in the air between"
    assert torch.allclose(back[:, -1:], event.lasts)
    assert torch.allclose(hammer_lift(event, strikes(event) - 1e-9), torch.zeros(1, 4).double(), atol=1e-6)
    assert (hammer_lift(event, strikes(event) - 0.15) > 0.9).all()


def pitch(wave: Tensor, at: float) -> float:
    """The strongest frequency of 50 ms, in hertz."""
    first = round((at + 0.25) * RATE)
    spectrum = torch.fft.rfft(wave[0, first : first + 800] * torch.hann_window(800, dtype=torch.float64), 8000)
    return float(spectrum.abs().argmax()) * RATE / 8000


@pytest.mark.parametrize(("name", "rising"), [("rise", True), ("fall", False)])
def test_the_pitch_is_the_height(name: str, rising: bool) -> None:
    event = one()
    wave = KINDS[name].heard(event, TIME)
    moments = (0.2, 0.5, 0.8, 1.0)
    heights = [float(height(event, torch.tensor([[m + 0.025]]).double(), rising=rising)) for m in moments]
    pitches = [pitch(wave, m) for m in moments]
    slope = (pitches[-1] - pitches[0]) / (heights[-1] - heights[0])
    assert 900 < slope < 1300
    for h, p in zip(heights, pitches, strict=True):
        assert abs(p - pitches[0] - slope * (h - heights[0])) < 12


def test_the_higher_tone_sounds_with_the_blue_light() -> None:
    wave = KINDS["siren"].heard(one(), TIME)
    red, blue = pitch(wave, 0.1), pitch(wave, 0.35)
    assert 1.3 < blue / red < 1.4
    assert second(torch.tensor([0.1, 0.35, 0.6])).tolist() == [False, True, False]


def test_the_whoosh_is_as_loud_as_the_weight_is_fast() -> None:
    event = one()
    wave = loudness(KINDS["swing"].heard(event, TIME))
    speed = swing(event, TIME)[1][0].unflatten(0, (-1, 160)).mean(dim=1)
    assert torch.corrcoef(torch.stack((wave, speed)))[0, 1] > 0.8


def test_sparks_flash_and_crackle_together() -> None:
    event = one()
    half = 0.05
    frames = (torch.arange(20) * 0.1 + half - 0.25)[None].double()
    drawn = KINDS["sparks"].seen(event, frames, half).opacity[:, -1] > 0
    wave = loudness(KINDS["sparks"].heard(event, TIME)).unflatten(0, (-1, 10)).amax(dim=1)
    assert 1 <= int(drawn.sum()) <= sparks(event).shape[1]
    assert (wave[drawn] > 0.1).all()


def test_in_a_clip_the_ball_is_back_on_the_floor_when_it_is_heard() -> None:
    """Of whole clips: at the first thud the picture is as before the ball left the floor, in between it is not."""
    bounce, index = CLASSES.index("bounce"), torch.arange(800)
    plan = planned(keys(index, 0, "event clip", "train"), "balanced", 100, 32000)
    both = (plan.kind == bounce) & plan.shown & plan.heard & (plan.start > 1600)
    alone = both.any(dim=1) & (plan.happens.sum(dim=1) == 1)
    rows = alone.nonzero().flatten()[:4]
    clips = make(rows, "train", "balanced", 32, 100, 32000, 0)
    start, lasts = (x[rows][both[rows]] for x in (plan.start, plan.lasts))
    for i in range(4):
        hop = float(bounces(one(lasts=int(lasts[i]) / RATE))[1][0, 0]) * RATE
        contact, flight = int(start[i] + hop), int(start[i] + hop / 2)
        wave = clips.audio[i].double().abs()
        assert wave[contact + 80 : contact + 880].max() > 2 * wave[contact - 1600 : contact].max()
        before, then, between = (clips.rgb[i, :, at // 320].double() for at in (int(start[i]) - 640, contact, flight))
        grain = (before - clips.rgb[i, :, int(start[i]) // 320 - 4].double()).abs().sum()
        assert (then - before).abs().sum() < 1.6 * grain
        assert (between - before).abs().sum() - grain > 3 * ((then - before).abs().sum() - grain)


def test_shapes_units_masks_and_labels(splits: Splits) -> None:
    batch = splits.train.read(range(48))
    assert batch.inputs["audio"].shape == (48, 16000)
    assert batch.inputs["rgb"].shape == (48, 3, 8, 16, 16)
    assert batch.inputs["audio"].abs().max() <= 1
    assert batch.mask["audio"].shape == (48, 16000)
    assert batch.mask["rgb"].shape == (48, 1, 8)
    assert set(batch.targets.sum(dim=1).tolist()) == {1.0, 2.0, 3.0}
    lengths = batch.mask["rgb"].flatten(1).sum(dim=1)
    assert set(lengths.tolist()) == {6, 7, 8}
    assert torch.equal(batch.mask["audio"].sum(dim=1), 2000 * lengths), "both end together"
    assert not batch.inputs["audio"][~batch.mask["audio"]].any()
    assert not batch.inputs["rgb"].transpose(1, 2)[~batch.mask["rgb"][:, 0]].any()
    assert batch.inputs["audio"][batch.mask["audio"]].ne(0).float().mean() > 0.9, "a room is never silent"
    assert splits.modalities["audio"].rate == RATE
    assert splits.modalities["rgb"].rate == 8.0
    seen = [set(part.groups) for part in (splits.train, splits.validation, splits.test)]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert sum(count for _, count in SCENES.values()) == max(a + b for a, b in SCENES.values())


def test_a_clip_depends_on_its_number_alone() -> None:
    many, few = some(count=40), some(count=7)
    assert torch.equal(many.rgb[:7], few.rgb)
    assert torch.equal(many.audio[:7], few.audio)
    assert torch.equal(many.plan.targets[:7], few.plan.targets)
    chunks = generate("train", 40, regime="balanced", **SMALL)
    assert torch.equal(torch.cat([c.audio for c in chunks]), many.audio)
    assert torch.equal(torch.cat([c.rgb for c in chunks]), many.rgb)


def test_the_same_codes_on_any_machine() -> None:
    """Sums of codes, weighed by their places, as they came out when this was written."""
    clips = some(count=8)
    weights = torch.arange(clips.audio.numel()) % 997
    sound = int((clips.audio.flatten().long() * weights).sum())
    weights = torch.arange(clips.rgb.numel()) % 997
    assert (sound, int((clips.rgb.flatten().long() * weights).sum())) == (SOUND, PICTURES)


def test_seeds_and_splits_differ() -> None:
    first = some(count=6)
    for other in (some(count=6, seed=1), make(torch.arange(6), "test", "balanced", **SMALL)):
        assert (first.audio != other.audio).any(dim=1).all()
        assert (first.rgb != other.rgb).flatten(1).any(dim=1).all()


def test_every_event_is_seen_or_heard_and_each_modality_misses_some() -> None:
    plan = some(count=160).plan
    seen, heard = plan.shown & plan.happens, plan.heard
    assert torch.equal(seen | heard, plan.happens)
    for caught in (seen, heard):
        assert 0.8 < (caught.sum() / plan.happens.sum()) < 0.95
    assert (plan.shown & ~plan.happens).any(), "things at rest"
    assert torch.equal(plan.targets.sum(dim=1).long(), plan.happens.sum(dim=1))
    assert (plan.targets.mean(dim=0) > 0.1).all()
    assert (plan.start + plan.lasts <= plan.length[:, None] * 4000 - 0.2 * RATE + 1).all()


@pytest.mark.parametrize(("regime", "same", "changed"), [("rgb-weak", "audio", "rgb"), ("audio-weak", "rgb", "audio")])
def test_a_regime_changes_only_its_modality(regime: Regime, same: str, changed: str) -> None:
    plain, hard = some(), some(regime)
    assert torch.equal(plain.plan.targets, hard.plan.targets)
    assert torch.equal(getattr(plain, same), getattr(hard, same))
    assert (getattr(plain, changed) != getattr(hard, changed)).flatten(1).any(dim=1).float().mean() > 0.9


def test_weak_regimes_are_worse_in_every_respect() -> None:
    (clear, quiet), (murky, _), (_, loud) = (REGIMES[r] for r in ("balanced", "rgb-weak", "audio-weak"))
    for better, worse in ((clear, murky), (quiet, loud)):
        assert all(getattr(better, f.name) < getattr(worse, f.name) for f in fields(better))
    assert all(sight.unseen + hearing.unheard < 1 for sight, hearing in REGIMES.values())


def test_the_cache_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"train": 4, "validation": 2, "test": 2, "size": 16, "frames": 4, "seconds": 1.0, "cache": tmp_path}
    first = events(**asked)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    monkeypatch.setattr("crossguard.data.events.generate", None)
    again = events(**asked)
    for part in ("train", "validation", "test"):
        one_, two = (getattr(s, part).read(range(2)) for s in (first, again))
        assert all(torch.equal(one_.inputs[n], two.inputs[n]) for n in one_.inputs)
        assert torch.equal(one_.targets, two.targets)


@pytest.mark.parametrize(
    ("option", "value"),
    [("train", 0), ("size", 8), ("frames", 1), ("seconds", 0.5), ("regime", "dark"), ("seed", -1)],
)
def test_impossible_options_are_refused(option: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{option} is {value!r}"):
        events(**{option: value, "cache": tmp_path})  # pyright: ignore
    assert not list(tmp_path.iterdir())


def test_frames_that_do_not_divide_a_clip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not divide into 7 frames"):
        events(frames=7, cache=tmp_path)
