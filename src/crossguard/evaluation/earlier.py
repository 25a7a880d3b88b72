"""What a folder holds of earlier evaluations: this one's is gone on with, another one's is refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossguard.core import RunError, forward
from crossguard.core.files import read_json
from crossguard.evaluation.attack import Case
from crossguard.evaluation.record import Record
from crossguard.evaluation.store import OTHERS, Store, compare
from crossguard.evaluation.stream import Stream


def finished(folder: Path | None, expected: Mapping[str, Any], stream: Stream, case: Case) -> Record | None:
    """The record of a folder, None where there is none yet; raises RunError where it is of another evaluation."""
    if folder is None or not (folder / "record.json").exists():
        return None
    compare(read_json(folder / "record.json").get("fingerprint", {}), expected, folder)
    record = Record.load(folder)
    held = record.meta.get("data")  # records of earlier versions do not say
    deque(stream if held is not None else (), maxlen=0)
    ids = stream.ids if held is None else [name for names in stream.order for name in names]
    whole = held is not None or stream.samples is None
    if whole and ids and sorted(ids) != sorted(record.samples["ids"].tolist()):
        raise RunError(
            f"{folder} holds an evaluation of {len(record)} samples with other ids than these {len(ids)}; choose "
            f"another folder, or remove this one to start afresh"
        )
    now = stream.whole()
    if held is not None and held["order"] == now["order"] and held["content"] != now["content"]:
        raise RunError(f"{folder} holds an evaluation of {OTHERS}")
    check_answers(record.samples, case, folder)
    Store.sweep(folder)  # it may have been stopped while it cleared up
    return record


def check_answers(known: Mapping[str, Any], case: Case, folder: Path) -> None:
    """Raise RunError where the model answers the first batch otherwise than it did: its weights are told by the
    fingerprint, its code is not. A model that answers at random is believed."""
    row = {name: i for i, name in enumerate(known["ids"].tolist())}
    if "margin/clean" not in known or any(name not in row for name in case.batch.ids):
        return
    was = known["margin/clean"][[row[name] for name in case.batch.ids]]
    now, again = (case.task.margin(_answers(case), case.batch.targets).cpu().numpy() for _ in range(2))
    # Other devices and kernels round otherwise.
    room = 0.01 * float(np.abs(was).mean()) + 1e-6
    if np.array_equal(now, again) and not np.allclose(now, was, rtol=0.01, atol=room):
        raise RunError(
            f"{folder} holds an evaluation of a model with these weights that answered otherwise (margins {was[:3]}, "
            f"now {now[:3]}): its code has changed; choose another folder, or remove this one to start afresh"
        )


def _answers(case: Case) -> Tensor:
    with torch.no_grad():
        return forward(case.model, case.batch.inputs, case.batch.mask).logits
