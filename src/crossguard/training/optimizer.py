"""The optimizers that a configuration may name."""

from __future__ import annotations

from torch import nn, optim

from crossguard.core.errors import ModelError
from crossguard.training.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> optim.Optimizer:
    """An optimizer of the parameters that require gradients; raises ModelError where there are none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError("the model has no parameter that requires a gradient: there is nothing to train")
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return optim.SGD(parameters, lr=rate, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "adamw":
        return optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return optim.Adam(parameters, lr=rate, weight_decay=decay)
