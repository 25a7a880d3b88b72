"""The libraries we are measured against, and ourselves: each a function of a net that returns `attack(x, y) -> points`.

The random start is drawn from torch's global seed in the same way by all, so that all climb from the same points.
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import crossguard as cg

try:
    import torchvision  # noqa: F401
except RuntimeError:  # torchattacks wants the package; its operators, of which nobody here has need, a CPU torch lacks
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[module]
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch as art_pgd
import foolbox
import numpy as np
import torchattacks
from art.estimators.classification import PyTorchClassifier
from compare import Attack
from pyautoattack import AutoAttack

logging.getLogger("auto-attack").setLevel(logging.ERROR)  # its warnings tell of models that are made to be masked
WHOLE = 2**20  # a batch size that no batch here reaches
VERSIONS = {
    name: version(name)
    for name in ("torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "pyautoattack")
}


def threat(eps: float) -> cg.ThreatModel:
    return cg.ThreatModel(x=cg.Linf(eps, bounds=(0, 1)))


def our_pgd(net: nn.Module, eps: float, share: float, steps: int, **options: Any) -> Attack:
    """From the peers' start; our own draw, which is made all the same, counts against us."""
    model = cg.adapt(net, inputs=("x",))

    def attack(x: Tensor, y: Tensor) -> Tensor:
        start = {"x": x + torch.empty_like(x).uniform_(-eps, eps)}
        result = cg.attacks.pgd(model, {"x": x}, y, threat(eps), steps=steps, step_size=share, start=start, **options)
        return result.inputs["x"]

    return attack


def torchattacks_pgd(net: nn.Module, eps: float, share: float, steps: int) -> Attack:
    return torchattacks.PGD(net, eps=eps, alpha=share * eps, steps=steps)


def foolbox_pgd(net: nn.Module, eps: float, share: float, steps: int) -> Attack:
    """`run` on raw tensors: calling the attack would also look at its success, for every epsilon."""
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=share * eps, steps=steps)
    return lambda x, y: attack.run(model, x, y, epsilon=eps)


def torch_start(points: int, dims: int, radius: float, norm: float) -> np.ndarray:
    """In place of ART's draw from numpy; from the seed anew, as ART's loader has drawn a number of its own by now."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    return torch.empty(points, dims).uniform_(-radius, radius, generator=generator).numpy()


def art_pgd_pytorch(net: nn.Module, eps: float, share: float, steps: int) -> Attack:
    """ART's attack for torch alone, the whole batch at once, no progress bar."""
    art_pgd.random_sphere = torch_start
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    attack = art_pgd.ProjectedGradientDescentPyTorch(
        classifier, eps=eps, eps_step=share * eps, max_iter=steps, num_random_init=1, batch_size=WHOLE, verbose=False
    )
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def our_worst_case(net: nn.Module, eps: float, **options: Any) -> Attack:
    model = cg.adapt(net, inputs=("x",))

    def attack(x: Tensor, y: Tensor) -> Tensor:
        found = cg.attacks.worst_case(
            model, {"x": x}, y, threat(eps), task=cg.SingleLabel(10), seed=torch.initial_seed(), **options
        )
        return found.inputs["x"]

    return attack


def autoattack_standard(net: nn.Module, eps: float) -> Attack:
    def attack(x: Tensor, y: Tensor) -> Tensor:
        made = AutoAttack(net, eps=eps, norm="Linf", version="standard", seed=torch.initial_seed())
        return made.run_standard_evaluation(x, y, batch_size=len(x))[0]

    return attack


def torchattacks_autoattack(net: nn.Module, eps: float) -> Attack:
    """As it comes: its "standard" makes 10 steps of APGD, APGD-T and FAB, where AutoAttack's own makes 100."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return torchattacks.AutoAttack(net, eps=eps, n_classes=10, seed=torch.initial_seed())(x, y)

    return attack
