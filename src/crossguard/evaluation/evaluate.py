"""Measure a model under a threat model: every condition, the curve over scales, the checks, one Record."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crossguard.core import (
    Batch,
    InputError,
    Modality,
    MultiLabel,
    Task,
    borrowed,
    forward,
    takes_mask,
)
from crossguard.core.files import locked
from crossguard.core.ranking import WORST
from crossguard.diagnostics import Failure
from crossguard.evaluation import conditions, earlier
from crossguard.evaluation.attack import Case
from crossguard.evaluation.checks import Evidence, suspect, verdicts
from crossguard.evaluation.opening import look
from crossguard.evaluation.passes import Progress, Run, join, join_measured, label_of
from crossguard.evaluation.protocol import Protocol
from crossguard.evaluation.record import FORMAT, Record
from crossguard.evaluation.store import Arrays, Store, model_hash
from crossguard.evaluation.stream import Stream, digest
from crossguard.models.cut import Tail
from crossguard.threat import ThreatModel

# Forwards whose fastest is a model's latency.
_TIMED = 10
# Kept in the parts alone: what the checks need, and what goes elsewhere in the record.
_INTERNAL = ("work/", "clip/", "noise_won", "attackable", "outside")


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    threat: ThreatModel,
    task: Task | None = None,
    protocol: Protocol | str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    modalities: Mapping[str, Modality] | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Record:
    """Attack `model` on each modality alone, any one and all together, by a fixed protocol.

    A model that offers an `attack_view()` is attacked through it; what counts is what the model itself says. The
    loader yields Batches and may be any iterable. With `out`, finished batches are kept there, a stopped
    evaluation goes on where it was to the same bits, and a finished one is read back; without, all stays in memory.
    `progress(stage, batches done, batches in all or None)` is called after every batch. The model comes back as it
    was. `protocol`: a Protocol, or the name of one. Raises InputError, ThreatError or ModelError for what cannot be
    meant, RunError for a folder that holds another evaluation.
    """
    protocol = Protocol.named(protocol) if isinstance(protocol, str) else protocol or Protocol()
    where = _device(model, device)
    stream = Stream(loader, threat, modalities=modalities, samples=protocol.samples, device=where)
    with borrowed(model, seed, where) as net, ExitStack() as held:
        opening = look(net, stream, threat, task, protocol, seed)
        names = _classes(classes, loader, opening.case.task.classes)
        print_ = _fingerprint(net, opening.case)
        folder = None if out is None else Path(out)
        finished = earlier.finished(folder, print_, stream, opening.case)
        if finished is not None:
            return finished
        if folder is not None:
            held.enter_context(locked(folder))
            # Another process may have held the folder until now.
            finished = earlier.finished(folder, print_, stream, opening.case)
            if finished is not None:
                return finished
        store = Store(folder, print_)
        begun = store.get("base-00000", opening.case.batch.ids, stream.content[0])
        if folder is not None and begun is not None:
            earlier.check_answers(begun, opening.case, folder)
        found = store.remember("failures", lambda: [asdict(f) for f in suspect(opening.case)])
        opening = replace(opening, case=replace(opening.case, failures=tuple(Failure(**f) for f in found)))
        run = Run(opening, stream, store, progress)
        base = run.base()
        broken, scales = run.extend(base)
        again = run.check(base, broken)
        latency = _latency(net, opening.case)
        arrays = join(base)
        ranked_by = conditions.settle(arrays)
        arrays |= {f"broken_at/{c}": np.concatenate([b[c] for b in broken]) for c in opening.case.threats()}
        evidence = Evidence(
            probes=run.probes(),
            again=join_measured(again),
            samples=arrays,
            noise_won=arrays["noise_won"],
            attackable=arrays["attackable"],
            outside=run.outside,
            scale=scales[-1],
            unbounded=run.unbounded(arrays, broken, scales[-1]),
            failures=opening.case.failures,
        )
        flags, checks = verdicts(evidence, threat)
        samples = {k: v for k, v in arrays.items() if not k.startswith(_INTERNAL)}
        clips, listed = _clips(base, samples, conditions.names((), threat.names))
        meta = {
            "format": FORMAT,
            "name": name or (folder.name if folder else type(net).__name__),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "complete": True,
            "fingerprint": print_,
            "data": stream.whole(),
            "task": _task_dict(opening.case.task),
            "classes": names,
            "modalities": {m: x.to_dict() for m, x in (stream.modalities or {}).items()},
            "threat": threat.to_dict(),
            "protocol": protocol.to_dict(),
            "stages": [stage.to_dict() for stage in protocol.stages],
            "model": _describe(opening.case),
            "recipe": None if recipe is None else dict(recipe),
            "training": None if training is None else dict(training),
            "scales": scales,
            "conditions": conditions.names(list(stream.modalities or {}), threat.names),
            "work": run.work(),
            "latency": latency,
            "environment": _environment(where),
            "flags": [flag.to_dict() for flag in flags],
            "checks": checks,
            "clips": listed,
        } | ({"ranked_by": ranked_by} if ranked_by else {})
        record = Record(meta, samples, clips)
        if folder is not None:
            record.save(folder)
            Store.sweep(folder)
            return Record.load(folder)
        return record


def _clips(base: list[Arrays], samples: Arrays, known: list[str]) -> tuple[Arrays, list[dict[str, Any]]]:
    """The clips' arrays, and what was said of each."""
    arrays: Arrays = {}
    listed: list[dict[str, Any]] = []
    start = 0
    for part in base:
        for row in part["clip/rows"].tolist():
            index, at = len(listed), start + row
            prefix = f"clip/{row}/"
            arrays |= {f"{index}/{k.removeprefix(prefix)}": v for k, v in part.items() if k.startswith(prefix)}
            listed.append(
                {
                    "index": index,
                    "id": str(samples["ids"][at]),
                    "group": str(samples["groups"][at]),
                    "target": int(label_of(samples["targets"][at : at + 1])[0]),
                    "predictions": {c: int(samples[f"prediction/{c}"][at]) for c in known},
                    "margins": {c: max(-WORST, float(samples[f"margin/{c}"][at])) for c in known},
                }
            )
        start += len(part["ids"])
    return arrays, listed


def _device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Where batches go: where the model is, or `device` if the model has no parameters to say so."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return torch.device(device or "cpu")
    if device is not None and torch.device(device).type != parameter.device.type:
        raise InputError(f"device is {device}, but the model is on {parameter.device}; move the model first")
    return parameter.device


def _classes(given: Sequence[str] | None, loader: Iterable[Batch], count: int) -> list[str]:
    found = given if given is not None else getattr(getattr(loader, "dataset", None), "classes", None)
    names = [str(i) for i in range(count)] if found is None else [str(c) for c in found]
    if len(names) != count:
        raise InputError(f"found {len(names)} class names for {count} classes, expected one each")
    return names


def _task_dict(task: Task) -> dict[str, Any]:
    return {"kind": "multi_label" if isinstance(task, MultiLabel) else "single_label", "classes": task.classes}


def _fingerprint(net: nn.Module, case: Case) -> dict[str, Any]:
    """All that decides the figures; of the samples what the first one holds (each part holds its ids)."""
    return {
        "model": model_hash(net),
        "threat": case.threat.to_dict(),
        "protocol": case.protocol.to_dict(),
        "stages": [stage.to_dict() for stage in case.protocol.stages],
        "task": _task_dict(case.task),
        "seed": case.seed,
        "data": digest(case.batch.take([0])),
        "view": None if case.view is None else type(case.view).__name__,
        "level": _level(net) or None,
    }


def _describe(case: Case) -> dict[str, Any]:
    """What was attacked: through which view (None: the model itself), behind which submodule of each cut modality."""
    net, masked = case.model, takes_mask(case.model)
    return {
        "description": type(net).__name__,
        "parameters": sum(p.numel() for p in net.parameters()),
        "takes_mask": masked,
        "missing_fill": "mask" if masked else case.protocol.missing_fill,
        "attack_view": None if case.view is None else type(case.view).__name__,
        "level": _level(net),
    }


def _level(net: nn.Module) -> dict[str, str]:
    """Modality -> the submodule behind which its features are the inputs; empty for a model that is not cut."""
    inner: Any = net
    while isinstance(inner, nn.Module) and not isinstance(inner, Tail):
        inner = getattr(inner, "viewed", None)
    return dict(inner.level) if isinstance(inner, Tail) else {}


def _latency(net: nn.Module, case: Case) -> dict[str, Any]:
    """The fastest forward of the first batch, of ten or of those that a second has room for, after one that warms up:
    what other programs take from a pass only makes it slower."""
    times: list[float] = []
    with torch.no_grad():
        while len(times) < 2 or (len(times) <= _TIMED and sum(times) < 1):
            begun = time.perf_counter()
            forward(net, case.batch.inputs, case.batch.mask).logits.sum().item()
            times.append(time.perf_counter() - begun)
    n = len(case.batch)
    return {"milliseconds_per_sample": 1000 * min(times[1:]) / n, "batch": n}


def _environment(device: torch.device) -> dict[str, Any]:
    from crossguard import __version__

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "crossguard": __version__,
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }


__all__ = ["Progress", "evaluate"]
