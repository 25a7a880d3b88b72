"""The learning rate as a function of the step alone, so that a resumed run needs no state of it."""

from __future__ import annotations

import math

from crossguard.training.config import TrainConfig

# Smith and Topin 2017; the figures are those of torch.optim.lr_scheduler.OneCycleLR.
_RISE = 0.3
_START, _END = 1 / 25, 1 / 25 / 1e4


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Rate of global step `step` (0 the first) of `steps`: `learning_rate` at its peak.

    `warmup` is a linear rise; `cosine` then falls to 0; `one_cycle` rises (over `warmup`, or 0.3 of all steps) from
    1/25 and falls to 1/250,000 of the peak, both along half a cosine.
    """
    peak = config.learning_rate
    if config.schedule == "one_cycle":
        top = (config.warmup or _RISE) * steps - 1
        if step <= top:
            return peak * _between(_START, 1.0, step / top if top > 0 else 1.0)
        return peak * _between(1.0, _END, (step - top) / max(steps - 1 - top, 1e-9))
    rise = round(config.warmup * steps)
    if step < rise:
        return peak * (step + 1) / rise
    if config.schedule == "constant":
        return peak
    return peak * _between(1.0, 0.0, (step - rise) / max(steps - rise, 1))


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
