"""The committee of heads: the posterior that it says it is, what one head may do, who is heard."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import crossguard as cg
from crossguard.core import ModelError
from crossguard.data.base import Splits, TensorDataset
from crossguard.models import FusionModel, SeriesNet
from crossguard.models.committee import committee
from crossguard.models.fusion_model import check_task

EVEN = (1.0, 1.0, 1.0)


def heads(seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = scale * torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    return both[:, 0], both[:, 1:]


def test_it_is_the_posterior_of_witnesses_that_may_know_nothing() -> None:
    fused, auxiliary = heads()
    told = committee(fused, auxiliary, None, 0.2, EVEN).softmax(dim=1)
    product = torch.ones(4, 5, dtype=torch.float64)
    for logits in (fused, auxiliary[:, 0], auxiliary[:, 1]):
        product *= 0.8 * logits.softmax(dim=1) + 0.2 / 5
    torch.testing.assert_close(told, product / product.sum(dim=1, keepdim=True))
    plain = committee(fused, auxiliary, None, 0.0, EVEN)
    total = fused.log_softmax(1) + auxiliary.log_softmax(2).sum(dim=1)
    torch.testing.assert_close(plain, total)


@pytest.mark.parametrize("doubt", [0.05, 0.3])
@pytest.mark.parametrize("trust", [0.5, 1.0])
def test_no_head_moves_the_answer_by_more_than_its_bound(doubt: float, trust: float) -> None:
    fused, auxiliary = heads(1)
    bound = trust * math.log1p(5 * (1 - doubt) / doubt)
    mad = auxiliary.clone()
    mad[:, 0] = 0
    mad[:, 0, 2] = 1e4
    without, with_it = (committee(fused, a, None, doubt, (1.0, t, 1.0)) for a, t in ((auxiliary, 0.0), (mad, trust)))
    moved = with_it - without
    apart = moved.amax(dim=1) - moved.amin(dim=1)
    torch.testing.assert_close(apart, torch.full_like(apart, bound))


def test_every_head_has_a_gradient_however_sure_it_is_of_another_class() -> None:
    fused, auxiliary = (x.requires_grad_() for x in heads(2, 20.0))
    committee(fused, auxiliary, None, 0.1, EVEN)[:, 0].sum().backward()
    assert fused.grad is not None
    assert auxiliary.grad is not None
    assert bool(fused.grad.abs().flatten(1).amax(dim=1).gt(0).all())
    assert bool(auxiliary.grad.abs().amax(dim=2).gt(0).all())


def test_who_is_not_there_is_not_heard() -> None:
    fused, auxiliary = heads(3)
    real = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    told = committee(fused, auxiliary, real, 0.1, (0.0, 1.0, 0.5))
    alone = committee(fused, auxiliary, None, 0.1, (0.0, 0.0, 0.5))
    torch.testing.assert_close(told[1], alone[1])
    torch.testing.assert_close(told[3], committee(fused, auxiliary, None, 0.1, (1.0, 0.0, 0.0))[3])
    torch.testing.assert_close(told[0], committee(fused, auxiliary, None, 0.1, (0.0, 1.0, 0.5))[0])


def made(**options: object) -> FusionModel:
    torch.manual_seed(0)
    encoders = {name: SeriesNet(features=2, width=4) for name in ("a", "b")}
    return FusionModel(encoders, cg.fusion.Concat(), 5, inference="committee", **options).eval()  # type: ignore[arg-type]


def test_a_model_answers_by_its_committee_and_an_attack_goes_through_it() -> None:
    model = made(doubt=0.2, trust={"a": 0.5, "fused": 0.0})
    x = {name: torch.randn(6, 9, 2) for name in ("a", "b")}
    out = model(x, need=("auxiliary",))
    assert out.auxiliary is not None
    beliefs = [torch.log(0.8 * out.auxiliary[n].softmax(1) + 0.2 / 5) for n in ("a", "b")]
    torch.testing.assert_close(out.logits, 0.5 * beliefs[0] + beliefs[1])
    threat = cg.ThreatModel(a=cg.Linf(5.0), b=cg.Linf(5.0))
    found = cg.attacks.pgd(model, x, out.logits.argmax(dim=1), threat, steps=30)
    assert found.success.float().mean() > 0.8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"doubt": 1.0}, "doubt is 1.0"),
        ({"trust": {"c": 1.0}}, "trust names 'c', expected some of fused, a, b"),
        ({"trust": {"a": -1.0}}, "trust is"),
        ({"trust": {"fused": 0.0, "a": 0.0, "b": 0.0}}, "not all 0"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        made(**options)


class Wrapped(torch.nn.Module):
    """A committee inside someone's own module."""

    def __init__(self, net: FusionModel) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: cg.Inputs) -> cg.Output:
        return self.net(inputs)


@pytest.mark.parametrize("wrapped", [False, True])
def test_several_labels_are_refused_before_any_work(wrapped: bool, tmp_path: Path) -> None:
    model, threat = (Wrapped(made()) if wrapped else made()), cg.ThreatModel(a=cg.Linf(0.1))
    inputs = {name: torch.randn(6, 9, 2) for name in ("a", "b")}
    targets = torch.nn.functional.one_hot(torch.arange(6) % 5, 5)
    modalities = {name: cg.Modality(name, "NTD", "unit") for name in inputs}
    parts = (
        TensorDataset("d", modalities, tuple("vwxyz"), inputs, targets, ids=tuple(f"{split}{i}" for i in range(6)))
        for split in ("train", "validation", "test")
    )
    splits = Splits(*parts)
    config = cg.TrainConfig(epochs=1, batch_size=6)
    for started in (
        lambda: cg.train(
            model,
            splits,
            task=cg.MultiLabel(5),
            threat=threat,
            objective=cg.defences.Standard(),
            config=config,
            out=tmp_path / "run",
        ),
        lambda: cg.evaluate(model, [cg.Batch(inputs, targets)], threat, protocol="quick", out=tmp_path / "run"),
    ):
        with pytest.raises(ModelError, match="take inference 'vote' or 'fused'"):
            started()
        assert not list(tmp_path.rglob("*.*"))
    check_task(model, cg.SingleLabel(5))
    model.apply(lambda module: setattr(module, "inference", "vote") if isinstance(module, FusionModel) else None)
    check_task(model, cg.MultiLabel(5))
