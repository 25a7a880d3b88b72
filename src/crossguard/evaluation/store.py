"""Finished batches: on disk, so that an evaluation can go on where it was stopped, or in memory."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossguard.core import RunError
from crossguard.core.files import read_json, read_npz, read_safetensors, write_json, write_npz, write_safetensors

Arrays = dict[str, NDArray[Any]]
OTHERS = (
    "samples of the same ids, but of other inputs, masks, targets or groups; choose another folder, or remove this one "
    "to start afresh"
)


class Store:
    """Parts by key; with a folder each is a file that is there whole or not at all."""

    def __init__(self, folder: Path | None, fingerprint: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else folder / "parts"
        self._parts: dict[str, Arrays] = {}
        self._states: dict[str, dict[str, Tensor]] = {}
        if self.folder is None:
            return
        known = self.folder / "fingerprint.json"
        if known.exists():
            compare(read_json(known), fingerprint, self.folder.parent)
        else:
            write_json(known, dict(fingerprint))

    def get(self, key: str, ids: tuple[str, ...], content: str) -> Arrays | None:
        """The part, None where it is not finished; raises RunError where it belongs to other samples, or to samples of
        other `content` (a hash)."""
        found = self._parts.get(key)
        if found is None and self.folder is not None and (self.folder / f"{key}.npz").exists():
            found = read_npz(self.folder / f"{key}.npz")
        if found is not None and found["ids"].tolist() != list(ids):
            raise RunError(
                f"{self.folder}/{key}.npz was made from other samples (first {found['ids'][:1].tolist()}, now "
                f"{list(ids[:1])}): keep data, order and batch size to resume, or choose another folder"
            )
        if found is not None and str(found.get("content", content)) != content:  # earlier versions did not say
            raise RunError(f"{self.folder}/{key}.npz was made from {OTHERS}")
        return found

    def put(self, key: str, part: Arrays, state: Mapping[str, Tensor], content: str) -> None:
        """Keep a finished part, and the points from which larger scales go on."""
        part["content"] = np.array(content)
        if self.folder is None:
            self._parts[key], self._states[key] = part, dict(state)
            return
        # The part comes last: where it is, its state is too.
        write_safetensors(self.folder / f"{key}.safetensors", state)
        write_npz(self.folder / f"{key}.npz", part)

    def remember(self, key: str, find: Callable[[], Any]) -> Any:
        """JSON that is found once, however often the evaluation is stopped."""
        path = None if self.folder is None else self.folder / f"{key}.json"
        if path is None:
            return find()
        if not path.exists():
            write_json(path, find())
        return read_json(path)

    def state(self, key: str) -> dict[str, Tensor]:
        """The points that were kept with a part."""
        if self.folder is None:
            return self._states[key]
        return read_safetensors(self.folder / f"{key}.safetensors")

    def forget(self, key: str) -> None:
        """Drop a state that nobody will go on from; it only takes room."""
        if self.folder is None:
            self._states.pop(key, None)
        else:
            (self.folder / f"{key}.safetensors").unlink(missing_ok=True)

    @staticmethod
    def sweep(folder: Path) -> None:
        """Remove all parts of a run folder, once its record is written."""
        shutil.rmtree(folder / "parts", ignore_errors=True)


def compare(found: Mapping[str, Any], expected: Mapping[str, Any], folder: Path) -> None:
    """Raise RunError naming what differs between the evaluation in a folder and this one."""
    differs = [name for name in expected if found.get(name) != expected[name]]
    if differs:
        name = differs[0]
        was, now = str(found.get(name))[:200], str(expected[name])[:200]
        raise RunError(
            f"{folder} holds an evaluation with another {', '.join(differs)} ({name}: was {was}, now {now}); "
            f"choose another folder, or remove this one to start afresh"
        )


def model_hash(model: nn.Module) -> str:
    """Hash of a model's class, parameters and buffers."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
