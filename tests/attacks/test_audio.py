"""Attacks on sound at each level: the waveform through log-mel, the log-mel, features; budgets in decibels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import crossguard as cg
from crossguard.models import AudioCNN, FrameCNN, SeriesNet

SAMPLES = 2000


@pytest.fixture(scope="module")
def listener() -> cg.FusionModel:
    torch.manual_seed(0)
    encoders = {"audio": AudioCNN(front="digits", width=2), "rgb": FrameCNN(width=2)}
    return cg.FusionModel(encoders, cg.fusion.Concat(hidden=8), classes=3).eval()


@pytest.fixture(scope="module")
def clips() -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    time = torch.arange(SAMPLES) / 8000
    waves = torch.stack([0.3 * torch.sin(2 * torch.pi * f * time) for f in (200, 400, 800, 1600, 3200, 250)])
    inputs = {"audio": waves + 0.01 * torch.randn(6, SAMPLES), "rgb": torch.rand(6, 3, 2, 16, 16)}
    mask = torch.ones(6, SAMPLES, dtype=torch.bool)
    mask[3:, 1500:] = False
    return inputs, torch.tensor([0, 1, 2, 0, 1, 2]), {"audio": mask}


def decibels(clean: Tensor, moved: Tensor, mask: Tensor) -> Tensor:
    kept = clean * mask
    return 20 * (kept.norm(dim=1) / (moved - clean).norm(dim=1)).log10()


@pytest.mark.parametrize("level", [20.0, 40.0])
def test_a_waveform_moves_by_no_more_than_its_decibels(
    listener: cg.FusionModel, clips: tuple[dict[str, Tensor], Tensor, dict[str, Tensor]], level: float
) -> None:
    inputs, targets, mask = clips
    threat = cg.ThreatModel(audio=cg.SNR(level, bounds=(-1, 1)))
    result = cg.attacks.pgd(listener, inputs, targets, threat, mask=mask, steps=6, stop="never")
    found = decibels(inputs["audio"], result.inputs["audio"], mask["audio"])
    assert bool((found > level - 1e-3).all())
    assert bool((found < level + 6).any()), "the budget is used"
    assert torch.equal(result.inputs["audio"][~mask["audio"]], inputs["audio"][~mask["audio"]])
    assert torch.equal(result.inputs["rgb"], inputs["rgb"])
    noise = cg.attacks.noise(listener, inputs, targets, threat, mask=mask, trials=1)
    assert bool((result.margin <= noise.margin + 1e-4).float().mean() > 0.8)


def test_the_log_mel_is_attacked_behind_the_front_end(
    listener: cg.FusionModel, clips: tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]
) -> None:
    inputs, targets, mask = clips
    frontend = listener.encoders["audio"].frontend
    head, tail = cg.cut(listener, {"audio": "encoders.audio.frontend"})
    features = head(inputs, mask)
    assert features["audio"].shape == (6, frontend.frames(SAMPLES), 32)
    frames = {"audio": frontend.real(mask["audio"])}
    plain, again = (answer.logits.detach() for answer in (listener(inputs, mask), tail(features, frames)))
    torch.testing.assert_close(again, plain)
    result = cg.attacks.pgd(tail, features, targets, cg.ThreatModel(audio=cg.Linf(0.2)), mask=frames, steps=6)
    assert bool((result.distance["audio"] <= 0.2 + 1e-5).all())
    assert torch.equal(result.inputs["audio"][~frames["audio"]], features["audio"][~frames["audio"]])
    assert float(result.margin.mean()) < float(cg.SingleLabel(3).margin(plain, targets).mean())


def test_features_are_attacked_as_any_series(clips: tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]) -> None:
    torch.manual_seed(0)
    model = cg.FusionModel({"audio": SeriesNet(features=16, width=4)}, cg.fusion.Concat(hidden=0), classes=3).eval()
    features = {"audio": torch.randn(6, 10, 16)}
    threat = cg.ThreatModel(audio=cg.SNR(15.0))
    result = cg.attacks.pgd(model, features, clips[1], threat, steps=6, stop="never")
    ones = torch.ones(6, 160, dtype=torch.bool)
    assert bool((decibels(features["audio"].flatten(1), result.inputs["audio"].flatten(1), ones) > 15 - 1e-3).all())


def test_silence_can_be_attacked_where_a_floor_says_how_loudly(listener: cg.FusionModel) -> None:
    inputs = {"audio": torch.zeros(2, SAMPLES), "rgb": torch.rand(2, 3, 2, 16, 16)}
    targets = listener(inputs).logits.argmax(dim=1)
    for floor, moves in ((0.0, False), (0.5, True)):
        threat = cg.ThreatModel(audio=cg.SNR(20.0, bounds=(-1, 1), floor=floor))
        result = cg.attacks.pgd(listener, inputs, targets, threat, steps=3, stop="never")
        assert bool(result.inputs["audio"].isfinite().all())
        assert bool(result.inputs["audio"].any()) == moves
