"""The passes of an evaluation over its data; every finished batch is a part that need not be done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from functools import reduce
from typing import Any

import numpy as np
import torch

from crossguard.core import Batch, RunError
from crossguard.evaluation import conditions
from crossguard.evaluation.attack import Case
from crossguard.evaluation.checks import Probe, attack_again, attackable, probe_ignored, probes_of
from crossguard.evaluation.opening import Opening
from crossguard.evaluation.store import Arrays, Store
from crossguard.evaluation.stream import Stream
from crossguard.evaluation.work import Work

Progress = Callable[[str, int, int | None], object]

# Without a budget for every modality, or with constraints that do not grow, the curve may never come down; it is
# followed this far.
_PLATEAU = 16.0


class Run:
    """The passes over the data: all conditions, then larger scales while the joint attack needs them, then checks."""

    def __init__(self, opening: Opening, stream: Stream, store: Store, progress: Progress | None) -> None:
        self.case, self.stream, self.store, self.progress = opening.case, stream, store, progress
        self.first = opening.probes
        # By batch, of the modalities that the first batches gave up: whether it looks at them after all.
        self.probed: list[dict[str, Probe]] = []
        self.parts: list[Arrays] = []
        self.outside = 0
        self.batches = stream.batches

    def _on(self, number: int, batch: Batch) -> Case:
        used = {m: p for m, p in self.probed[number].items() if p.used}
        blind = self.case.blind | {m for m, p in used.items() if not p.gradient}
        return replace(self.case, batch=batch, work=Work(), blind=blind, ignored=self.case.ignored - set(used))

    @property
    def ignored(self) -> frozenset[str]:
        """The modalities that no batch looks at."""
        return self.case.ignored - {m for probes in self.probed for m, p in probes.items() if p.used}

    def probes(self) -> dict[str, Probe]:
        """How gradients reach each modality; those that the first batches gave up, in the batches that look at them."""
        again = {m: [p[m] for p in self.probed if m in p and p[m].used] for m in self.case.ignored}
        return self.first | {m: reduce(Probe.merged, found) for m, found in again.items() if found}

    def _done(self, stage: str, number: int) -> None:
        if self.progress is not None:
            self.progress(stage, number + 1, self.batches)

    def _keep(self, part: Arrays) -> None:
        self.parts.append(part)
        self.outside += int(part["outside"].sum()) if "outside" in part else 0

    def base(self) -> list[Arrays]:
        """Every condition on every batch."""
        found: list[Arrays] = []
        shown: set[int] = set()
        clips = 0
        for number, batch in self.stream:
            key = f"base-{number:05d}"
            part = self.store.get(key, batch.ids, self.stream.content[number])
            label = label_of(batch.targets.cpu().numpy())
            self.probed.append(probe_ignored(replace(self.case, batch=batch)) if part is None else probes_of(part))
            if part is None:
                case = self._on(number, batch)
                rows = _choose(label, shown, self.case.protocol.clips - clips)
                part, state = conditions.measure(case, rows)
                part["attackable"] = attackable(case)
                part["clip/rows"] = np.array(rows, dtype=np.int64)
                part |= {f"probe/{m}": np.array(astuple(p)) for m, p in self.probed[number].items()}
                self.store.put(key, part, state, self.stream.content[number])
            clips += len(part["clip/rows"])
            shown |= {int(label[i]) for i in part["clip/rows"]}
            found.append(part)
            self._keep(part)
            self._done("conditions", number)
        self.batches = len(found)
        return found

    def whole(self, arrays: Arrays) -> bool:
        """Whether the joint attack may touch everything that the model looks at, so that it must win in the end."""
        threat, ignored = self.case.threat, self.ignored
        looked = set(threat.names) - ignored
        # Of a modality whose values it ignores a model may still look at the mask, which no attack moves.
        outside = [m for m in self.stream.modalities or {} if m not in threat.names or m in ignored]
        unused = all(np.array_equal(arrays[f"margin/missing:{m}"], arrays["margin/clean"]) for m in outside)
        free = threat.only(*looked).grows and (threat.at_most is None or threat.at_most >= len(looked))
        return unused and bool(looked) and free

    def extend(self, base: list[Arrays]) -> tuple[list[dict[str, Any]], list[float]]:
        """Double the scale until the joint attack leaves at most 1 %, the bounds leave no more room, or the end."""
        broken = [{c: part[f"broken_at/{c}"] for c in self.case.threats()} for part in base]
        scales = list(self.case.protocol.scales)
        limit = self.case.protocol.max_scale
        limit = limit if self.whole(join(base)) else min(limit, max(_PLATEAU, scales[-1]))
        before = "base"
        while self._survive(broken) and scales[-1] * 2 <= limit and not self._full(scales[-1]):
            scale = scales[-1] * 2
            for number, batch in self.stream:
                key = f"scale-{scale:g}-{number:05d}"
                part = self.store.get(key, batch.ids, self.stream.content[number])
                if part is None:
                    case, last = self._on(number, batch), f"{before}-{number:05d}"
                    known = {f"broken_at/{c}": b for c, b in broken[number].items()}
                    part, state = conditions.extend(case, known, self.store.state(last), scale)
                    self.store.put(key, part, state, self.stream.content[number])
                    self.store.forget(last)
                broken[number] = {c: part[f"broken_at/{c}"] for c in broken[number]}
                self._keep(part)
                self._done(f"scale {scale:g}", number)
            scales.append(scale)
            before = f"scale-{scale:g}"
        return broken, scales

    def unbounded(self, arrays: Arrays, broken: list[dict[str, Any]], scale: float) -> bool:
        """Whether the curve ends where no budget holds the attacker back, not where a short one was asked for."""
        ended = scale >= _PLATEAU or self._full(scale) or not self._survive(broken)
        return self.whole(arrays) and ended

    def _survive(self, broken: list[dict[str, Any]]) -> bool:
        left = np.concatenate([b["joint"] for b in broken])
        return bool(np.isinf(left).mean() > 0.01) and bool(self.case.threat.names)

    def _full(self, scale: float) -> bool:
        """Whether the bounds leave no room for a larger budget."""
        inputs, threat = self.case.batch.inputs, self.case.threat
        now, then = threat.scaled(scale).budgets, threat.scaled(2 * scale).budgets
        return all(torch.equal(now[m].radius(inputs[m][:1]), then[m].radius(inputs[m][:1])) for m in threat.names)

    def check(self, base: list[Arrays], broken: list[dict[str, Any]]) -> list[Arrays]:
        """Attack some samples again, spread over all that are right when clean."""
        right = np.flatnonzero(np.concatenate([part["margin/clean"] for part in base]) > 0)
        count = min(self.case.protocol.check_samples, len(right))
        if not count or not self.case.threat.names:
            return []
        chosen = right[np.linspace(0, len(right) - 1, count).round().astype(int)]
        found: list[Arrays] = []
        start = 0
        for number, batch in self.stream:
            rows = (chosen[(chosen >= start) & (chosen < start + len(batch))] - start).tolist()
            start += len(batch)
            if rows:
                key = f"check-{number:05d}"
                part = self.store.get(key, batch.ids, self.stream.content[number])
                if part is None:
                    part = attack_again(self._on(number, batch), rows, broken[number])
                    self.store.put(key, part, {}, self.stream.content[number])
                found.append(part)
                self._keep(part)
            self._done("checks", number)
        return found

    def work(self) -> dict[str, dict[str, Any]]:
        """Costs by condition, over all parts."""
        total = Work()
        for part in self.parts:
            for key in [k for k in part if k.startswith("work/")]:
                forwards, backwards, seconds = (float(v) for v in part[key])
                total.add(key.removeprefix("work/"), int(forwards), int(backwards), seconds)
        return {
            c: {"forwards": int(f), "backwards": int(b), "seconds": round(s, 3)} for c, (f, b, s) in total.costs.items()
        }


def join(parts: list[Arrays]) -> Arrays:
    """Arrays by sample, over all batches; those of single clips stay in their parts."""
    keys = _by_sample(parts[0]) if parts else []
    lacking = [k for k in keys if any(k not in part for part in parts)]
    if lacking:
        raise RunError(f"the batches differ in what was measured ({lacking[0]}): do all hold the same modalities?")
    return {k: np.concatenate([part[k] for part in parts]) for k in keys}


def join_measured(parts: list[Arrays]) -> Arrays:
    """The same, each array over those batches in which it was measured."""
    keys = dict.fromkeys(k for part in parts for k in _by_sample(part))
    return {k: np.concatenate([part[k] for part in parts if k in part]) for k in keys}


def _by_sample(part: Arrays) -> list[str]:
    return [k for k in part if not k.startswith(("clip/", "work/", "probe/", "content"))]


def label_of(targets: Any) -> Any:
    return targets.argmax(axis=1) if targets.ndim == 2 else targets


def _choose(label: Any, shown: set[int], left: int) -> list[int]:
    """Rows for the viewer: the first of each class not shown yet, by the data alone, so that the records of several
    models show the same samples."""
    rows: list[int] = []
    seen = set(shown)
    for i, c in enumerate(label.tolist()):
        if c not in seen and len(rows) < left:
            rows.append(i)
            seen.add(c)
    return rows
