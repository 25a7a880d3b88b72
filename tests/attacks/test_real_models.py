"""Models that nobody here wrote, as `transformers` builds them, small and without a download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import apgd, pgd
from crossguard.core import forward

transformers: Any = pytest.importorskip("transformers", reason="needs transformers: pip install 'crossguard[zoo]'")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
Case = tuple[nn.Module, cg.Inputs, cg.ThreatModel]


class Paired(nn.Module):
    """A two-tower model as a classifier of one input by five prompts, the words' embeddings an input of their own.

    Its text tower takes token ids alone, which no attack can differentiate: their embeddings are given instead.
    """

    def __init__(self, net: Any, key: str) -> None:
        super().__init__()
        self.net, self.key = net, key
        self.words = next(m for m in net.text_model.modules() if isinstance(m, nn.Embedding))
        self.register_buffer("ids", torch.arange(3, 3 + 5 * 4).view(5, 4))

    def forward(self, pixels: Tensor, words: Tensor) -> Tensor:
        """`words` (N, 4, D) are added to the embeddings of every prompt."""
        n = len(pixels)
        ids = self.ids.repeat(n, 1)
        handle = self.words.register_forward_hook(lambda *call: call[-1] + words.repeat_interleave(5, dim=0))
        try:
            answer = self.net(input_ids=ids, attention_mask=torch.ones_like(ids), **{self.key: pixels})
        finally:
            handle.remove()
        logits = answer[f"logits_per_{'image' if self.key == 'pixel_values' else 'audio'}"]
        return logits.unflatten(1, (n, 5)).diagonal(dim1=0, dim2=1).mT


def videomae() -> Case:
    config = transformers.VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, num_labels=5, **SMALL)
    net = transformers.VideoMAEForVideoClassification(config)
    threat = cg.ThreatModel(rgb=cg.Linf(4 / 255, bounds=(0, 1)))
    return cg.adapt(net, inputs={"rgb": "pixel_values"}), {"rgb": torch.rand(6, 4, 3, 16, 16)}, threat


def ast() -> Case:
    config = transformers.ASTConfig(max_length=32, num_mel_bins=16, patch_size=8, num_labels=5, **SMALL)
    net = transformers.ASTForAudioClassification(config)
    return (
        cg.adapt(net, inputs={"mel": "input_values"}), {"mel": torch.randn(6, 32, 16)}, cg.ThreatModel(mel=cg.Linf(0.1))
    )  # fmt: skip


def wav2vec2() -> Case:
    config = transformers.Wav2Vec2Config(
        conv_dim=(16, 16), conv_kernel=(10, 4), conv_stride=(5, 4), num_feat_extract_layers=2, num_labels=5,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, classifier_proj_size=16, vocab_size=8, **SMALL,
    )  # fmt: skip
    net = transformers.Wav2Vec2ForSequenceClassification(config)
    threat = cg.ThreatModel(audio=cg.Linf(0.02, bounds=(-1, 1)))
    return cg.adapt(net, inputs={"audio": "input_values"}), {"audio": torch.rand(6, 1600) * 2 - 1}, threat


def clip() -> Case:
    text = {**SMALL, "vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 63}
    vision = {**SMALL, "image_size": 16, "patch_size": 8}
    net = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    threat = cg.ThreatModel(image=cg.Linf(4 / 255, bounds=(0, 1)), words=cg.L2(0.02))
    inputs = {"image": torch.rand(6, 3, 16, 16), "words": torch.zeros(6, 4, 32)}
    return cg.adapt(Paired(net, "pixel_values"), inputs=("image", "words")), inputs, threat


def clap() -> Case:
    text = {**SMALL, "vocab_size": 64, "max_position_embeddings": 16, "projection_dim": 16}
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "patch_embeds_hidden_size": 16,
        "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2], "window_size": 4, "num_hidden_layers": 2,
        "projection_dim": 16, "enable_fusion": False,
    }  # fmt: skip
    net = transformers.ClapModel(transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=16))
    threat = cg.ThreatModel(mel=cg.Linf(0.2), words=cg.L2(0.02))
    inputs = {"mel": torch.randn(6, 1, 256, 16), "words": torch.zeros(6, 4, 32)}
    return cg.adapt(Paired(net, "input_features"), inputs=("mel", "words")), inputs, threat


MODELS: dict[str, Callable[[], Case]] = {f.__name__: f for f in (videomae, ast, wav2vec2, clip, clap)}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    return MODELS[request.param]()


def _as_l2(threat: cg.ThreatModel) -> cg.ThreatModel:
    return cg.ThreatModel({n: cg.L2(10 * b.eps, bounds=b.bounds) for n, b in threat.budgets.items()})


@pytest.mark.parametrize("attack", [pgd, apgd])
@pytest.mark.parametrize("norm", ["own", "l2"])
def test_attacks_lower_the_margin_inside_the_budget(case: Case, attack: Any, norm: str) -> None:
    model, inputs, threat = case
    threat = threat if norm == "own" else _as_l2(threat)
    model.train()
    next(model.children()).eval()
    flags = [m.training for m in model.modules()]
    state = {n: t.clone() for n, t in model.state_dict().items()}
    with cg.core.borrowed(model) as net, torch.no_grad():
        targets = forward(net, inputs).logits.argmax(dim=1)
        before = cg.SingleLabel(5).margin(forward(net, inputs).logits, targets)
    result = attack(model, inputs, targets, threat, steps=6, stop="never", objective="margin")
    assert (result.margin < before).all()
    assert threat.contains(result.inputs, inputs).all()
    assert all((result.inputs[n] != inputs[n]).any() for n in threat.names)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("videomae", {"rgb": "net.videomae.embeddings"}),
        ("ast", {"mel": "net.audio_spectrogram_transformer.embeddings"}),
        ("wav2vec2", {"audio": "net.wav2vec2.feature_extractor"}),
        ("wav2vec2", {"audio": "net.wav2vec2.encoder.layers.0.final_layer_norm"}),
        ("clip", {"image": "net.net.vision_model.embeddings"}),
    ],
)
def test_they_can_be_cut_and_attacked_on_features(name: str, at: dict[str, str]) -> None:
    torch.manual_seed(0)
    model, inputs, threat = MODELS[name]()
    model.eval()
    head, tail = cg.cut(model, at)
    features = head(inputs)
    logits = forward(model, inputs).logits.detach()
    assert torch.equal(forward(tail, features).logits, logits)
    (modality,) = at
    assert features[modality].shape != inputs[modality].shape
    targets = logits.argmax(dim=1)
    deep = cg.ThreatModel({**threat.budgets, modality: cg.Linf(0.05)})
    result = pgd(tail, features, targets, deep, steps=6, stop="never", objective="margin")
    assert (result.margin < cg.SingleLabel(5).margin(logits, targets)).all()
    assert deep.contains(result.inputs, features).all()
    assert all(p.grad is None for p in model.parameters())
