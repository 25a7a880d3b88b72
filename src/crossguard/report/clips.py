"""The attacked clips of all records, those of one sample side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crossguard.core import Modality
from crossguard.evaluation.record import Record
from crossguard.report.pack import Array, arrange, kind, nice, pack, thin


@dataclass
class Reel:
    """What the viewer plays, and what the page must say about how it was made."""

    data: dict[str, Any]
    notes: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        return bool(self.data["clips"])


def _range(x: Array, modality: Modality) -> tuple[float, float]:
    """What is shown from darkest to brightest: colours within their bounds, a map over what it holds."""
    if x.shape[-1] == 3 and modality.bounds is not None:
        return modality.bounds
    # A depth map fills little of its sensor's range, and 0 means that nothing was measured.
    low, high = np.percentile(x[x != 0] if (x != 0).any() else x, [1, 99])
    return float(low), float(high)


def _clean(x: Array, modality: Modality) -> dict[str, Any]:
    if kind(modality) != "video":
        return pack(x, 16, signed=False)
    low, high = _range(x, modality)
    return pack(x, 8, signed=False, low=low, high=high)


def _full(parts: Mapping[str, Array], modality: Modality) -> Array | None:
    """The mask as large as the sample, in the viewer's axes; None where all is real."""
    mask, x = parts.get("mask"), parts["clean"]
    if mask is None or bool(mask.all()):
        return None
    return arrange(np.broadcast_to(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x.shape), modality)


def _absent(parts: Mapping[str, Array], modality: Modality) -> dict[str, Any] | None:
    """What is real, (T, M, V) joints or (T, H, W) pixels of 0 and 1; None where all is, and for series (cut)."""
    full = None if kind(modality) == "series" else _full(parts, modality)
    return None if full is None else pack(thin(full, modality)[0][..., 0], 8, signed=False, low=0, high=255)


def _shown(x: Array, parts: Mapping[str, Array], modality: Modality) -> tuple[Array, int, int]:
    """A sample or a change of it as the page carries it: thinned, and a series without what was added at its end."""
    full = _full(parts, modality) if kind(modality) == "series" else None
    if full is not None and full.any():
        x = x[: int(np.flatnonzero(full.any(axis=1))[-1]) + 1]
    return thin(x, modality)


def _drawn(modality: Modality) -> dict[str, Any]:
    return {
        "name": modality.name,
        "kind": kind(modality),
        "unit": modality.unit,
        "bones": [list(b) for b in modality.bones],
        "camera": None if modality.camera is None else list(modality.camera),
        "rate": modality.rate,
        "gain": 1,
    }


def reel(records: Sequence[Record], names: Sequence[str], limit: int, first: Sequence[int] = (0,)) -> Reel:
    """Clips of all records, those of one sample side by side; stops before the packed bytes pass `limit`.

    `first` are the models that are shown until others are chosen.
    """
    modalities: dict[str, Modality] = {}
    shown: list[_Clip] = []
    widest: dict[str, float] = {}
    notes: list[str] = []
    used = dropped = 0
    for model, entry in _interleave([list(r.meta.get("clips", [])) for r in records]):
        record = records[model]
        own = {n: Modality.from_dict(m) for n, m in record.meta["modalities"].items()}
        stored = _stored(record.clips, entry["index"], own)
        if not stored:
            continue
        digests = {n: _digest(parts["clean"]) for n, parts in stored.items()}
        clip = next((c for c in shown if c.holds(str(entry["id"]), digests)), None)
        changes = _attacked(stored, own, entry, widest)
        clean = _cleaned({n: p for n, p in stored.items() if clip is None or n not in clip.digests}, own, notes)
        size = sum(len(p["z"]) for part in (clean, *changes.values()) for p in part.values())
        if used + size > limit:
            dropped += 1
            continue
        used += size
        modalities |= {n: own[n] for n in own if n in stored and n not in modalities}
        if clip is None:
            group, target = str(entry.get("group", "")), _targets(entry["target"], record.meta["classes"])
            shown.append(clip := _Clip(str(entry["id"]), group, target))
        clip.digests |= digests
        clip.clean |= clean
        clip.models[str(model)] = {"changes": changes, "said": _said(entry, record.meta["classes"])}
    if dropped:
        notes.append(f"{dropped} more clip views are in the records; they are left out to keep this page small.")
    drawn = {n: _drawn(m) for n, m in modalities.items()}
    for n, d in drawn.items():
        d["gain"] = nice(0.5 / widest[n]) if widest.get(n) else 1
    views = [c.to_dict() for c in shown]
    start = [str(i) for i in dict.fromkeys(first)]
    data = {"modalities": list(drawn.values()), "models": list(names), "first": start, "clips": views}
    return Reel({**data, "tally": tally(records) if len(records) > 1 and shown else {}}, notes)


@dataclass
class _Clip:
    """One sample: what it is, untouched, and what each model's attacker made of it."""

    id: str
    group: str
    target: list[str]
    digests: dict[str, str] = field(default_factory=dict[str, str])
    clean: dict[str, Any] = field(default_factory=dict[str, Any])
    models: dict[str, Any] = field(default_factory=dict[str, Any])

    def holds(self, name: str, digests: Mapping[str, str]) -> bool:
        """Whether another record shows the same sample: one id, and the same content where both have a modality."""
        return self.id == name and all(self.digests.get(n, d) == d for n, d in digests.items())

    def to_dict(self) -> dict[str, Any]:
        """For the viewer."""
        return {"id": self.id, "group": self.group, "target": self.target, "clean": self.clean, "models": self.models}


def _interleave(lists: list[list[dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """First every model's first clip, then every model's second: a cut takes clips, not models."""
    longest = max((len(entries) for entries in lists), default=0)
    return [(m, entries[i]) for i in range(longest) for m, entries in enumerate(lists) if i < len(entries)]


def _stored(clips: Mapping[str, Array], index: int, own: Mapping[str, Modality]) -> dict[str, dict[str, Array]]:
    found: dict[str, dict[str, Array]] = {}
    for name in own:
        prefix = f"{index}/{name}/"
        parts = {k[len(prefix) :]: np.asarray(clips[k]) for k in clips if k.startswith(prefix)}
        if "clean" in parts:
            found[name] = parts
    return found


def _digest(x: Array) -> str:
    return hashlib.sha256(f"{x.shape} {x.dtype} ".encode() + np.ascontiguousarray(x).tobytes()).hexdigest()


def _cleaned(
    stored: Mapping[str, Mapping[str, Array]], own: Mapping[str, Modality], notes: list[str]
) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for name, parts in stored.items():
        x, step, frames = _shown(arrange(parts["clean"], own[name]), parts, own[name])
        clean[name] = _clean(x, own[name]) | {"mask": _absent(parts, own[name])}
        steps = [f"one pixel in {step} along each side"] * (step > 1) + [f"one frame in {frames}"] * (frames > 1)
        note = f"Of {name}, {' and '.join(steps)} is shown; the attack saw all."
        if steps and note not in notes:
            notes.append(note)
    return clean


def _attacked(
    stored: Mapping[str, Mapping[str, Array]],
    own: Mapping[str, Modality],
    entry: Mapping[str, Any],
    widest: dict[str, float],
) -> dict[str, dict[str, Any]]:
    """Condition -> modality -> packed change; what an attack left alone is not stored again."""
    changes: dict[str, dict[str, Any]] = {c: {} for c in entry["predictions"] if c.split(":")[0] in ("only", "joint")}
    for name, parts in stored.items():
        modality = own[name]
        clean = arrange(parts["clean"], modality)
        extent = _extent(clean, modality)
        for condition, adversarial in parts.items():
            if condition in ("clean", "mask") or np.array_equal(adversarial, parts["clean"]):
                continue
            change = arrange(adversarial, modality) - clean
            if extent > 0:  # a constant clip has nothing to measure a change by
                widest[name] = max(widest.get(name, 0.0), float(np.abs(change).max(initial=0.0)) / extent)
            bits = 8 if kind(modality) == "video" else 16
            changes.setdefault(condition, {})[name] = pack(_shown(change, parts, modality)[0], bits, signed=True)
    return changes


def _extent(clean: Array, modality: Modality) -> float:
    """What a change is measured by when it is magnified: the range that is shown, or how tall a skeleton is."""
    if kind(modality) == "skeleton":
        # Magnified, a shift is then an eighth of the figure: more would make a tangle of it.
        tall = clean[..., 1][(clean != 0).any(axis=-1)]
        return 0.25 * float(np.ptp(tall)) if tall.size else 0.0
    if kind(modality) == "series":
        return float(np.ptp(clean)) if clean.size else 0.0
    low, high = _range(clean, modality)
    return high - low


def tally(records: Sequence[Record]) -> dict[str, dict[str, dict[str, list[int]]]]:
    """Condition -> model -> "fooled" | "held" -> [samples, of how many], and -> other model -> [samples that fooled
    this one and not the other, of how many that both were tested on]. Fooled means right when untouched, and wrong
    within the budgets of scale 1."""
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    fates: dict[str, dict[int, tuple[Array, Array]]] = {}
    for i, record in enumerate(records):
        for c in record.conditions:
            if c.split(":")[0] in ("only", "joint"):
                broken = record.broken_at(c)
                fates.setdefault(c, {})[i] = (broken > 0) & (broken <= 1), broken > 1
    rows = [{name: row for row, name in enumerate(r.samples["ids"].tolist())} for r in records]
    for c, by in fates.items():
        for a, (fooled, held) in by.items():
            mine = found.setdefault(c, {})[str(a)] = {
                "fooled": [int(fooled.sum()), len(fooled)],
                "held": [int(held.sum()), len(held)],
            }
            for b in by:
                shared = [name for name in rows[a] if name in rows[b]]
                one, other = [rows[a][n] for n in shared], [rows[b][n] for n in shared]
                mine[str(b)] = [int((fooled[one] & by[b][1][other]).sum()), len(shared)]
    return found


def _targets(target: Any, classes: Sequence[str]) -> list[str]:
    return [classes[int(t)] for t in (target if isinstance(target, list) else [target])]


def _said(entry: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    truth = entry["target"] if isinstance(entry["target"], list) else [entry["target"]]
    margins = entry.get("margins") or {}
    said: dict[str, Any] = {}
    for condition, prediction in entry["predictions"].items():
        margin = margins.get(condition)
        right = prediction in truth if margin is None else margin > 0
        said[condition] = {"class": classes[int(prediction)], "right": bool(right)}
    return said
