"""What each stage of the worst case breaks, at what cost: digits, seconds of training, one thread.

    python benchmarks/worst_case.py [--effort thorough] [--models plain pgd …] [--peers]

Models: a plain, an adversarially trained and a provably robust (interval bounds) image network, an MLP, a recurrent
network on (N, T, D), and two that mask gradients: logits x 1e4, and rounded input. Printed after every stage: how many
samples still stand, sample-forwards so far, processor seconds so far. `--peers` runs pyautoattack's AutoAttack
(standard) beside it (`make peers`).
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import crossguard as cg
from crossguard.attacks.stages import EFFORTS

MODELS = ("plain", "pgd", "bounds", "mlp", "recurrent", "scaled", "rounded")
TRAINED = 600  # of 1797 the first ones test


def digits() -> tuple[Tensor, Tensor]:
    """(N, 1, 8, 8) images on [0, 1] and their classes, in an order of their own."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return (torch.tensor(found.images, dtype=torch.float32) / 16)[order][:, None], torch.tensor(found.target)[order]


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


class Recurrent(nn.Module):
    """Reads the rows of an image one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.GRU(8, 48, batch_first=True, bidirectional=True), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.flatten(0, -3))[0].mean(dim=1))


class Masking(nn.Module):
    """Logits scaled until cross-entropy has no gradient, or input rounded until nothing has."""

    def __init__(self, net: nn.Module, scale: float = 1.0, levels: int | None = None) -> None:
        super().__init__()
        self.net, self.scale, self.levels = net, scale, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if self.levels is None else (x * self.levels).round() / self.levels) * self.scale


def pgd(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Seven steps from a random start."""
    d = (torch.rand_like(x) * 2 - 1) * eps
    for _ in range(7):
        d.requires_grad_()
        slope = torch.autograd.grad(F.cross_entropy(net((x + d).clamp(0, 1)), y), d)[0]
        d = (d.detach() + eps / 3 * slope.sign()).clamp(-eps, eps)
    return (x + d).clamp(0, 1)


def bounds(net: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The worst logits by interval arithmetic (Gowal et al., ICCV 2019)."""
    middle, radius = x, torch.full_like(x, eps)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            middle, radius = layer(middle), F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
        elif isinstance(layer, nn.Linear):
            middle, radius = layer(middle), F.linear(radius, layer.weight.abs())
        elif isinstance(layer, nn.ReLU):
            low, high = (middle - radius).relu(), (middle + radius).relu()
            middle, radius = (low + high) / 2, (high - low) / 2
        else:
            middle, radius = layer(middle), layer(radius)
    return torch.where(F.one_hot(y, 10).bool(), middle - radius, middle + radius)


def train(net: nn.Module, how: str, eps: float, epochs: int, x: Tensor, y: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for epoch in range(epochs):
        share = min(1.0, epoch / (0.6 * epochs)) if how == "bounds" else 0.0
        for rows in torch.randperm(len(y)).split(64):
            a, b = x[rows], y[rows]
            loss = F.cross_entropy(net(pgd(net, a, b, eps) if how == "pgd" else a), b)
            if isinstance(net, nn.Sequential) and share:
                loss = (1 - share / 2) * loss + share / 2 * F.cross_entropy(bounds(net, a, b, eps * share), b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def make(name: str, x: Tensor, y: Tensor) -> tuple[nn.Module, float]:
    """A trained model and its budget in Linf."""
    torch.manual_seed(0)
    if name == "plain":
        return train(cnn(), "plain", 0.0, 12, x, y), 0.08
    if name == "bounds":
        return train(cnn(), "bounds", 0.12, 60, x, y), 0.12
    if name == "mlp":
        return train(mlp(), "pgd", 0.1, 30, x, y), 0.1
    if name == "recurrent":
        return train(Recurrent(), "plain", 0.0, 30, x[:, 0], y), 0.05
    robust = train(cnn(), "pgd", 0.15, 20, x, y)
    return {"pgd": robust, "scaled": Masking(robust, 1e4).eval(), "rounded": Masking(robust, levels=16).eval()}[
        name
    ], 0.15


def stage_by_stage(net: nn.Module, x: Tensor, y: Tensor, eps: float, effort: str) -> None:
    """The stages on survivors, one by one: what `cg.worst_case` does with a single modality."""
    start, paid = time.process_time(), len(y)
    model, threat, task = (
        cg.adapt(net, inputs=("x",)),
        cg.ThreatModel(x=cg.Linf(eps, bounds=(0, 1))),
        cg.SingleLabel(10),
    )
    with torch.no_grad():
        alive = (net(x).argmax(dim=1) == y).nonzero().squeeze(1)
    print(f"    {'clean':24} {len(alive):4} stand")
    for seed, stage in enumerate(EFFORTS[effort]):
        if alive.numel():
            found = stage.run(model, {"x": x[alive]}, y[alive], threat, task=task, ids=alive, seed=seed)
            alive, paid = alive[~found.success], paid + found.forwards
        print(
            f"    {stage.name:24} {len(alive):4} stand, {paid:8} forwards, {time.process_time() - start:5.1f} s so far"
        )


def peer(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> None:
    from pyautoattack import AutoAttack

    shown = [0]
    hook = net.register_forward_hook(lambda module, given, logits: shown.__setitem__(0, shown[0] + len(logits)))
    start = time.process_time()
    found = AutoAttack(net, norm="Linf", eps=eps, version="standard", device="cpu").run_standard_evaluation(
        x.reshape(len(x), 1, 8, 8), y, batch_size=len(y)
    )
    spent = time.process_time() - start
    hook.remove()
    with torch.no_grad():
        stand = int((net(found[0] if isinstance(found, tuple) else found).argmax(dim=1) == y).sum())
    print(f"    AutoAttack: {stand} stand of {len(y)}: {shown[0]} forwards, {spent:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", default="thorough", choices=sorted(EFFORTS))
    parser.add_argument("--models", nargs="*", choices=MODELS)
    parser.add_argument("--samples", type=int, default=400, help="at most 600")
    parser.add_argument("--peers", action="store_true", help="pyautoattack beside it: minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = digits()
    print(f"{date.today()}  torch {torch.__version__}  {platform.machine()}, one thread")
    for name in options.models or MODELS:
        net, eps = make(name, x[TRAINED:], y[TRAINED:])
        shown, truth = x[: options.samples], y[: options.samples]
        shown = shown[:, 0] if name == "recurrent" else shown
        print(f"{name}, Linf {eps:g}:", flush=True)
        stage_by_stage(net, shown, truth, eps, options.effort)
        if options.peers:
            peer(net, shown, truth, eps)


if __name__ == "__main__":
    main()
