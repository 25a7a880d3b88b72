"""Anyone's model, data and threat model, named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from crossguard.core.batch import Batch
from crossguard.core.errors import InputError, ModelError, RecipeError, RunError
from crossguard.core.files import read_safetensors
from crossguard.data import Loader
from crossguard.evaluation import Record, evaluate
from crossguard.evaluation.protocol import Protocol
from crossguard.recipe.loading import read
from crossguard.recipe.threat import read_threat
from crossguard.recipe.validation import Problems
from crossguard.threat import ThreatModel


def named(text: str, what: str) -> Any:
    """The object that "pkg.mod:name" says, modules in the working folder included; raises RecipeError."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise RecipeError(f"{what} {text}: expected pkg.mod:name, for example mine:build")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module does while it is imported
        raise RecipeError(f"{what} {text}: {_said(error)}") from error
    return found


def called(text: str, what: str) -> Any:
    """What the function that "pkg.mod:name" says returns without arguments; raises RecipeError."""
    function = named(text, what)
    if not callable(function):
        raise RecipeError(f"{what} {text} is a {type(function).__name__}, expected a function without arguments")
    try:
        return function()
    except Exception as error:
        raise RecipeError(f"{what} {text} failed: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def load_threat(path: Path) -> ThreatModel:
    """A threat model in YAML; raises RecipeError that lists every problem."""
    problems = Problems()
    threat = read_threat(read(path), "threat", problems)
    problems.stop(str(path))
    assert threat is not None, "a problem was noted otherwise"
    return threat


def evaluate_foreign(
    model: str,
    data: str,
    threat: Path,
    *,
    weights: Path | None,
    protocol: str,
    name: str,
    seed: int,
    out: Path,
    device: str | None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Record:
    """Evaluate what `model()` returns on what `data()` yields (Batches, or a Dataset).

    Raises RecipeError for names that do not lead to such things, InputError for weights that cannot be read, ModelError
    for those that do not fit.
    """
    budgets = load_threat(threat)
    chosen = Protocol.named(protocol)
    net: nn.Module = called(model, "--model")
    if not isinstance(net, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(f"--model {model} returned {type(net).__name__}, expected a torch.nn.Module")
    if weights is not None:
        try:
            tensors = read_safetensors(weights)
        except RunError as error:
            raise InputError(f"--weights: {error}; expected a file of safetensors.torch.save_file") from error
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(f"--weights {weights} do not fit --model {model}: {error}") from error
    given: Any = called(data, "--data")
    if not (hasattr(given, "read") or hasattr(given, "__iter__")):
        raise InputError(f"--data {data} returned {type(given).__name__}, expected an iterable of cg.Batch")
    # An iterator would be used up by the first look at it.
    loader: Iterable[Batch] = (
        Loader(given, 64) if hasattr(given, "read") else given if iter(given) is not given else list(given)
    )
    first = next(iter(loader), None)
    if not isinstance(first, Batch):
        raise InputError(f"--data {data} yields {type(first).__name__}, expected cg.Batch")
    net = net.eval() if device is None else net.eval().to(device)
    return evaluate(net, loader, budgets, protocol=chosen, seed=seed, out=out, name=name, progress=progress)
