"""Names that everything else is said in."""

from crossguard.core.batch import Batch, Feature, Inputs, Mask, Need, Output, expand_mask, present, take
from crossguard.core.errors import (
    CrossguardError,
    DataError,
    InputError,
    ModelError,
    RecipeError,
    RunError,
    ThreatError,
)
from crossguard.core.modality import Modality
from crossguard.core.model import Branched, borrowed, forward, takes_mask
from crossguard.core.task import MultiLabel, SingleLabel, Task, settle_task

__all__ = [
    "Batch",
    "Branched",
    "CrossguardError",
    "DataError",
    "Feature",
    "InputError",
    "Inputs",
    "Mask",
    "Modality",
    "ModelError",
    "MultiLabel",
    "Need",
    "Output",
    "RecipeError",
    "RunError",
    "SingleLabel",
    "Task",
    "ThreatError",
    "borrowed",
    "expand_mask",
    "forward",
    "present",
    "settle_task",
    "take",
    "takes_mask",
]
