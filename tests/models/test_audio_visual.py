"""Early, mid and late fusion of sound and pictures: what meets where, masks, lengths, branches that are run apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import crossguard as cg
from crossguard.core.model import forward
from crossguard.models import AudioCNN, Encoder, FrameCNN
from crossguard.models.fusion import FUSIONS
from crossguard.models.passes import GatedPooling, Passes

ENDINGS: dict[str, dict[str, object]] = {
    "early": {},
    "mid": {"passes": 1},
    "late": {"passes": 2, "gather": True},
    "amr": {"passes": 2, "gather": True},
}


def encoders(ending: dict[str, object]) -> dict[str, Encoder]:
    audio = AudioCNN(front="digits", width=2, heads=4, **ending)  # type: ignore[arg-type]
    return {"audio": audio, "rgb": FrameCNN(width=2, heads=4, **ending)}  # type: ignore[arg-type]


def built(name: str, inputs: dict[str, Tensor], classes: int = 3) -> cg.FusionModel:
    torch.manual_seed(0)
    options = {"width": 16, "heads": 4, "hidden": 8} if name in ("early", "mid") else {}
    model = cg.FusionModel(encoders(ENDINGS[name]), FUSIONS[name](**options), classes).double()
    with torch.no_grad():
        model(inputs)  # statistics of batch norms that are not trivial
    return model.eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"audio": torch.rand(5, 1700).double() - 0.5, "rgb": torch.rand(5, 3, 4, 16, 16).double()}


@pytest.mark.parametrize("name", ENDINGS)
def test_whole_and_apart_agree_and_all_is_asked_for(name: str, inputs: dict[str, Tensor]) -> None:
    model = built(name, inputs)
    output = model(inputs, need=("latents", "auxiliary", "attention"))
    apart = model.fuse({n: model.encode(n, x) for n, x in inputs.items()})
    torch.testing.assert_close(apart.logits, output.logits)
    assert output.logits.shape == (5, 3)
    assert output.latents is not None
    assert output.latents["fused"].shape[0] == 5
    assert output.auxiliary is not None
    assert set(output.auxiliary) == {"audio", "rgb"}
    assert output.attention
    if name in ("early", "mid"):
        head = model.fusion.get_submodule("head")
        torch.testing.assert_close(head(output.latents["fused"]), output.logits)


@pytest.mark.parametrize("name", ENDINGS)
def test_padding_and_absence(name: str, inputs: dict[str, Tensor]) -> None:
    model = built(name, inputs)
    plain = model(inputs).logits
    longer = {
        "audio": torch.cat([inputs["audio"], torch.full((5, 700), 0.9, dtype=torch.float64)], dim=1),
        "rgb": inputs["rgb"],
    }
    mask = {"audio": (torch.arange(2400) < 1700).expand(5, -1), "rgb": torch.ones(5, 1, 4, dtype=torch.bool)}
    found = model(longer, mask).logits
    torch.testing.assert_close(found, plain)
    other = {**longer, "audio": longer["audio"].where(mask["audio"], torch.zeros(()).double())}
    torch.testing.assert_close(model(other, mask).logits, found, rtol=0, atol=0)
    gone = {"audio": mask["audio"] & False, "rgb": mask["rgb"]}
    first = model(longer, gone).logits
    second = model({**longer, "audio": torch.rand(5, 2400).double()}, gone).logits
    assert torch.equal(first, second)
    assert bool(first.isfinite().all())
    assert not torch.allclose(first, found)
    torch.testing.assert_close(model({"rgb": inputs["rgb"]}, {"audio": gone["audio"]}).logits, first)


@pytest.mark.parametrize("name", ENDINGS)
def test_a_sample_is_answered_by_itself_alone_and_can_be_attacked(name: str, inputs: dict[str, Tensor]) -> None:
    model = built(name, inputs)
    alone = model({n: x[2:3] for n, x in inputs.items()}).logits
    torch.testing.assert_close(alone, model(inputs).logits[2:3])
    model = model.float()
    single = {n: x.float() for n, x in inputs.items()}
    targets = forward(model, single).logits.argmax(dim=1)
    threat = cg.ThreatModel(audio=cg.Linf(0.05, bounds=(-1, 1)), rgb=cg.Linf(0.05, bounds=(0, 1)))
    result = cg.attacks.pgd(model, single, targets, threat, steps=3, stop="never")
    clean = cg.SingleLabel(3).margin(model(single).logits.detach(), targets)
    assert float(result.margin.mean()) < float(clean.mean())


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("modality", ["audio", "rgb"])
def test_absence_said_by_sample_is_absence_said_by_frame(name: str, modality: str, inputs: dict[str, Tensor]) -> None:
    model = built(name, inputs)
    x = inputs[modality]
    by_frame = torch.ones(5, 1, 4, dtype=torch.bool) if modality == "rgb" else torch.ones(x.shape, dtype=torch.bool)
    there = torch.tensor([True, False, True, False, True])
    by_frame = by_frame & there.view(5, *(1,) * (by_frame.dim() - 1))
    found = model(inputs, {modality: there}).logits
    torch.testing.assert_close(found, model(inputs, {modality: by_frame}).logits)
    assert (found - model(inputs).logits).abs().amax(dim=1).gt(1e-6).tolist() == [not t for t in there.tolist()]


def test_multi_label(inputs: dict[str, Tensor]) -> None:
    model = built("mid", inputs).float()
    targets = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]]).float()
    threat = cg.ThreatModel(audio=cg.SNR(20, bounds=(-1, 1)))
    single = {n: x.float() for n, x in inputs.items()}
    result = cg.attacks.pgd(model, single, targets, threat, steps=2, stop="never", task=cg.MultiLabel(3))
    assert result.margin.shape == (5,)


def test_one_layer_is_run_several_times() -> None:
    torch.manual_seed(0)
    twice = Passes(8, 2, 4, 0.0).double().eval()
    once = Passes(8, 1, 4, 0.0).double().eval()
    once.load_state_dict(twice.state_dict())
    x = torch.rand(2, 8, 5, dtype=torch.float64)
    assert torch.equal(twice(x, None), once(once(x, None), None))
    assert sum(p.numel() for p in twice.parameters()) == sum(p.numel() for p in once.parameters())


def test_gated_pooling_by_hand() -> None:
    pool = GatedPooling(2).double()
    with torch.no_grad():
        pool.score.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
        pool.score.bias.zero_()
        pool.value.weight.copy_(torch.eye(2))
        pool.value.bias.zero_()
    x = torch.tensor([[[1.0, -1.0, 5.0], [-1.0, 1.0, 0.0]]], dtype=torch.float64)  # normed to (1, -1), (-1, 1), …
    real = torch.tensor([[True, True, False]])
    share = torch.tensor([3.0, -3.0], dtype=torch.float64).softmax(dim=0)
    high, low = (torch.tensor(v, dtype=torch.float64).sigmoid() for v in (1.0, -1.0))
    found = pool(x, real)[0].detach()
    assert float(found[0]) == pytest.approx(float(share[0] * high + share[1] * low), abs=1e-4)
    assert float(found[1]) == pytest.approx(float((high + low) / 2), abs=1e-4)
    assert not pool(x, real & False).any()


def test_late_is_a_sum() -> None:
    torch.manual_seed(0)
    fusion = FUSIONS["late"]()
    fusion.build((), {"audio": 4, "rgb": 3}, 2)
    a, v = torch.rand(6, 4), torch.rand(6, 3)
    heads = fusion.get_submodule("heads")
    alpha, beta = heads["audio"], heads["rgb"]  # type: ignore[index]
    torch.testing.assert_close(fusion({"audio": a, "rgb": v})[1], alpha(a) + beta(v))
    real = torch.tensor([[True, False]]).expand(6, 2)
    torch.testing.assert_close(fusion({"audio": a, "rgb": v * 0}, real)[1], alpha(a))


def test_shorter_maps_repeat_their_steps() -> None:
    torch.manual_seed(0)
    fusion = FUSIONS["early"](width=8, heads=2, hidden=0).eval()  # type: ignore[call-arg]
    fusion.build((), {"audio": 4, "rgb": 3}, 2)
    audio, rgb = torch.rand(2, 4, 6), torch.rand(2, 3, 2)
    repeated = rgb.repeat_interleave(3, dim=2)
    expected = fusion.join({"audio": audio, "rgb": repeated}, {"audio": None, "rgb": None})[1]
    torch.testing.assert_close(fusion.join({"audio": audio, "rgb": rgb}, {"audio": None, "rgb": None})[1], expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrameCNN(passes=-1), "passes is -1"),
        (lambda: AudioCNN(passes=1, dropout=1.0), "dropout 1.0"),
        (lambda: AudioCNN(width=1, passes=1, heads=5), "heads"),
        (lambda: FUSIONS["early"](passes=0), "passes 0"),
        (lambda: FUSIONS["late"](hidden=-1), "hidden is -1"),
        (lambda: FUSIONS["mid"](hidden=-1), "Mid: hidden is -1"),
    ],
)
def test_impossible_arguments(make: object, words: str) -> None:
    with pytest.raises(cg.ModelError, match=words):
        make()  # type: ignore[operator]
