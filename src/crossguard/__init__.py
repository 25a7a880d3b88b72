"""Makes multimodal models robust to adversarial inputs, and measures how robust they really are."""

from crossguard import attacks, data, defences, diagnostics, models
from crossguard.core import (
    Batch,
    CrossguardError,
    DataError,
    InputError,
    Inputs,
    Modality,
    ModelError,
    MultiLabel,
    Output,
    RecipeError,
    RunError,
    SingleLabel,
    Task,
    ThreatError,
)
from crossguard.evaluation import Estimate, Flag, Protocol, Record, evaluate, metrics
from crossguard.models import FusionModel, adapt, cut, fusion
from crossguard.report import report
from crossguard.threat import L2, Linf, ThreatModel
from crossguard.training import TrainConfig, train

__version__ = "0.1.0"

__all__ = [
    "L2",
    "Batch",
    "CrossguardError",
    "DataError",
    "Estimate",
    "Flag",
    "FusionModel",
    "InputError",
    "Inputs",
    "Linf",
    "Modality",
    "ModelError",
    "MultiLabel",
    "Output",
    "Protocol",
    "RecipeError",
    "Record",
    "RunError",
    "SingleLabel",
    "Task",
    "ThreatError",
    "ThreatModel",
    "TrainConfig",
    "__version__",
    "adapt",
    "attacks",
    "cut",
    "data",
    "defences",
    "diagnostics",
    "evaluate",
    "fusion",
    "metrics",
    "models",
    "report",
    "train",
]
