"""Beside other libraries: ratios in one run, on equal samples, batch and threads.

    make peers        # makes an environment of the peers' own, then runs both of:
    PYTHONPATH=src .venv-peers/bin/python benchmarks/peers pgd [--rounds 9] [--samples 64] [--threads 1]
    PYTHONPATH=src .venv-peers/bin/python benchmarks/peers worst_case [--rounds 1] [--samples 500] [--threads 1]

pgd: 50 steps of eps / 8 from the same random start, at a radius that about half of the samples withstand and at twice
    that. Ratios of our time to the peer's for its 50 steps: of our whole attack (50 steps; fooled samples leave our
    batch), of the same with stop="never" (all take all steps, as they do elsewhere), and of the quickest of fewer steps
    with which ours leaves no more samples standing than the peer's 50 do, in every round: of the same size, and of
    eps / 8 or eps / 2, whichever is quicker (keeping the best point makes long steps safe). The last is the time to
    equal or lower robust accuracy; beside it stands what the peer itself would need with the same two choices.
worst_case: against AutoAttack standard of two libraries, all samples as one batch.

Nets ask for no gradients of parameters, which foolbox and ART would pay for. Freed memory stays in the process, for
all alike. Who still stands is decided by one judge on the points returned.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from datetime import date
from itertools import product

import torch
from compare import Attack, Runs, above, race, ratio
from libraries import (
    VERSIONS,
    art_pgd_pytorch,
    autoattack_standard,
    foolbox_pgd,
    our_pgd,
    our_worst_case,
    torchattacks_autoattack,
    torchattacks_pgd,
)
from torch import nn
from zoo import ZOO, attacked, certified

from crossguard.core.memory import keep_freed_memory

STEPS, SHARE, LONG = 50, 1 / 8, 1 / 2  # sizes of steps in shares of the radius
FEWER = (5, 10, 15, 20, 30, 40, STEPS)
PGD: dict[str, tuple[Callable[[nn.Module, float, float, int], Attack], float]] = {  # with the bar of the time ratio
    "torchattacks": (torchattacks_pgd, 1.0),
    "foolbox": (foolbox_pgd, 0.65),
    "ART": (art_pgd_pytorch, 0.3),
}
AUTOATTACKS: dict[str, Callable[[nn.Module, float], Attack]] = {
    "pyautoattack": autoattack_standard,
    "torchattacks": torchattacks_autoattack,
}
TIME_BAR, POINTS_BAR = 0.7, 0.3


def pgd(name: str, samples: int, rounds: int) -> None:
    """Whole attacks on one model, a row for each peer and radius."""
    subject = ZOO[name]()
    x, y = attacked(samples)
    for eps in (subject.eps, 2 * subject.eps):
        attacks: dict[str, Attack] = {"never": our_pgd(subject.net, eps, SHARE, STEPS, stop="never")}
        makers = {"ours": our_pgd, **{peer: make for peer, (make, _) in PGD.items()}}
        for steps, share in product(FEWER, (SHARE, LONG)):
            attacks |= {f"{who} {steps} {share}": make(subject.net, eps, share, steps) for who, make in makers.items()}
        runs = race(attacks, subject.net, x, y, eps, rounds, warm_up=True)
        for peer, (_, bar) in PGD.items():
            theirs, row = runs[f"{peer} {STEPS} {SHARE}"], f"{name:4} {eps:4.2f} {peer:12}"
            if theirs.failed:
                print(f"{row} did not run: {theirs.failed}")
                continue
            row += f" {1000 * middle(theirs):7.1f} {robust(theirs):5.1f} |"
            for run in (runs[f"ours {STEPS} {SHARE}"], runs["never"]):
                found, spread = ratio(run, theirs)
                row += f" {found:5.2f} ({spread:.2f}) {robust(run):5.1f} |"
            for who, shares in (("ours", (SHARE,)), ("ours", (SHARE, LONG)), (peer, (SHARE, LONG))):
                equal = [
                    (*ratio(runs[f"{who} {steps} {share}"], theirs), steps, share)
                    for steps, share in product(FEWER, shares)
                    if above(runs[f"{who} {steps} {share}"], theirs) <= 0
                ]
                if not equal:
                    row += "  never   |"
                    continue
                found, spread, steps, share = min(equal)
                row += f" {steps:2} x {share:5.3f} {found:5.2f} ({spread:.2f}) |"
                if who == "ours" and len(shares) == 2:
                    row += f" {bar:4.2f} {verdict(found <= bar):7} |"
            print(row, flush=True)


def worst_case(name: str, samples: int, rounds: int, options: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Whole evaluations of one model, a row for each peer; by peer the time ratio and how many points we are above."""
    subject = ZOO[name]()
    x, y = attacked(samples)
    attacks = {peer: make(subject.net, subject.eps) for peer, make in AUTOATTACKS.items()}
    if subject.shape != x.shape[1:]:
        x = x.view(-1, *subject.shape)
        attacks = {peer: with_channel(attack) for peer, attack in attacks.items()}
    attacks = {
        "pyautoattack": attacks.pop("pyautoattack"),
        "ours": our_worst_case(subject.net, subject.eps, **options),
        **attacks,
    }
    runs = race(attacks, subject.net, x, y, subject.eps, rounds, warm_up=False)
    ours = runs.pop("ours")
    if ours.failed:
        print(f"{name:26} ours did not run: {ours.failed}")
    found: dict[str, tuple[float, float]] = {}
    for peer, theirs in runs.items():
        row = f"{name:26} {subject.eps:4.2f} {peer:12}"
        row += f" did not run: {theirs.failed}" if theirs.failed else f" {middle(theirs):7.1f} {robust(theirs):5.1f}"
        if not theirs.failed and not ours.failed:
            found[peer] = (ratio(ours, theirs)[0], above(ours, theirs))
            row += f" | {middle(ours):7.1f} {robust(ours):5.1f} | {found[peer][0]:5.2f} {found[peer][1]:+5.1f}"
        print(row, flush=True)
    if "provably" in name:
        proven = 100 * certified(subject.net, x, y, subject.eps).to(torch.float64).mean().item()
        print(f"{'':26} {'':4} {'(proven)':12} {'':7} {proven:5.1f}")
        if any(accuracy < proven for run in (ours, *runs.values()) for accuracy in run.robust):
            raise SystemExit("an attack went below what is proven: the comparison is wrong somewhere")
    return found


def with_channel(attack: Attack) -> Attack:
    """Both AutoAttacks refuse, or take for one image, what is not (N, C, H, W): for them (N, T, D) is (N, 1, T, D)."""
    return lambda x, y: attack(x[:, None], y)[:, 0]


def middle(runs: Runs) -> float:
    return statistics.median(runs.seconds)


def robust(runs: Runs) -> float:
    return statistics.fmean(runs.robust)


def verdict(met: bool) -> str:
    return "met" if met else "NOT MET"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pgd", "worst_case"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--samples", type=int, help="at most 600")
    parser.add_argument("--effort", help="of worst_case; by default its own")
    parser.add_argument("--models", nargs="+", choices=ZOO, metavar="NAME", help=f"of {list(ZOO)}")
    arguments = parser.parse_args()
    kept = keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    print(
        f"{date.today()}, {platform.machine()}, {arguments.threads} threads, freed memory "
        f"{'kept' if kept else 'as the C library likes'}\n{', '.join(f'{n} {v}' for n, v in VERSIONS.items())}"
    )
    if arguments.what == "pgd":
        samples, rounds = arguments.samples or 64, arguments.rounds or 9
        print(f"PGD, {STEPS} steps of eps/8, {samples} samples, {rounds} rounds: median times, mean robust accuracies")
        print(
            "model, eps, peer: its ms, % | ours whole / peer (IQR), % | stop=never | ours to equal, steps of eps/8 | "
            "the same, any steps, bar | peer to equal, any steps"
        )
        for name in arguments.models or ("MLP", "CNN"):
            pgd(name, samples, rounds)
        return
    samples, rounds = arguments.samples or 500, arguments.rounds or 1
    options = {"effort": arguments.effort} if arguments.effort else {}
    print(f"worst_case, {samples} samples, {rounds} rounds: median times, mean robust accuracies")
    print(f"{'model':26} {'eps':4} {'peer':12} {'s':>7} {'%':>5} |  ours s     % | ours/peer, points above")
    tables = [worst_case(name, samples, rounds, options) for name in arguments.models or ZOO]
    for peer in AUTOATTACKS:
        found = [table[peer] for table in tables if peer in table]
        if found:
            times, points = statistics.median(time for time, _ in found), max(points for _, points in found)
            print(
                f"{peer}: median of the time ratios {times:.2f}, bar {TIME_BAR}: {verdict(times <= TIME_BAR)}; robust "
                f"accuracy at most {points:+.1f} points above, bar {POINTS_BAR}: {verdict(points <= POINTS_BAR)}"
            )


if __name__ == "__main__":
    main()
