"""FMN beside the FMN of adv-lib and foolbox: medians of the least norms, at equal steps, on equal samples.

    python benchmarks/fmn.py [--steps 100 1000] [--samples 397] [--threads 1]

Where adv-lib or foolbox is not installed, its columns are left out. Two networks on scikit-learn's digits, drawn at
16x16: an MLP, and a CNN trained on PGD examples. A norm is taken from the point returned, clipped to the valid values,
and is infinite where it does not fool. adv-lib and foolbox run with their defaults and, for L-inf, also with a first
step of 10 as in the paper; the better of both counts.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import crossguard as cg
from crossguard.threat import Budget

Attack: TypeAlias = Callable[[nn.Module, Tensor, Tensor, str, int], Tensor]
BUDGETS: dict[str, Budget] = {
    "linf": cg.Linf(0.1, bounds=(0, 1)),
    "l2": cg.L2(1.0, bounds=(0, 1)),
    "l1": cg.L1(5.0, bounds=(0, 1)),
    "l0": cg.L0(10, bounds=(0, 1)),
}


def ours(net: nn.Module, x: Tensor, y: Tensor, norm: str, steps: int) -> Tensor:
    model = cg.adapt(net, inputs=("x",))
    return cg.attacks.fmn(model, {"x": x}, y, cg.ThreatModel(x=BUDGETS[norm]), steps=steps).inputs["x"]


def adv_lib(first_step: float) -> Attack:
    from adv_lib.attacks.fast_minimum_norm import fmn

    def attack(net: nn.Module, x: Tensor, y: Tensor, norm: str, steps: int) -> Tensor:
        options: dict[str, Any] = {"α_init": first_step}
        return fmn(net, x, y, norm=float(norm[1:]), steps=steps, **options)

    return attack


def foolbox(first_step: float) -> Attack:
    import foolbox as fb

    kinds = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack", "l1": "L1FMNAttack", "l0": "L0FMNAttack"}

    def attack(net: nn.Module, x: Tensor, y: Tensor, norm: str, steps: int) -> Tensor:
        model = fb.PyTorchModel(net, bounds=(0, 1), device="cpu")
        found = getattr(fb.attacks, kinds[norm])(steps=steps, max_stepsize=first_step)
        return found(model, x, y, epsilons=None)[1]

    return attack


def peers() -> dict[str, Callable[[float], Attack]]:
    """Those that can be imported."""
    found: dict[str, Callable[[float], Attack]] = {}
    for package, peer in (("adv-lib", adv_lib), ("foolbox", foolbox)):
        try:
            peer(1.0)
            found[f"{package} {version(package)}"] = peer
        except (ImportError, PackageNotFoundError) as error:
            print(f"{package} is left out: {error}")
    return found


def without_operators() -> None:
    """adv-lib imports torchvision for a distance that is not used here; its operators may not fit a CPU torch."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)


KEPT: list[torch.library.Library] = []


def trained(net: nn.Module, x: Tensor, y: Tensor, eps: float, epochs: int) -> nn.Module:
    """The network after some epochs, on PGD examples where `eps` > 0."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    model, threat = cg.adapt(net, inputs=("x",)), cg.ThreatModel(x=cg.Linf(eps, bounds=(0, 1)))
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            batch = x[rows]
            if eps:
                options: dict[str, Any] = {"steps": 3, "step_size": 0.5, "stop": "never", "select": "last"}
                batch = cg.attacks.pgd(model, {"x": batch}, y[rows], threat, **options).inputs["x"]
            optimizer.zero_grad()
            F.cross_entropy(net(batch), y[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def nets(x: Tensor, y: Tensor) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    return {"MLP": trained(mlp, x, y, 0.0, 30), "CNN, adversarial": trained(cnn, x, y, 0.15, 15)}


def least(attack: Attack, net: nn.Module, x: Tensor, y: Tensor, norm: str, steps: int) -> tuple[Tensor, float]:
    """(N,) norms of what an attack finds, and the seconds that it took."""
    start = time.perf_counter()
    point = attack(net, x, y, norm, steps).detach().clamp(0, 1)
    taken = time.perf_counter() - start
    with torch.no_grad():
        logits = net(point)
    return torch.where(cg.SingleLabel(10).margin(logits, y) <= 0, BUDGETS[norm].distance(point, x), torch.inf), taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--samples", type=int, default=397)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    without_operators()
    others = peers()
    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], torch.tensor(digits.target)[order]
    print(f"{date.today()}, torch {torch.__version__}, {platform.machine()}, {asked.threads} thread(s)")
    for name, net in nets(x[:1400], y[:1400]).items():
        test, labels = x[1400 : 1400 + asked.samples], y[1400 : 1400 + asked.samples]
        for norm in BUDGETS:
            for steps in asked.steps:
                mine, seconds = least(ours, net, test, labels, norm, steps)
                print(f"{name}, {norm}, {steps} steps: median {mine.median():.4f}, {seconds:.1f} s", end="", flush=True)
                for peer, build in others.items():
                    runs = [
                        least(build(first), net, test, labels, norm, steps)
                        for first in ((1.0, 10.0) if norm == "linf" else (1.0,))
                    ]
                    theirs, taken = min(runs, key=lambda run: float(run[0].median()))
                    ratio, lost = float(mine.median() / theirs.median()), float((mine > theirs * 1.001).float().mean())
                    print(
                        f"; {peer}: ratio {ratio:.4f} (theirs is nearer on {lost:.0%}, fools nothing on "
                        f"{theirs.isinf().float().mean():.0%}), {taken:.1f} s", end="", flush=True,
                    )  # fmt: skip
                print()


if __name__ == "__main__":
    main()
