"""What the search loop costs beside the bare minimum: ratios within one run.

    python benchmarks/search.py [--threads 2] [--default-allocator]

Both sides run with freed memory kept in the process (as the command line does): otherwise the C library gives it back
to the kernel after a step, or not, as it happens, and page faults weigh more than what is measured here.

1. a PGD step (stop="never") against forward + input-gradient backward, on a compute-bound model;
2. the same against a bare loop on a tiny model, with the last point returned and with the best one kept;
3. late fusion, one modality attacked, against attacking that branch alone;
4. stop="success": sample-forwards against the sum over samples of (first fooling point looked at + 2).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import crossguard as cg
from crossguard.attacks import pgd
from crossguard.core.memory import keep_freed_memory


class Net(nn.Module):
    """Any network on one input, called `x`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return self.net(inputs["x"])


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(
    ours: Callable[[], object], bare: Callable[[], object], rounds: int, fixed: Callable[[], object] | None = None
) -> tuple[float, float]:
    """Median of the ratios of neighbouring runs, and their interquartile range: other load hits both alike.

    `fixed`: ours without steps; what it takes is not a step's.
    """
    ours(), bare()
    found: list[float] = []
    for _ in range(rounds):
        start = seconds(fixed) if fixed else 0.0
        found.append((seconds(ours) - start) / seconds(bare))
    low, median, high = statistics.quantiles(found, n=4)
    return median, high - low


def bare_loop(net: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, keep_best: bool) -> Tensor:
    """The least that PGD can do on one input."""
    low, high = x - eps, x + eps
    point = x + eps * (2 * torch.rand_like(x) - 1)
    best, lowest = point, torch.full((len(x),), torch.inf)
    for _ in range(steps):
        point.requires_grad_()
        logits = net(point)
        if keep_best:
            with torch.no_grad():
                margin = cg.SingleLabel(logits.shape[1]).margin(logits, y)
                better = margin < lowest
                best = torch.where(better.view(-1, *(1,) * (x.dim() - 1)), point, best)
                lowest = torch.fmin(margin, lowest)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), point)
        point = torch.clamp(torch.add(point.detach(), gradient.sign(), alpha=eps / 8), low, high)
    return best if keep_best else point


def steps_only(model: Net, x: Tensor, y: Tensor, steps: int, select: str) -> Callable[[], object]:
    """PGD of ours, all samples all steps."""
    threat = cg.ThreatModel(x=cg.Linf(0.03))
    return lambda: pgd(model, {"x": x}, y, threat, steps=steps, stop="never", select=select)


def compute_bound(rounds: int) -> None:
    width = 32
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    ).requires_grad_(False)  # fmt: skip
    model, x, y = Net(net), torch.rand(16, 3, 32, 32), torch.randint(0, 10, (16,))

    def bare(steps: int) -> Callable[[], object]:
        def run() -> None:
            for _ in range(steps):
                leaf = x.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)

        return run

    for p in net.parameters():
        p.requires_grad_(True)
    for select in ("last", "best"):
        ours, fixed = (steps_only(model, x, y, steps, select) for steps in (100, 0))
        for name, start in (("step", fixed), ("whole attack / 100", None)):
            found, spread = ratio(ours, bare(100), rounds, start)
            print(
                f"1. {name} / (forward + input gradient), CNN, select={select}: "
                f"{found:.3f} (IQR {spread:.3f}; bar 1.03)"
            )


def tiny(rounds: int) -> None:
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
    model, x, y = Net(net), torch.rand(64, 20), torch.randint(0, 5, (64,))
    for select, best in (("last", False), ("best", True), ("best", False)):
        against = "a bare loop that keeps the best point" if best else "a bare loop"
        ours, fixed = (steps_only(model, x, y, steps, select) for steps in (200, 0))
        found, spread = ratio(ours, lambda best=best: bare_loop(net, x, y, 0.03, 200, best), rounds, fixed)
        print(f"2. step / {against}, tiny MLP, select={select}: {found:.3f} (IQR {spread:.3f}; bar 1.3)")


def late_fusion(rounds: int) -> None:
    """At two widths of the skeleton branch: the cheaper it is, the more the other branch's two passes weigh."""
    torch.manual_seed(0)
    inputs = {"rgb": torch.rand(32, 3, 8, 32, 32), "skeleton": torch.randn(32, 2, 8, 25, 3)}
    y = torch.randint(0, 12, (32,))
    for name, width in (("rgb", 24), ("skeleton", 24), ("skeleton", 16)):
        encoders = {"rgb": cg.models.VideoResNet(width=8), "skeleton": cg.models.HCN(frames=8, width=width)}
        both = cg.FusionModel(encoders, fusion=cg.fusion.Mean(), classes=12).eval()
        alone = cg.FusionModel({name: encoders[name]}, fusion=cg.fusion.Mean(), classes=12).eval()
        threat = cg.ThreatModel({name: cg.Linf(0.03)})
        found, spread = ratio(
            lambda: pgd(both, inputs, y, threat, steps=20, stop="never"),  # noqa: B023
            lambda: pgd(alone, {name: inputs[name]}, y, threat, steps=20, stop="never"),  # noqa: B023
            rounds,
        )
        print(
            f"3. late fusion, only {name} attacked / that branch alone (skeleton width {width}): "
            f"{found:.3f} (IQR {spread:.3f}; bar 1.15)"
        )


def survivors() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    x = torch.randn(512, 20)
    y = net(x).argmax(dim=1)
    result = pgd(Net(net), {"x": x}, y, cg.ThreatModel(x=cg.Linf(0.15)), steps=50, step_size=0.02)
    first = torch.where(result.success, result.steps, 50) + 1
    bound = int((first + 2).sum())
    print(
        f"4. sample-forwards / sum of (first success + 2): {result.forwards / bound:.3f} "
        f"({result.success.float().mean():.0%} fooled; bar 1)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--default-allocator", action="store_true", help="let glibc give freed memory back, as it likes"
    )
    arguments = parser.parse_args()
    kept = not arguments.default_allocator and keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"{date.today()}, {platform.machine()}, {arguments.threads} threads, torch {torch.__version__}, freed memory "
        f"{'kept' if kept else 'as the C library likes'}"
    )
    compute_bound(arguments.rounds)
    tiny(arguments.rounds)
    late_fusion(arguments.rounds)
    survivors()


if __name__ == "__main__":
    main()
