"""What one batch goes through: clean, missing, noise, and every attack scale by scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from crossguard.attacks import noise
from crossguard.attacks.objective import RANKED
from crossguard.core import Inputs, MultiLabel, forward
from crossguard.core.batch import flat
from crossguard.core.ranking import Ranking, rankable
from crossguard.diagnostics import contribution, without
from crossguard.evaluation.attack import Case, Track, climb, rank
from crossguard.evaluation.attention import attend
from crossguard.evaluation.store import Arrays

State = dict[str, Tensor]


def names(modalities: Sequence[str], threat: Sequence[str]) -> list[str]:
    """The conditions of an evaluation, clean first."""
    singles = [f"only:{m}" for m in threat]
    return ["clean", *(f"missing:{m}" for m in modalities), "noise", *singles, "any_one", "joint"]


def in_order(found: Iterable[str]) -> list[str]:
    """Conditions of several evaluations, each once, in the order of reading: that of `names`."""
    order = ["clean", "missing", "noise", "only", "any_one", "joint"]
    return sorted(
        dict.fromkeys(found), key=lambda c: order.index(c.split(":")[0]) if c.split(":")[0] in order else len(order)
    )


def measure(case: Case, shown: Sequence[int]) -> tuple[Arrays, State]:
    """All conditions of a batch up to the last scale that every evaluation visits; `shown` rows are kept as clips."""
    batch, arrays = case.batch, _begin(case)
    clean = _observe(case, arrays, "clean", batch.inputs, batch.mask)
    absent: dict[str, Tensor] = {}
    for m in batch.inputs:
        with torch.no_grad():
            rest, mask = without(case.model, batch.inputs, m, batch.mask, fill=case.protocol.missing_fill)
        absent[m] = _observe(case, arrays, f"missing:{m}", rest, mask)
    _contribute(case, arrays, "clean", batch.inputs, clean, absent)

    with case.work.timed("noise"):
        options = case.options(batch, case.seed)
        drawn = noise(
            case.model, batch.inputs, batch.targets, case.threat, trials=case.protocol.noise_trials, **options
        )
    case.work.add("noise", drawn.forwards, drawn.backwards)
    _observe(case, arrays, "noise", drawn.inputs, batch.mask)

    margin = case.task.margin(clean, batch.targets)
    tracks = {c: Track.at(case, threat, margin) for c, threat in case.threats().items()}
    for scale in case.protocol.scales:
        climb(case, tracks, scale)
        if scale == 1:
            _absorb(case, arrays, tracks["joint"], drawn.inputs, drawn.margin)
            _record(case, arrays, tracks, clean, absent, shown)
    return _finish(case, arrays, tracks)


def extend(case: Case, before: Arrays, state: Mapping[str, Tensor], scale: float) -> tuple[Arrays, State]:
    """One further scale for those that survived so far, from where they were left."""
    tracks: dict[str, Track] = {}
    for condition, threat in case.threats().items():
        broken = torch.as_tensor(before[f"broken_at/{condition}"], device=case.batch.targets.device)
        margin = torch.where(broken.isinf(), torch.inf, -torch.inf).double()
        track = Track.at(case, threat, margin)
        track.broken = broken.clone()
        rows = track.alive
        track.margin[rows] = state[f"{condition}/margin"].to(margin)
        for m in threat.names:
            track.point[m][rows] = state[f"{condition}/{m}"].to(track.point[m])
        tracks[condition] = track
    climb(case, tracks, scale)
    return _finish(case, _begin(case), tracks)


def _begin(case: Case) -> Arrays:
    return {
        "ids": np.array(case.batch.ids, dtype=np.str_),
        "groups": np.array(case.batch.groups, dtype=np.str_),
        "targets": case.batch.targets.cpu().numpy(),
    }


def _finish(case: Case, arrays: Arrays, tracks: Mapping[str, Track]) -> tuple[Arrays, State]:
    state: State = {}
    for condition, track in tracks.items():
        broken = track.broken.cpu().numpy().astype(np.float32)
        arrays[f"broken_at/{condition}"] = broken
        state[f"{condition}/margin"] = track.margin[track.alive]
        state |= {f"{condition}/{m}": x[track.alive] for m, x in track.point.items()}
    arrays["outside"] = np.array([track.outside for track in tracks.values()])
    arrays |= case.work.arrays()
    return arrays, state


def _agree(arrays: Arrays, condition: str, track: Track) -> None:
    """A sample fooled at scale 1 is wrong at scale 1: the same point, run in another batch, may round to a hair
    on the other side of 0."""
    margin = arrays[f"margin/{condition}"]
    said = torch.as_tensor(margin, device=track.broken.device)
    track.broken[track.broken.isinf() & (said <= 0)] = 1.0
    margin[track.broken.cpu().numpy() <= 1] = np.minimum(margin[track.broken.cpu().numpy() <= 1], 0.0)


def _attribute(case: Case, arrays: Arrays, condition: str, track: Track) -> None:
    """Who broke each sample up to scale 1 ("": nobody), which modalities it touched, and what the search cost."""
    broken = (track.broken <= 1).cpu().numpy()
    changed = {m: flat(x != case.batch.inputs[m]).any(dim=1).tolist() for m, x in track.point.items()}
    touched = ["+".join(m for m in changed if changed[m][i]) for i in range(len(broken))]
    arrays[f"broken_by/{condition}"] = np.where(broken, np.array(case.hands)[track.by.cpu().numpy()], "")
    arrays[f"broken_with/{condition}"] = np.where(broken, np.array(touched, dtype=np.str_), "")
    arrays[f"forwards/{condition}"] = track.forwards.cpu().numpy()
    arrays[f"backwards/{condition}"] = track.backwards.cpu().numpy()


def _observe(case: Case, arrays: Arrays, condition: str, inputs: Inputs, mask: Mapping[str, Tensor]) -> Tensor:
    """Run the model on what a condition came to, and write down what it says."""
    with case.work.timed(condition), torch.no_grad():
        output = forward(case.model, inputs, mask, need=("weights",))
    case.work.add(condition, len(case.batch))
    logits = output.logits
    arrays[f"prediction/{condition}"] = case.task.predict(logits).cpu().numpy()
    arrays[f"margin/{condition}"] = _float(case.task.margin(logits, case.batch.targets))
    if isinstance(case.task, MultiLabel):
        arrays[f"scores/{condition}"] = _float(rankable(logits, case.batch.targets))
    for m, weight in (output.weights or {}).items():
        arrays[f"weight/{condition}/{m}"] = _float(weight)
    return logits


def _contribute(
    case: Case, arrays: Arrays, condition: str, inputs: Inputs, logits: Tensor, known: Mapping[str, Tensor]
) -> None:
    fill, mask = case.protocol.missing_fill, case.batch.mask
    with case.work.timed(condition):
        found = contribution(case.model, inputs, mask, fill=fill, logits=logits, known=known)
    case.work.add(condition, len(case.batch) * (len(inputs) - len(known)))
    for m, value in found.items():
        arrays[f"contribution/{condition}/{m}"] = _float(value)


def _absorb(case: Case, arrays: Arrays, joint: Track, drawn: Inputs, margin: Tensor) -> None:
    """What random noise fools counts as fooled; how often it did what the search could not is a check."""
    rows = joint.alive
    inside = case.threat.contains({**case.batch.inputs, **drawn}, case.batch.inputs, case.batch.mask)
    margin = torch.where(inside, margin, torch.inf)
    won = margin[rows] <= 0
    arrays["noise_won"] = np.zeros(len(case.batch), dtype=bool)
    arrays["noise_won"][rows[won].cpu().numpy()] = True
    joint.reach(rows, {m: drawn[m][rows] for m in joint.point}, margin[rows], case.hands.index("noise"), 1.0)


def _record(
    case: Case,
    arrays: Arrays,
    tracks: Mapping[str, Track],
    clean: Tensor,
    absent: Mapping[str, Tensor],
    shown: Sequence[int],
) -> None:
    """What the model says at scale 1."""
    batch = case.batch
    worst: dict[str, list[Tensor]] = {name: [] for name in RANKED}
    ranked: dict[str, list[Inputs]] = {name: [] for name in RANKED}
    for condition, threat in case.threats().items():
        inputs = {**batch.inputs, **{m: x.clone() for m, x in tracks[condition].point.items()}}
        logits = _observe(case, arrays, condition, inputs, batch.mask)
        _agree(arrays, condition, tracks[condition])
        _attribute(case, arrays, condition, tracks[condition])
        # Without the one attacked modality all others are clean: that is known already.
        known = {m: absent[m] for m in threat.names if condition != "joint"}
        _contribute(case, arrays, condition, inputs, logits, known)
        if isinstance(case.task, MultiLabel):
            for name, points in ranked.items():
                # Joint comes last and knows what single modalities came to.
                point, loss = rank(case, condition, threat, [inputs, *(points if condition == "joint" else [])], name)
                points.append(point)
                worst[name].append(loss)
                with torch.no_grad():
                    said = forward(case.model, point, batch.mask).logits
                arrays[f"scores/{condition}/{name}"] = _float(rankable(said, batch.targets))
        attend(case, arrays, condition, ranked[RANKED[0]][-1] if ranked[RANKED[0]] else inputs, shown)
        _show(arrays, condition, {m: inputs[m] for m in threat.names}, shown)
    attend(case, arrays, "clean", batch.inputs, shown)
    _show(arrays, "clean", batch.inputs, shown)
    _show(arrays, "mask", batch.mask, shown)
    singles = [c for c in tracks if c != "joint"]
    _any_one(arrays, list(batch.inputs), singles, {name: losses[: len(singles)] for name, losses in worst.items()})


def _any_one(
    arrays: Arrays, modalities: Sequence[str], singles: Sequence[str], losses: Mapping[str, Sequence[Tensor]]
) -> None:
    """By sample, the single-modality attack that leaves the lowest margin; of points that climbed one of `losses`, the
    one that came highest."""
    sources = list(singles) or ["clean"]
    pick = np.argmin([arrays[f"margin/{c}"] for c in sources], axis=0)
    picks = {tail: pick for _, tail in _kinds(arrays, sources[0], modalities)}
    for name, climbed in losses.items():
        if climbed:
            picks[f"/{name}"] = torch.stack(list(climbed)).argmax(dim=0).cpu().numpy()
    row = np.arange(len(pick))
    for what, tail in [*_kinds(arrays, sources[0], modalities), *(("scores", f"/{n}") for n in losses if losses[n])]:
        arrays[f"{what}/any_one{tail}"] = np.stack([arrays[f"{what}/{c}{tail}"] for c in sources])[picks[tail], row]


def settle(arrays: Arrays) -> dict[str, str]:
    """Keep, a condition at a time, those scores of the whole set that leave the lowest GAP (in place): of the points
    that were to fool each sample ("accuracy"), of those that climbed each of `RANKED`, and of the conditions that allow
    the attacker less: who may choose the modality, or take all, may do as before. Returns whose they are."""
    found: dict[str, str] = {}
    weaker: Arrays = {}
    tail = f"/{RANKED[0]}"
    ranked = [k.removeprefix("scores/").removesuffix(tail) for k in arrays if k.endswith(tail)]
    singles = [c for c in ranked if c not in ("any_one", "joint")]
    for condition in [*singles, *(c for c in ("any_one", "joint") if c in ranked)]:
        kept = f"scores/{condition}"
        rivals = {"accuracy": arrays[kept], **{name: arrays.pop(f"{kept}/{name}") for name in RANKED}}
        if condition not in singles:
            rivals |= weaker
        gaps = {name: Ranking.of(scores, arrays["targets"]).gap() for name, scores in rivals.items()}
        found[condition] = best = min(gaps, key=lambda name: gaps[name])
        arrays[kept] = weaker[condition] = rivals[best]
    return found


def _kinds(arrays: Arrays, condition: str, modalities: Sequence[str]) -> list[tuple[str, str]]:
    """What is written down of a condition, as (kind, tail of the key)."""
    plain = [(what, "") for what in ("prediction", "margin", "scores", "broken_by", "broken_with")]
    by_modality = [(what, f"/{m}") for what in ("weight", "contribution") for m in modalities]
    return [(what, tail) for what, tail in plain + by_modality if f"{what}/{condition}{tail}" in arrays]


def _show(arrays: Arrays, what: str, tensors: Mapping[str, Tensor], shown: Sequence[int]) -> None:
    for row in shown:
        for m, x in tensors.items():
            clip = x[row].cpu()
            arrays[f"clip/{row}/{m}/{what}"] = (clip if clip.dtype == torch.bool else clip.float()).numpy()


def _float(x: Tensor) -> np.ndarray:
    return x.detach().to(torch.float32).cpu().numpy()
