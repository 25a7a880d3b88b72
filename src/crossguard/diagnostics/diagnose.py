"""All diagnostics of latent space and of modalities for one model, as one table of plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.attacks import pgd
from crossguard.attacks.viewed import viewed
from crossguard.core import Batch, InputError, ModelError, Task, borrowed
from crossguard.core.estimate import Estimate, wilson
from crossguard.data.base import Dataset, Loader
from crossguard.diagnostics.classes import bootstrapped, group_codes, members, shuffled, times_drawn
from crossguard.diagnostics.convexity import convexity
from crossguard.diagnostics.density import density
from crossguard.diagnostics.latents import Latents, latents, rest
from crossguard.diagnostics.predictors import predictors
from crossguard.diagnostics.projection import Method, attack_paths, project
from crossguard.diagnostics.reliance import shapley
from crossguard.threat import ThreatModel

FORMAT = 1
# What is drawn: more points hide each other, more paths as well.
_POINTS, _PATHS = 600, 12
# Of so many samples a class convexity asks what branches hand over: maps of more would not fit into memory.
_ENDS = 200
Said = Callable[[str, int, int | None], object]


def diagnose(
    model: nn.Module,
    dataset: Dataset,
    threat: ThreatModel,
    *,
    task: Task,
    most: int = 1000,
    samples: int = 400,
    steps: int = 50,
    batch_size: int = 64,
    projection: Method | None = "pca",
    at: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Said | None = None,
) -> dict[str, Any]:
    """Density and contrast by branch and class, convexity, Shapley shares clean and attacked, predictors of robustness
    and a projection, as JSON.

    One pass over all of `dataset` keeps `most` samples a class; what needs attacks (`steps` steps) is measured on at
    most `samples` of them, drawn by the seed. Use data that the model was not trained on. Attacks go through the
    `attack_view()` that a model offers, and what counts is what the model itself says. What a model cannot be asked is
    left out, with a note that says why; of a model that returns no latents (an adapted one), `at={"fused": "path"}`
    names the submodule that answers them, as in `latents`. The model comes back as it was. Raises ModelError for
    submodules that cannot be such, InputError for what is no data set.
    """
    if not hasattr(dataset, "read"):
        raise InputError(
            f"diagnose: found {type(dataset).__name__}, expected a data set, which is read by index, such as "
            f"Splits.test or the dataset of a Loader"
        )
    device = next(model.parameters(), torch.zeros(())).device
    tell = progress or (lambda stage, done, total: None)
    notes: dict[str, str] = {}
    try:
        found = latents(model, Loader(dataset, batch_size), most=most, at=at, seed=seed)
    except ModelError as error:
        if at:
            raise
        found, notes["latents"] = None, str(error)
    tell("latents", 1, 1)
    some = sorted(shuffled(len(dataset), seed).tolist()[:samples])
    batches = [dataset.read(some[i : i + batch_size]).to(device) for i in range(0, len(some), batch_size)]
    clean, attacked, ways = _shares(model, batches, threat, task, steps, seed, tell)
    rows = predictors(
        model,
        batches,
        threat,
        task=task,
        steps=steps,
        at=at,
        seed=seed,
        progress=lambda n: tell("predictors", n, len(batches)),
    )
    ends = _ends(model, dataset, found, batch_size, at, notes)
    answer = {
        "format": FORMAT,
        "classes": list(dataset.classes),
        "seen": None if found is None else found.seen.tolist(),
        "samples": len(some),
        "density": _by_branch(found, "log", task, seed),
        "contrast": _by_branch(found, "contrast", task, seed),
        "convexity": _convexities(model, ends, task, seed, device, batch_size),
        "shapley": {"clean": clean, "joint": attacked},
        "predictors": [row.to_dict() for row in rows],
        "projection": _projection(found, ways, projection, at, seed, notes),
        "notes": notes,
    }
    return plain(answer)


def plain(value: Any) -> Any:
    """Nests of JSON without NaN or Inf, which become None; Estimates as mappings."""
    if isinstance(value, Estimate):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ends(
    model: nn.Module,
    dataset: Dataset,
    found: Latents | None,
    batch_size: int,
    at: Mapping[str, str] | None,
    notes: dict[str, str],
) -> Latents | None:
    """What branches hand over of some samples of each class; None for a model without latents, and, with a note, for
    one without branches."""
    if found is None:
        return None
    belongs = members(found.targets, len(found), len(found.seen))
    chosen = (belongs & (belongs.cumsum(dim=0) <= _ENDS)).any(dim=1).nonzero().squeeze(1).tolist()
    place = {name: i for i, name in enumerate(dataset.ids)}
    rows = [place[found.ids[i]] for i in chosen]
    batches = (dataset.read(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size))
    try:
        return latents(model, batches, most=len(rows), features=True, at=at)
    except ModelError as error:
        notes["convexity"] = str(error)
        return None


def _by_branch(found: Latents | None, kind: Any, task: Task, seed: int) -> dict[str, list[Estimate]]:
    answer: dict[str, list[Estimate]] = {}
    if found is None:
        return answer
    for name, values in found.values.items():
        here = found.present[name].nonzero().squeeze(1)
        groups = [found.groups[i] for i in here.tolist()]
        targets = found.targets[here]
        answer[name] = density(values[here], targets, groups=groups, kind=kind, classes=task.classes, seed=seed)
    return answer


def _convexities(
    model: nn.Module, found: Latents | None, task: Task, seed: int, device: torch.device, batch_size: int
) -> dict[str, list[Estimate]]:
    if found is None:
        return {}
    # Only who has all modalities: half of nothing is not a way between two samples.
    whole = torch.stack([found.present[n] for n in found.features]).all(dim=0).nonzero().squeeze(1)
    features = {n: f.take(whole).to(device) for n, f in found.features.items()}
    options: dict[str, Any] = {"classes": task.classes, "batch_size": batch_size, "seed": seed}
    options["groups"] = [found.groups[i] for i in whole.tolist()]
    targets = found.targets[whole]
    ways: dict[str, dict[str, Any]] = {"all": {}, "ends right": {"ends": "right"}}
    if len(features) > 1:
        ways |= {f"only:{n}": {"moved": (n,)} for n in features}
    with borrowed(model) as net:
        return {n: convexity(rest(net), features, targets, **options, **way) for n, way in ways.items()}


def _shares(
    model: nn.Module, batches: Sequence[Batch], threat: ThreatModel, task: Task, steps: int, seed: int, tell: Said
) -> tuple[dict[str, Estimate], dict[str, Estimate], dict[str, Any]]:
    """Shapley shares of what is right, clean and attacked on all modalities, and some ways of the attack."""
    kept: list[dict[str, Tensor]] = []
    after: list[dict[str, Tensor]] = []
    groups: list[str] = []
    ways: dict[str, Any] = {}
    for number, batch in enumerate(batches):
        result = viewed(pgd, model, batch, threat, task=task, steps=steps, step_size=2.5 / steps, seed=seed)
        for inputs, into in ((batch.inputs, kept), (result.inputs, after)):
            into.append(shapley(model, inputs, batch.targets, batch.mask, task=task))
        groups += batch.groups
        if not number:
            fooled = (result.success & (result.steps > 0)).nonzero().squeeze(1)[:_PATHS].tolist()
            ways = {"batch": batch.take(fooled), "found": {n: result.inputs[n][fooled] for n in threat.names}}
            ways["model"] = model
        tell("attacks", number + 1, len(batches))
    return _means(kept, groups, seed), _means(after, groups, seed), ways


def _means(parts: Sequence[Mapping[str, Tensor]], groups: Sequence[str], seed: int) -> dict[str, Estimate]:
    values = {n: torch.cat([part[n] for part in parts]).double().cpu() for n in parts[0]}
    n = len(next(iter(values.values())))
    times = times_drawn(group_codes(groups, n, torch.device("cpu")), seed)
    return {m: _share(v, times) for m, v in values.items()}


def _share(values: Tensor, times: Tensor) -> Estimate:
    """The mean of (N,) values in [-1, 1], (draws, N) times by draw. Where nothing varies over the draws, the interval
    is what N samples without a single exception leave open."""
    n = len(values)
    found = bootstrapped(float(values.mean()), (times @ values) / times.sum(dim=1), n)
    if found.high - found.low > 1e-9:
        return found
    slack = wilson(0, n)[1]
    return replace(found, low=max(found.value - slack, -1.0), high=min(found.value + slack, 1.0))


def _projection(
    found: Latents | None,
    ways: Mapping[str, Any],
    method: Method | None,
    at: Mapping[str, str] | None,
    seed: int,
    notes: dict[str, str],
) -> dict[str, Any]:
    if method is None or found is None:
        return {}
    if "fused" not in found.values:
        notes["projection"] = f"no latent is named 'fused'; there are {sorted(found.values)}"
        return {}
    keep = shuffled(len(found), seed)[:_POINTS]
    try:
        paths = attack_paths(ways["model"], ways["batch"], ways["found"], at=at) if len(ways["batch"]) else None
        drawn = project(found.values["fused"][keep], paths, method=method, seed=seed)
    except (ModelError, ValueError) as error:
        notes["projection"] = str(error)
        return {}
    label = found.targets.argmax(dim=1) if found.targets.dim() == 2 else found.targets
    ends = ways["batch"].targets
    return {
        "method": drawn.method,
        "explained": drawn.explained,
        "points": _rounded(drawn.points),
        "labels": label[keep].tolist(),
        "paths": _rounded(drawn.paths),
        "path_labels": (ends.argmax(dim=1) if ends.dim() == 2 else ends).tolist(),
    }


def _rounded(x: Tensor) -> list[Any]:
    return torch.round(x, decimals=4).tolist()
