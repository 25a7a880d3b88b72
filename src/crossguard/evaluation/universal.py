"""Universal perturbations over whole sets: fitted on training data, judged on test data, shown to other models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crossguard.attacks import Perturbation, universal
from crossguard.core import Batch, InputError, Modality, RunError, Task, borrowed, forward
from crossguard.core.estimate import Estimate
from crossguard.core.files import read_json, write_json
from crossguard.core.model import attack_view
from crossguard.core.task import hits, infer_task
from crossguard.evaluation.statistics import share
from crossguard.evaluation.store import model_hash
from crossguard.evaluation.stream import digest
from crossguard.threat import ThreatModel

Progress = Callable[[str, int, int | None], object]


@dataclass(frozen=True)
class Universal:
    """By condition ("only:m", "joint") its perturbation, and what is left of accuracy: on `test` data (the row to
    quote) and `in_sample`, on those that it was fitted on. `clean` is of the test data."""

    perturbations: dict[str, Perturbation]
    clean: Estimate
    test: dict[str, Estimate]
    in_sample: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON."""
        by_condition = {c: {"test": asdict(e), "in_sample": asdict(self.in_sample[c])} for c, e in self.test.items()}
        return {"clean": asdict(self.clean), "conditions": by_condition}


def universal_attacks(
    model: nn.Module,
    train: Iterable[Batch],
    test: Iterable[Batch],
    threat: ThreatModel,
    *,
    task: Task | None = None,
    out: str | Path | None = None,
    modalities: Mapping[str, Modality] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Universal:
    """Fit one perturbation a modality, and one of all together, on `train`, and judge each on `test`.

    `options` are those of `attacks.universal` (epochs, step_size, length, …). With `out`, `out/only-m` and `out/joint`
    hold the perturbations as they are found, and `out/universal.json` the figures: a stopped run goes on where it was.
    Li et al. (ICASSP 2022) fit on the test set and do not project: here that is `in_sample`, and every sample stays in
    its budgets. A model that offers an `attack_view()` is fitted through it, and judged itself. Raises RunError for a
    folder that holds those of another model, other data or other settings.
    """
    said = {n: dict(v) if isinstance(v, Mapping) else v for n, v in options.items()}
    print_ = {"model": model_hash(model), "threat": threat.to_dict(), "seed": seed, "options": said}
    folder = None if out is None else Path(out)
    if folder is not None:
        print_["train"] = _content(train)
        if (folder / "fingerprint.json").exists():
            _compare(read_json(folder / "fingerprint.json"), print_, folder)
        else:
            write_json(folder / "fingerprint.json", print_)
    conditions = {f"only:{m}": threat.only(m) for m in threat.names}
    # Where each sample chooses which of its modalities are touched, nothing joint is the same for all of them.
    if len(threat.names) > 1 and threat.only(*threat.names).at_most is None:
        conditions["joint"] = threat.only(*threat.names)
    found: dict[str, Perturbation] = {}
    for number, (name, budgets) in enumerate(conditions.items()):
        place = None if folder is None else folder / name.replace(":", "-")
        if place is not None and (place / "perturbation.json").exists():
            found[name] = Perturbation.load(place)
        else:
            state = None if place is None else place / "unfinished.safetensors"
            with borrowed(model) as net:
                found[name] = universal(
                    attack_view(net),
                    train,
                    budgets,
                    task=task,
                    modalities=modalities,
                    seed=seed,
                    state=state,
                    **options,
                )
            if place is not None and state is not None:
                found[name].save(place)
                state.unlink(missing_ok=True)
        if progress is not None:
            progress("universal", number + 1, len(conditions))
    tested = judged(model, {"clean": None, **found}, test, task=task)
    result = Universal(found, tested.pop("clean"), tested, judged(model, found, train, task=task))
    if folder is not None:
        write_json(folder / "universal.json", result.to_dict())
    return result


def judged(
    model: nn.Module,
    perturbations: Mapping[str, Perturbation | None],
    loader: Iterable[Batch],
    *,
    task: Task | None = None,
) -> dict[str, Estimate]:
    """The share of samples still right with each perturbation added to every sample, None being none."""
    parameter = next(model.parameters(), None)
    right: dict[str, list[Any]] = {name: [] for name in perturbations}
    groups: list[str] = []
    with borrowed(model) as net, torch.no_grad():
        for batch in loader:
            batch = batch if parameter is None else batch.to(parameter.device)
            groups += batch.groups or batch.ids or ()
            for name, perturbation in perturbations.items():
                inputs = batch.inputs if perturbation is None else perturbation.apply(batch.inputs, batch.mask)
                logits = forward(net, inputs, batch.mask).logits
                margin = (task or infer_task(batch.targets, logits)).margin(logits, batch.targets)
                right[name].append(hits(margin, batch.targets).cpu().numpy())
    if not next(iter(right.values())):
        raise InputError("the loader yields no samples; check the data set and its split")
    return {name: share(np.concatenate(flags), groups or None) for name, flags in right.items()}


def transfer_matrix(
    models: Mapping[str, nn.Module],
    perturbations: Mapping[str, Perturbation],
    loader: Iterable[Batch],
    *,
    task: Task | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Model -> perturbation -> the share of samples still right: what is found on one fusion, shown to the others.

    A perturbation of modalities that a model does not read leaves it as it was.
    """
    return {name: judged(model, perturbations, loader, task=task) for name, model in models.items()}


def _content(loader: Iterable[Batch]) -> str:
    """Hash of all batches of the first epoch."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)  # pyright: ignore[reportAttributeAccessIssue]
    return hashlib.blake2b("".join(digest(batch) for batch in loader).encode(), digest_size=16).hexdigest()


def _compare(old: Any, new: Mapping[str, Any], folder: Path) -> None:
    changed = [key for key, value in new.items() if not isinstance(old, dict) or old.get(key) != value]
    if changed:
        raise RunError(
            f"{folder} holds universal perturbations of another run ({', '.join(changed)} differ); choose another "
            f"folder, or remove this one"
        )
