"""Where a run stands, on disk: tensors in one safetensors file, all else in the JSON that points to it.

`latest.json` is replaced in one atomic rename after its tensors are on disk, so whatever happens in between, it names
a pair that belongs together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from crossguard.core.errors import RunError
from crossguard.core.files import read_json, read_safetensors, write_json, write_safetensors
from crossguard.training.tree import join, split

FORMAT = 1
_MISSING = "nothing"


def save_checkpoint(folder: Path, step: int, same: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state` (a nest of numbers, strings and tensors) as the latest; `same` is what a resumed run must share.

    Raises RunError where it cannot be written; the checkpoint before it is then still the latest.
    """
    name = f"state-{step:09d}.safetensors"
    rest = _write_tensors(folder / name, state)
    try:
        write_json(folder / "latest.json", {"format": FORMAT, "tensors": name, "same": dict(same), "state": rest})
    except RunError:
        if _latest_name(folder) != name:
            (folder / name).unlink(missing_ok=True)
        raise
    for old in folder.iterdir():  # also what a killed process left half-written
        if old.name not in (name, "latest.json") and not old.name.startswith(f"share-{step:09d}-"):
            old.unlink(missing_ok=True)


def save_share(folder: Path, step: int, rank: int, state: Mapping[str, Any]) -> None:
    """Write what is `rank`'s own; before the checkpoint of this step, which makes it count."""
    name = f"share-{step:09d}-{rank}"
    write_json(folder / f"{name}.json", _write_tensors(folder / f"{name}.safetensors", state))


def load_share(folder: Path, step: int, rank: int) -> dict[str, Any]:
    """What was this rank's own; raises RunError where it is damaged or not there."""
    name = f"share-{step:09d}-{rank}"
    return join(read_json(folder / f"{name}.json"), read_safetensors(folder / f"{name}.safetensors"))


def load_checkpoint(folder: Path, same: Mapping[str, Any]) -> dict[str, Any] | None:
    """The latest state, None where there is none yet.

    Raises RunError where it is damaged, or was written by a run that differs in `same`; says in what.
    """
    pointer = folder / "latest.json"
    if not pointer.exists():
        return None
    found = read_json(pointer)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RunError(f"{pointer} is not a checkpoint of this version (format {FORMAT}); train into another folder")
    changes = differences(found["same"], same)
    if changes:
        shown = "; ".join(changes[:8]) + ("; …" if len(changes) > 8 else "")
        raise RunError(
            f"{folder} holds a run with other settings: {shown}. Train into another folder, or say resume=False to "
            f"begin anew here"
        )
    return join(found["state"], read_safetensors(folder / found["tensors"]))


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Where two nests of JSON differ, in words: "config.epochs was 10, is 20"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new}, key=str)
            for line in differences(old.get(key, _MISSING), new.get(key, _MISSING), f"{at}.{key}" if at else str(key))
        ]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        same = len(old) == len(new) and not any(differences(a, b) for a, b in zip(old, new, strict=True))
    else:
        same = old == new or (isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new))
    return [] if same else [f"{at or 'it'} was {old}, is {new}"]


def _write_tensors(path: Path, state: Mapping[str, Any]) -> Any:
    """Write the tensors of a state; returns the rest, which says where each belongs."""
    tensors: dict[str, Tensor] = {}
    rest = split(dict(state), "state", tensors)
    write_safetensors(path, tensors)
    return rest


def _latest_name(folder: Path) -> str | None:
    try:
        return read_json(folder / "latest.json")["tensors"]
    except RunError:
        return None
