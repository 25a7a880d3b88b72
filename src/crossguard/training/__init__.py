"""The training loop, its settings, its checkpoints, and several processes at once."""

from crossguard.training.config import TrainConfig
from crossguard.training.loop import train
from crossguard.training.result import Price, Progress, TrainResult
from crossguard.training.validation import Accuracy, validate

__all__ = ["Accuracy", "Price", "Progress", "TrainConfig", "TrainResult", "train", "validate"]
