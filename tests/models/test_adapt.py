"""Anyone's model, called the way it wants to be."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core import ModelError, Output, forward, takes_mask
from crossguard.models import adapt


class Net(nn.Module):
    """Linear in both inputs; subclasses differ in how they are called and what they answer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 3)
        self.b = nn.Linear(2, 3)

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) + 2 * self.b(b)


class Positional(Net):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.logits(first, second)


class Keyword(Net):
    def forward(self, *, pixel_values: Tensor, joints: Tensor) -> Tensor:
        return self.logits(pixel_values, joints)


class Tuple(Net):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.logits(*pair)


class Dict(Net):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        assert set(batch) == {"x", "y"}
        return self.logits(batch["x"], batch["y"])


@dataclass
class Answer:
    logits: Tensor
    loss: None = None


class Answers(Net):
    """Answers in any shape."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.shape(self.logits(a, b))


X = {"rgb": torch.randn(5, 4), "skeleton": torch.randn(5, 2), "unused": torch.randn(5, 9)}
NAMES = ("rgb", "skeleton")


@pytest.mark.parametrize(
    ("net", "options"),
    [
        (Positional(), {"inputs": NAMES}),
        (Positional(), {"inputs": list(NAMES), "style": "positional"}),
        (Positional(), {"inputs": {"rgb": "first", "skeleton": "second"}}),
        (Keyword(), {"inputs": {"skeleton": "joints", "rgb": "pixel_values"}}),
        (Tuple(), {"inputs": NAMES, "style": "tuple"}),
        (Dict(), {"inputs": {"rgb": "x", "skeleton": "y"}, "style": "dict"}),
    ],
)
def test_every_way_to_be_called(net: Net, options: dict[str, Any]) -> None:
    model = adapt(net, **options)
    assert torch.equal(forward(model, X).logits, net.logits(X["rgb"], X["skeleton"]))
    assert not takes_mask(model)
    model.eval()
    assert not net.training
    threat = cg.ThreatModel(rgb=cg.Linf(0.1))
    targets = forward(model, X).logits.argmax(dim=1)
    result = cg.attacks.fgsm(model, X, targets, threat)
    assert bool((result.margin < cg.SingleLabel(3).margin(model(X).logits, targets)).any())


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (lambda z: z, {}),
        (Output, {}),
        (Answer, {}),
        (lambda z: OrderedDict(loss=None, logits=z), {}),
        (lambda z: {"scores": z, "x": None}, {"select": "scores"}),
        (lambda z: (None, z), {"select": 1}),
        (lambda z: [z, None], {"select": 0}),
        (Answer, {"select": "logits"}),
        (lambda z: {"deep": [z]}, {"select": lambda answer: answer["deep"][0]}),
        (lambda z: Output(-z, latents={"fused": z}), {"select": lambda answer: answer.latents["fused"]}),
    ],
)
def test_every_answer(shape: Any, options: dict[str, Any]) -> None:
    net = Answers(shape)
    assert torch.equal(adapt(net, inputs=NAMES, **options)(X).logits, net.logits(X["rgb"], X["skeleton"]))


def test_an_output_comes_through_whole() -> None:
    net = Answers(lambda z: Output(z, weights={"rgb": z[:, 0]}))
    assert adapt(net, inputs=NAMES)(X).weights is not None


def test_probabilities_become_logits() -> None:
    soft = adapt(Answers(lambda z: z.softmax(dim=1)), inputs=NAMES, output="probabilities")
    logits = soft(X).logits
    task = cg.SingleLabel(3)
    assert not task.looks_like_probabilities(logits)
    torch.testing.assert_close(logits, soft.net.logits(X["rgb"], X["skeleton"]).log_softmax(dim=1))
    sure = adapt(Answers(lambda z: (z >= z.amax(dim=1, keepdim=True)).float()), inputs=NAMES, output="probabilities")
    assert bool(torch.isfinite(sure(X).logits).all())
    each = adapt(Answers(lambda z: {"p": z.sigmoid()}), inputs=NAMES, select="p", output="multilabel_probabilities")
    torch.testing.assert_close(each(X).logits, each.net.logits(X["rgb"], X["skeleton"]), rtol=1e-4, atol=1e-5)


class Masked(Net):
    def forward(self, a: Tensor, b: Tensor, seen: Tensor | None = None) -> Tensor:
        return self.logits(a if seen is None else a * seen[:, None], b)


def test_masks_reach_the_argument_that_takes_them() -> None:
    net = Masked()
    model = adapt(net, inputs=NAMES, masks={"rgb": "seen"})
    assert takes_mask(model)
    seen = torch.tensor([True, False, True, True, False])
    other = {"skeleton": torch.ones(5, dtype=torch.bool)}
    assert torch.equal(forward(model, X, {"rgb": seen, **other}).logits, net(X["rgb"], X["skeleton"], seen))
    assert torch.equal(forward(model, X, other).logits, net(X["rgb"], X["skeleton"]))
    assert torch.equal(forward(model, X).logits, net(X["rgb"], X["skeleton"]))


def test_masks_go_into_a_dict_by_their_key() -> None:
    class Batch(Net):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.logits(batch["rgb"] * batch["seen"][:, None], batch["skeleton"])

    model = adapt(Batch(), inputs=NAMES, style="dict", masks={"rgb": "seen"})
    seen = torch.zeros(5, dtype=torch.bool)
    assert torch.equal(forward(model, X, {"rgb": seen}).logits, model.net.logits(X["rgb"] * 0, X["skeleton"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": "rgb"}, "list or mapping"),
        ({"inputs": ()}, "list or mapping"),
        ({"inputs": NAMES, "style": "dicts"}, "did you mean 'dict'"),
        ({"inputs": NAMES, "output": "scores"}, "goes into select="),
        ({"inputs": NAMES, "masks": {"audio": "m"}}, "masks name"),
    ],
)
def test_impossible_wishes_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        adapt(Positional(), **options)


@pytest.mark.parametrize(
    ("shape", "select", "said"),
    [
        (lambda z: (z, z), None, "a tuple of 2"),
        (lambda z: {"scores": z}, None, r"a dict of \['scores'\]"),
        (lambda z: (z,), 3, "no 3 in"),
        (lambda z: None, None, "a NoneType"),
        (lambda z: {"logits": [z]}, None, "a list of 1, expected a tensor"),
    ],
)
def test_an_answer_without_logits_is_explained(shape: Any, select: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        adapt(Answers(shape), inputs=NAMES, select=select)(X)


def test_a_missing_input_is_named() -> None:
    with pytest.raises(ModelError, match=r"needs \['skeleton'\]"):
        adapt(Positional(), inputs=NAMES)({"rgb": X["rgb"]})


@pytest.mark.parametrize(
    ("answer", "output", "said"),
    [
        (lambda z: z - 9, "probabilities", r"from -\S+ to"),
        (lambda z: z.sigmoid(), "probabilities", "rows sum to"),
        (lambda z: 2 * z.softmax(dim=1), "probabilities", "rows sum to"),
        (lambda z: 9 * z, "multilabel_probabilities", r"from -\S+ to"),
    ],
)
def test_an_answer_that_is_not_what_it_is_said_to_be_is_refused(answer: Any, output: Any, said: str) -> None:
    model = adapt(Answers(answer), inputs=NAMES, output=output)
    with pytest.raises(ModelError, match=rf"output='{output}'.*{said}"):
        model(X)
    with pytest.raises(ModelError, match="leave output= out"):
        cg.evaluate(model, [cg.Batch(X, torch.zeros(5, dtype=torch.int64))], cg.ThreatModel(rgb=cg.Linf(0.1)))


def test_a_few_numbers_do_not_tell_logits_from_probabilities() -> None:
    model = adapt(Answers(lambda z: z), inputs=NAMES, output="multilabel_probabilities")
    inside = {"rgb": torch.zeros(1, 4), "skeleton": torch.zeros(1, 2)}
    with torch.no_grad():
        for layer in (model.net.a, model.net.b):
            layer.bias.fill_(0.1)
    model(inside)
    with pytest.raises(ModelError, match="multilabel_probabilities"):
        model({n: 99 * x for n, x in X.items()})


def test_probabilities_in_half_precision_and_nan_are_let_through() -> None:
    soft = adapt(Answers(lambda z: z.softmax(dim=1).bfloat16()), inputs=NAMES, output="probabilities")
    assert soft(X).logits.dtype == torch.bfloat16
    broken = adapt(Answers(lambda z: z.softmax(dim=1) * torch.nan), inputs=NAMES, output="probabilities")
    assert bool(broken(X).logits.isnan().all()), "evaluate says what that means"
