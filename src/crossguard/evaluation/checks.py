"""Checks by machine of whether the figures can be believed; what fails is a flag in plain words.

After Carlini et al. (On Evaluating Adversarial Robustness, 2019). Each allows one sample's luck, or 2 % of those
checked, so that an honest model is not accused; of those that had withstood as much may fall, but never half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from crossguard.attacks import fgsm
from crossguard.attacks.stages import climb
from crossguard.core import expand_mask, forward
from crossguard.core.batch import flat
from crossguard.core.random import combine, sample_keys, text_key
from crossguard.diagnostics import Failure, failures
from crossguard.evaluation.attack import Case, strike
from crossguard.evaluation.record import Flag
from crossguard.evaluation.store import Arrays
from crossguard.evaluation.tolerance import tolerance, tolerated
from crossguard.threat import ThreatModel

MORE = 4
_HIGH_SEED = 7919
# So many steps show an attack's course, so many samples whether it fails.
_COURSE, _SUSPECTS = 20, 32


@dataclass(frozen=True)
class Probe:
    """Of one modality: does a gradient reach it, and does the model look at it at all?"""

    gradient: bool
    used: bool
    zero: int
    broken: int
    samples: int

    def merged(self, other: Probe) -> Probe:
        """What two batches say together: a gradient that reaches some sample reaches the modality, and none is due in a
        batch in which the model does not look at it."""
        if self.used != other.used:
            return self if self.used else other
        return Probe(
            self.gradient or other.gradient,
            self.used or other.used,
            self.zero + other.zero,
            self.broken + other.broken,
            self.samples + other.samples,
        )


def probe(case: Case) -> dict[str, Probe]:
    """Take the gradient of the margin once, at clean samples; where there is none, see whether large noise matters."""
    batch, names = case.batch, case.threat.names
    leaves = {m: batch.inputs[m].detach().clone().requires_grad_() for m in names}
    logits = forward(case.attacked, {**batch.inputs, **leaves}, batch.mask).logits
    margin = case.task.margin(logits, batch.targets)
    grads: Sequence[Any] = [None] * len(names)
    if margin.requires_grad and names:
        grads = torch.autograd.grad(margin.sum(), list(leaves.values()), allow_unused=True)
    found: dict[str, Probe] = {}
    for m, g in zip(names, grads, strict=True):
        real = case.batch.present(m)
        if g is not None and m in batch.mask:
            # What is masked out is never attacked: neither its gradient nor its NaN says anything.
            g = torch.where(expand_mask(batch.mask[m], g), g, 0.0)
        broken = 0 if g is None else int(flat(~torch.isfinite(g)).any(dim=1).sum())
        zero = real if g is None else real & flat(g == 0).all(dim=1)
        dead = g is None or bool(zero[real].all())
        used = not dead or _matters(case, m, logits.detach())
        found[m] = Probe(not dead, used, int(zero.sum()), broken, int(real.sum()))
    return found


def probe_ignored(case: Case) -> dict[str, Probe]:
    """Probes of what the first batches ignored on another one: what a model looks at may depend on the sample."""
    names = [m for m in case.threat.names if m in case.ignored]
    return probe(replace(case, threat=case.threat.only(*names))) if names else {}


def probes_of(part: Arrays) -> dict[str, Probe]:
    """The probes that were kept with a batch; parts of earlier versions hold none."""
    kept = {key.removeprefix("probe/"): x.tolist() for key, x in part.items() if key.startswith("probe/")}
    return {m: Probe(bool(gradient), bool(used), *counts) for m, (gradient, used, *counts) in kept.items()}


def suspect(case: Case) -> tuple[Failure, ...]:
    """Failures of the attacks on some samples of a batch; the curve over scales tells those of unbounded ones."""
    rows = range(min(len(case.batch), case.protocol.check_samples, _SUSPECTS))
    if not rows:
        return ()
    part = case.batch.take(rows)
    options = case.options(part, case.seed)
    return tuple(
        failures(case.attacked, part.inputs, part.targets, case.threat, steps=_COURSE, unbounded=False, **options)
    )


def _matters(case: Case, m: str, logits: torch.Tensor) -> bool:
    batch = case.batch
    budget = case.threat.budgets[m].scaled(case.protocol.max_scale)
    key = combine(sample_keys(batch.ids, batch.inputs), case.seed, text_key(m))
    noisy = budget.around(batch.inputs[m], batch.mask.get(m)).uniform(key)
    with torch.no_grad():
        return not torch.equal(forward(case.attacked, {**batch.inputs, m: noisy}, batch.mask).logits, logits)


def attackable(case: Case) -> Any:
    """(N,) numpy bool: samples in which some modality is there that may be attacked and that the model looks at."""
    there = [case.batch.present(m) for m in case.threat.names if m not in case.ignored]
    return torch.stack(there).any(dim=0).cpu().numpy() if there else np.zeros(len(case.batch), dtype=bool)


def attack_again(case: Case, rows: Sequence[int], broken: Mapping[str, Any]) -> Arrays:
    """Attack `rows` from scratch by one step, at scales 1 and 2, and survivors with four times the steps.

    `broken`: condition -> (N,) broken_at of this batch, to know survivors.
    """
    index = torch.as_tensor(rows, dtype=torch.long, device=case.batch.targets.device)
    part = case.batch.take(rows)
    stages, more_steps = case.protocol.stages, climb("margin", MORE * case.protocol.longest)
    plain = None if case.view is None else _plain(case)
    found: Arrays = {"ids": np.array(case.batch.ids, dtype=np.str_)}
    for condition, threat in case.threats().items():
        seen = [m for m in threat.names if m not in case.blind | case.ignored]
        if not seen or (condition == "joint" and case.alone(threat)):
            continue
        survived = np.asarray(broken[condition])[list(rows)] > 1
        found[f"{condition}/fooled"] = ~survived
        if threat.at_most is None:
            with case.work.timed("checks"):
                single = fgsm(
                    case.attacked, part.inputs, part.targets, threat.only(*seen), **case.options(part, case.seed)
                )
            case.work.add("checks", single.forwards, single.backwards)
            found[f"{condition}/single_step"] = single.success.cpu().numpy()
        for scale in (1.0, 2.0):
            worst = strike(case, "checks", threat.scaled(scale), index, None, stages=stages)
            found[f"{condition}/scale_{scale:g}"] = (worst.margin <= 0).cpu().numpy()
        # Of a view that hides more than the model does, survivors fall to gradients of the model itself.
        others = {"more_steps": (case, (more_steps,))} | ({} if plain is None else {"plain": (plain, stages)})
        left = index[torch.as_tensor(survived, device=index.device)]
        for what, (of, turns) in others.items():
            fell = np.zeros(len(rows), dtype=bool)
            if survived.any():
                worst = strike(of, "checks", threat, left, None, stages=turns, seed=case.seed + _HIGH_SEED)
                fell[survived] = (worst.margin <= 0).cpu().numpy()
            found[f"{condition}/{what}"] = fell
    singles = [found[k] for k in found if k.startswith("only:") and k.endswith("/fooled")]
    if "joint/scale_1" in found and singles:
        found["joint/weaker"] = np.any(singles, axis=0) & ~found["joint/scale_1"]
    return found | case.work.arrays()


def _plain(case: Case) -> Case:
    """The model itself in place of its view, random search where it has no gradient."""
    plain = replace(case, view=None)
    blind = frozenset(m for m, p in probe(plain).items() if not p.gradient) - case.ignored
    return replace(plain, blind=blind)


@dataclass(frozen=True)
class Evidence:
    """All that the verdicts rest on; arrays are over samples, `again` over those that were attacked again, by
    condition in the batches in which it can be."""

    probes: Mapping[str, Probe]
    again: Arrays
    samples: Arrays
    noise_won: Any
    attackable: Any
    outside: int
    scale: float
    unbounded: bool
    failures: Sequence[Failure] = ()


def verdicts(evidence: Evidence, threat: ThreatModel) -> tuple[list[Flag], dict[str, dict[str, Any]]]:
    """Flags, and every check with its figures, also where nothing was flagged."""
    flags: list[Flag] = []
    checks: dict[str, dict[str, Any]] = {}

    def judge(
        name: str, flag: str, modality: str | None, passed: bool, detail: str, *, wrong: float, of: int, **figures: Any
    ) -> None:
        # The share is what the same check of several runs is ordered by.
        checks[name] = {"modality": modality, "passed": passed, "share": wrong / max(of, 1), **figures}
        if not passed:
            flags.append(Flag(flag, modality, detail))

    for m, p in evidence.probes.items():
        figures = {"zero": p.zero, "non_finite": p.broken, "samples": p.samples, "used": p.used}
        fine = not p.used or (p.gradient and p.zero <= max(1.0, 0.1 * p.samples))
        judge(
            f"gradient/{m}", "no_gradient", m, fine,
            f"the model looks at {m}, but no gradient reaches it in {p.zero} of {p.samples} samples: an attack by "
            f"gradients cannot see it, so its figures say little about robustness", wrong=p.zero if p.used else 0,
            of=p.samples, **figures,
        )  # fmt: skip
        judge(
            f"finite_gradient/{m}", "non_finite_gradient", m, p.broken == 0,
            f"the gradient of {m} is NaN or infinite in {p.broken} of {p.samples} samples: the attack goes astray "
            f"there", wrong=p.broken, of=p.samples, **figures,
        )  # fmt: skip
    for condition in (*(f"only:{m}" for m in threat.names), "joint"):
        if f"{condition}/fooled" in evidence.again:
            _compare(evidence.again, condition, judge)
    # In batches where one modality alone matters, nothing is attacked jointly.
    single = evidence.again.get("joint/weaker", np.zeros(0, dtype=bool))
    judge(
        "joint_search", "joint_weaker_than_single", None, float(single.sum()) <= tolerance(single.size),
        f"attacking all modalities at once from scratch failed on {int(single.sum())} of {single.size} samples that "
        f"one modality alone had fooled: the joint search is too weak, true joint robustness may be lower",
        wrong=int(single.sum()), of=int(single.size), weaker=int(single.sum()), samples=int(single.size),
    )  # fmt: skip
    _whole_set(evidence, judge)
    for failure in evidence.failures:
        name, modality = failure.name, failure.modality
        said = [i for i, f in enumerate(flags) if (f.name, f.modality) == (name, modality)]
        detail = failure.detail
        if said:  # by another check already: one flag says both
            detail = flags.pop(said[0]).detail
        judge(
            f"failure/{name}/{modality or 'joint'}", name, modality, False, f"{detail}; {_remedied(failure)}",
            wrong=failure.affected, of=failure.samples, affected=failure.affected, samples=failure.samples,
            remedies=failure.remedies,
        )  # fmt: skip
    return flags, checks


def _remedied(failure: Failure) -> str:
    """What was tried, in plain words."""
    tried = ", ".join(f"{name} (+{gain})" for name, gain in failure.remedies.items())
    return f"of {failure.samples} samples that were looked at so many more fell to a remedy: {tried}"


def _compare(again: Arrays, condition: str, judge: Any) -> None:
    """The checks that compare two attacks on the same samples."""
    modality = condition.removeprefix("only:") if condition.startswith("only:") else None
    where = modality or "all modalities together"
    one, two = again[f"{condition}/scale_1"], again[f"{condition}/scale_2"]
    n, limit = one.size, tolerance(one.size)
    judge(
        f"larger_budget/{condition}", "larger_budget_helps", modality, bool(two.sum() >= one.sum() - limit),
        f"twice the budget on {where} fooled {int(two.sum())} of {n} samples, the budget itself {int(one.sum())}: a "
        f"larger budget cannot help an honest model, so the attack is misled", wrong=int(one.sum() - two.sum()), of=n,
        fooled=int(one.sum()), fooled_at_twice=int(two.sum()), samples=n,
    )  # fmt: skip
    if f"{condition}/single_step" in again:
        single = again[f"{condition}/single_step"]
        judge(
            f"iterative/{condition}", "iterative_not_better", modality, bool(one.sum() >= single.sum() - limit),
            f"a single step on {where} fooled {int(single.sum())} of {n} samples, many steps only {int(one.sum())}: "
            f"gradients mislead the attack", wrong=int(single.sum() - one.sum()), of=n, fooled=int(one.sum()),
            fooled_by_one_step=int(single.sum()), samples=n,
        )  # fmt: skip
    more, left = again[f"{condition}/more_steps"], int((~again[f"{condition}/fooled"]).sum())
    judge(
        f"more_steps/{condition}", "attack_not_converged", modality, bool(more.sum() <= tolerated(left)),
        f"{MORE} times the steps on {where} fooled {int(more.sum())} of {left} samples that had withstood: the attack "
        f"had not finished, true robustness is lower", wrong=int(more.sum()), of=left, newly_fooled=int(more.sum()),
        withstood=left, samples=n,
    )  # fmt: skip
    if f"{condition}/plain" in again:
        plain = again[f"{condition}/plain"]
        judge(
            f"attack_view/{condition}", "attack_view_weaker", modality, bool(plain.sum() <= tolerated(left)),
            f"the model itself, attacked on {where} without its attack view, lost {int(plain.sum())} of {left} samples "
            f"that had withstood: the view hides something, true robustness is lower", wrong=int(plain.sum()), of=left,
            newly_fooled=int(plain.sum()), withstood=left, samples=n,
        )  # fmt: skip


def _whole_set(evidence: Evidence, judge: Any) -> None:
    """The checks over all samples."""
    won, n = int(evidence.noise_won.sum()), int(evidence.noise_won.size)
    judge(
        "noise", "noise_beats_attack", None, won <= tolerance(n),
        f"random noise in the same budget fooled {won} of {n} samples that the joint attack could not: the attack is "
        f"worse than chance there", wrong=won, of=n, won=won, samples=n,
    )  # fmt: skip
    answers = {k.removeprefix("margin/"): v for k, v in evidence.samples.items() if k.startswith("margin/")}
    lost = {c: int(np.isneginf(margin).sum()) for c, margin in answers.items() if np.isneginf(margin).any()}
    judge(
        "finite_answers", "non_finite_answers", None, not lost,
        f"the model answers NaN to some of {n} samples ({', '.join(f'{c}: {count}' for c, count in lost.items())}): "
        f"they count as wrong, and are ranked as the worst there are", wrong=max(lost.values(), default=0), of=n,
        samples=n, **lost,
    )  # fmt: skip
    judge(
        "budget", "outside_budget", None, evidence.outside == 0,
        f"{evidence.outside} successes of the attack lay outside its budget and were not counted",
        wrong=evidence.outside, of=n, outside=evidence.outside,
    )  # fmt: skip
    if evidence.unbounded and bool(evidence.attackable.any()):
        left = int(np.isinf(evidence.samples["broken_at/joint"][evidence.attackable]).sum())
        total = int(evidence.attackable.sum())
        judge(
            "unbounded", "unbounded_attack_fails", None, left <= max(1.0, 0.01 * total),
            f"at {evidence.scale:g} times the budget the joint attack still leaves {left} of {total} samples right: "
            f"with no budget left to hold it back it should fool nearly all, so the attack is blind to something",
            wrong=left, of=total, left=left, samples=total, scale=evidence.scale,
        )  # fmt: skip
