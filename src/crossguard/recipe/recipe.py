"""The recipe: one YAML file that says all of a training and its evaluation, checked whole before anything runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from crossguard.core.files import write_atomic
from crossguard.core.task import SingleLabel
from crossguard.data import SETS
from crossguard.defences import OBJECTIVES, Context, Objective
from crossguard.evaluation.protocol import PROTOCOLS, Protocol
from crossguard.models import ENCODERS, FusionModel
from crossguard.models.fusion import FUSIONS
from crossguard.recipe.loading import dump, override, read_recipe
from crossguard.recipe.threat import read_threat, write_threat
from crossguard.recipe.validation import Component, Problems, component, construct, mapping, only, options
from crossguard.threat import Linf, ThreatModel
from crossguard.training import TrainConfig
from crossguard.training.checks import readable

SECTIONS = ("name", "seed", "data", "model", "objective", "threat", "train", "evaluate")
FILE = "recipe.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


# Leaf settings, said as signatures so that they are checked like those of any component.
def heading(name: str, seed: Annotated[int, Field(ge=0, lt=2**63)] = 0) -> None:
    """The options at the top of a recipe."""


def architecture(
    auxiliary: bool = True,
    inference: Literal["fused", "vote", "committee"] = "fused",
    doubt: float = 0.1,
    trust: dict[str, float] | None = None,
) -> None:
    """The options of `model` besides its components."""


def measuring(batch_size: Annotated[int, Field(ge=1)] = 64) -> None:
    """The options of `evaluate` besides its protocol."""


@dataclass(frozen=True)
class Recipe:
    """A validated recipe: components that are ready to be called, and `document`, the same with all defaults said."""

    name: str
    seed: int
    data: Component
    encoders: dict[str, Component]
    fusion: Component
    flags: dict[str, Any]  # auxiliary, inference, doubt, trust
    objective: Objective
    threat: ThreatModel
    train: TrainConfig
    protocol: Protocol
    batch_size: int
    document: dict[str, Any]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that differ between recipes that say different things."""
        text = json.dumps(self.document, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def save(self, folder: Path) -> None:
        """Write the resolved recipe into a run folder; `crossguard train` takes it as it is."""
        text = f"# Resolved recipe {self.digest}: every default is said.\n{dump(self.document)}"
        write_atomic(folder / FILE, lambda file: file.write(text.encode()))


def load(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file, `settings` ("train.epochs=3") put in first.

    Raises RecipeError that lists every problem with its YAML path.
    """
    return validate(override(read_recipe(Path(path)), settings), str(path))


def validate(document: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check a whole recipe; raises RecipeError that lists every problem with its YAML path."""
    problems = Problems()
    given = mapping(document, SECTIONS, "", problems)
    top = options(heading, {k: given[k] for k in ("name", "seed") if k in given}, "", problems)
    if top and not _NAME.fullmatch(top["name"]):
        problems.add(
            "name", f"found {top['name']!r}, expected letters, digits, '.', '_' and '-': it names the run folder"
        )
    data = component(given.get("data"), SETS, "data", problems)
    model = _Model.read(given.get("model"), problems)
    chosen = component(given.get("objective", "standard"), OBJECTIVES, "objective", problems)
    objective: Objective | None = construct(chosen, "objective", problems)
    _check_names(objective, model.built, problems)
    threat = read_threat(given.get("threat"), "threat", problems)
    train = _section(TrainConfig, given.get("train"), "train", problems)
    protocol, batch_size = _evaluate(given.get("evaluate"), problems)
    problems.stop(source)
    assert top and data and model.fusion and chosen and objective and threat and train and protocol  # noqa: PT018
    encoders = {name: encoder for name, encoder in model.encoders.items() if encoder}
    resolved = {
        **top,
        "data": data.to_dict(),
        "model": {
            "encoders": {name: encoder.to_dict() for name, encoder in encoders.items()},
            "fusion": model.fusion.to_dict(),
            **model.flags,
        },
        "objective": chosen.to_dict(),
        "threat": write_threat(threat),
        "train": train.model_dump(),
        "evaluate": {"protocol": protocol.to_dict(), "batch_size": batch_size},
    }
    return Recipe(
        top["name"], top["seed"], data, encoders, model.fusion, model.flags, objective, threat, train, protocol,
        batch_size, resolved,
    )  # fmt: skip


@dataclass(frozen=True)
class _Model:
    encoders: dict[str, Component | None]
    fusion: Component | None
    flags: dict[str, Any]
    built: FusionModel | None  # of two classes, for who asks it something; None where it cannot be built

    @classmethod
    def read(cls, given: Any, problems: Problems) -> _Model:
        section = mapping(given, ("encoders", "fusion", "auxiliary", "inference", "doubt", "trust"), "model", problems)
        named = section.get("encoders")
        if not isinstance(named, Mapping) or not named:
            problems.add("model.encoders", f"found {named!r}, expected a mapping from modality to {{name: …}}")
            named = {}
        encoders = {
            str(name): component(encoder, ENCODERS, f"model.encoders.{name}", problems)
            for name, encoder in named.items()
        }
        fusion = component(section.get("fusion", "concat"), FUSIONS, "model.fusion", problems, supplied=("dims",))
        flags = (
            options(architecture, only(section, "auxiliary", "inference", "doubt", "trust"), "model", problems) or {}
        )
        # Built once, to hear what they have against their options and one another; no draw of it is seen outside. On
        # the meta device any arithmetic imports torch's compiler, which takes longer than building the largest.
        whole: FusionModel | None = None
        with torch.random.fork_rng(devices=[]):
            joined = construct(fusion, "model.fusion", problems)
            built = {name: construct(e, f"model.encoders.{name}", problems) for name, e in encoders.items()}
            if joined is not None and built and all(e is not None for e in built.values()):
                whole = construct(lambda: FusionModel(built, joined, classes=2, **flags), "model", problems)
        return cls(encoders, fusion, flags, whole)


def _check_names(objective: Objective | None, model: FusionModel | None, problems: Problems) -> None:
    """Note what the objective holds against the model whatever the budgets are: modalities that it does not read.

    Not within the recipe's own budgets: a trained run may be evaluated within others, and training looks again.
    """
    if objective is None or model is None:
        return
    whole = readable(model, ThreatModel({name: Linf(1.0) for name in model.modalities}))
    # The task is known when the data are read; no objective's check looks at it.
    construct(lambda: objective.check(model, Context(SingleLabel(2), whole)), "objective", problems)


def _section(build: Callable[..., Any], given: Any, path: str, problems: Problems) -> Any:
    """A section that is one settings object."""
    if given is not None and not isinstance(given, Mapping):
        problems.add(path, f"found {given!r}, expected a mapping")
        return None
    checked = options(build, given or {}, path, problems)
    return None if checked is None else construct(lambda: build(**checked), path, problems)


def _evaluate(given: Any, problems: Problems) -> tuple[Protocol | None, int]:
    section = mapping(given, ("protocol", "batch_size"), "evaluate", problems)
    size = options(measuring, only(section, "batch_size"), "evaluate", problems)
    wanted = section.get("protocol", "standard")
    wanted = {"name": wanted} if isinstance(wanted, str) else wanted
    if not isinstance(wanted, Mapping):
        problems.add("evaluate.protocol", f"found {wanted!r}, expected one of {', '.join(PROTOCOLS)}, or a mapping")
        return None, 0
    base = PROTOCOLS.get(str(wanted.get("name", "standard")))
    protocol = _section(Protocol, {**(base.to_dict() if base else {}), **wanted}, "evaluate.protocol", problems)
    return protocol, size["batch_size"] if size else 0
