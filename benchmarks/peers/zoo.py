"""What is attacked: small models, trained in seconds on real images: scikit-learn's handwritten digits (8x8, 0 to 1).

Every model is a function of its seed. The radii are our choice: at them robust accuracy is neither 0 nor 100 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import crossguard as cg

# (net, x, y, share of the training done) -> what training makes small
Loss: TypeAlias = Callable[[nn.Module, Tensor, Tensor, float], Tensor]

TRAINED = 1197  # of 1797 images; the other 600 are attacked


@dataclass(frozen=True)
class Subject:
    """A trained net in eval mode, the Linf radius it is attacked at, and the shape of a sample as it takes it."""

    net: nn.Module
    eps: float
    shape: tuple[int, ...] = (1, 8, 8)


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1] in steps of 1/16, and classes (1797,); in one fixed random order."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(found.images).to(torch.float32)[:, None] / 16
    return x[order], torch.from_numpy(found.target).to(torch.int64)[order]


def attacked(samples: int) -> tuple[Tensor, Tensor]:
    """The first `samples` (at most 600) of the images that no model was trained on."""
    x, y = digits()
    return x[TRAINED : TRAINED + samples], y[TRAINED : TRAINED + samples]


def trained(build: Callable[[], nn.Module], loss: Loss, epochs: int) -> nn.Module:
    """A net trained with Adam, seed 0; its parameters ask for no gradient."""
    x, y = (part[:TRAINED] for part in digits())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build()
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for epoch in range(epochs):
            for rows in torch.randperm(TRAINED).split(100):
                optimizer.zero_grad()
                loss(net, x[rows], y[rows], epoch / epochs).backward()
                optimizer.step()
    return net.eval().requires_grad_(False)


def plain(net: nn.Module, x: Tensor, y: Tensor, done: float) -> Tensor:
    return F.cross_entropy(net(x), y)


def adversarial(eps: float) -> Loss:
    """Cross-entropy at what five steps of PGD find (Madry et al., ICLR 2018)."""

    def loss(net: nn.Module, x: Tensor, y: Tensor, done: float) -> Tensor:
        threat = cg.ThreatModel(x=cg.Linf(eps, bounds=(0, 1)))
        found = cg.attacks.pgd(
            cg.adapt(net, inputs=("x",)), {"x": x}, y, threat, steps=5, step_size=0.4, stop="never", select="last"
        )
        return F.cross_entropy(net(found.inputs["x"]), y)

    return loss


def interval_bound(eps: float) -> Loss:
    """Cross-entropy of the worst logits that bounds allow (Gowal et al., 2018); eps grows over the first half."""

    def loss(net: nn.Module, x: Tensor, y: Tensor, done: float) -> Tensor:
        return F.cross_entropy(worst_logits(net, x, y, eps * min(1.0, 2 * done)), y)

    return loss


def worst_logits(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(N, classes) upper bounds of wrong logits and the lower bound of the right one, within eps of x and in [0, 1].

    Interval arithmetic through a Sequential of convolutions, linear maps, ReLU and Flatten: sound, not tight.
    """
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    for layer in net.children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            middle, radius = layer((low + high) / 2), (high - low) / 2
            if isinstance(layer, nn.Conv2d):
                spread = F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
            else:
                spread = F.linear(radius, layer.weight.abs())
            low, high = middle - spread, middle + spread
        else:
            low, high = layer(low), layer(high)
    right = F.one_hot(y, high.shape[1]).bool()
    return torch.where(right, low, high)


def certified(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(N,) whether interval bounds prove that nothing within eps changes the class: no attack can succeed there."""
    return worst_logits(net, x, y, eps).argmax(dim=1) == y


def build_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def build_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


class Recurrent(nn.Module):
    """A GRU over the rows of an image, (N, T, D); or (N, 1, T, D), for those who know images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x.reshape(-1, 8, 8))[0][:, -1])


class Scaled(nn.Module):
    """Logits so large that cross-entropy's gradient vanishes in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.net(x)


class Quantised(nn.Module):
    """Inputs rounded to the 1/16 that the images are made of: nothing changes on them, the gradient is 0 everywhere."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 16).round() / 16)


@cache
def cnn() -> nn.Module:
    return trained(build_cnn, plain, 15)


ZOO: dict[str, Callable[[], Subject]] = {
    "MLP": lambda: Subject(trained(build_mlp, plain, 30), 0.08),
    "CNN": lambda: Subject(cnn(), 0.08),
    "CNN, adversarially trained": lambda: Subject(trained(build_cnn, adversarial(0.15), 20), 0.15),
    "CNN, provably robust": lambda: Subject(trained(build_cnn, interval_bound(0.1), 60), 0.1),
    "CNN, logits x 1e4": lambda: Subject(Scaled(cnn()), 0.08),
    "CNN, inputs quantised": lambda: Subject(Quantised(cnn()), 0.08),
    "GRU on (N, T, D)": lambda: Subject(trained(Recurrent, plain, 30), 0.06, (8, 8)),
}
