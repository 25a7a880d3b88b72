"""Where a search over a whole set stands, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crossguard.attacks.perturbation import Perturbation
from crossguard.core.batch import Inputs
from crossguard.core.errors import RunError
from crossguard.core.files import read_safetensors, write_safetensors
from crossguard.core.random import text_key

# No modality is called so.
_PROGRESS = ":progress"


class Unfinished:
    """A search's file: the perturbation so far, how many batches made it, and a key of what was asked for."""

    def __init__(self, path: str | Path | None, asked: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.key = text_key(json.dumps(asked, sort_keys=True))
        self.found: Inputs = {}
        self.turn = 0
        if self.path is not None and self.path.exists():
            found = read_safetensors(self.path)
            progress = found.pop(_PROGRESS, torch.zeros(2, dtype=torch.int64)).tolist()
            if progress[1] != self.key:
                raise RunError(f"{self.path} is the state of another search; remove it, or name another file")
            self.found, self.turn = found, progress[0]

    def resumed(self, nothing: Perturbation) -> Perturbation:
        """What was found so far; raises RunError where it is of samples of another shape."""
        if not self.found:
            return nothing
        shapes = [{n: tuple(v.shape) for n, v in values.items()} for values in (self.found, nothing.values)]
        if shapes[0] != shapes[1]:
            raise RunError(f"{self.path} holds shapes {shapes[0]}, the samples are {shapes[1]}; name another file")
        return replace(nothing, values={n: self.found[n].to(v) for n, v in nothing.values.items()})

    def save(self, found: Perturbation, turn: int) -> None:
        """Write it whole or not at all."""
        if self.path is not None:
            write_safetensors(self.path, {**found.values, _PROGRESS: torch.tensor([turn, self.key])})
