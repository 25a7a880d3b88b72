"""Fast adversarial training: one step from a random start, and an eye on whether it still teaches anything."""

# Annotations are not postponed here: see `supervision`.

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from crossguard.core.batch import Batch
from crossguard.core.errors import RecipeError, RunError
from crossguard.core.model import borrowed, forward
from crossguard.core.task import hits
from crossguard.defences.adversarial import Adversarial
from crossguard.defences.objective import Context, Losses


@dataclass(frozen=True, kw_only=True)
class Fast(Adversarial):
    """`Adversarial` with one step of 1.25 x budget from a random start (Wong, Rice and Kolter, ICLR 2020).

    Such training can collapse: its own step is answered rightly, steps after it are not. Every `probe_every` steps
    PGD of `probe_steps` steps attacks the batch as well. Training has collapsed where that leaves `gap` less of the
    accuracy than the one step, and no more than at the probe before: a young model has such a gap too, but closes it.
    It is said (a warning, and `collapsed` in the log), and `remedy` is "pgd": the next `relief` steps train on PGD of
    `probe_steps` steps (the idea of Li et al., arXiv 2006.03089), "stop": RunError, or "none". Probe, gap and relief
    are our choice.
    """

    steps: int = 1
    step_size: float = 1.25
    probe_every: int = 50
    probe_steps: int = 10
    gap: float = 0.25
    remedy: Literal["pgd", "stop", "none"] = "pgd"
    relief: int = 50
    # "left": steps of relief still to come, "collapses": so far, "probed": accuracy under PGD at the last probe.
    counts: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.probe_every, self.probe_steps, self.relief) < 1 or not 0 < self.gap <= 1:
            raise RecipeError(
                f"found probe_every {self.probe_every}, probe_steps {self.probe_steps}, relief {self.relief}, gap "
                f"{self.gap}; expected whole numbers >= 1, and a share in (0, 1]"
            )
        if self.remedy not in ("pgd", "stop", "none"):
            raise RecipeError(f"remedy is {self.remedy!r}, expected 'pgd', 'stop' or 'none'")

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`; `parts` also holds what a probe found."""
        if self.begins(context):
            return super().step(model, batch, context)
        found: dict[str, torch.Tensor] = {}
        if (context.step + 1) % self.probe_every == 0:
            found = self.probe(model, batch, context)
        left = self.counts.get("left", 0)
        if not left:
            losses = super().step(model, batch, context)
        else:
            self.counts["left"] = left - 1
            losses = self.careful.step(model, batch, context)
        return replace(losses, parts={**losses.parts, **found})

    @property
    def careful(self) -> Adversarial:
        """The same training on PGD of `probe_steps` steps."""
        own: dict[str, Any] = {name: getattr(self, name) for name in Adversarial.__dataclass_fields__}
        own |= {"attack": "pgd", "steps": self.probe_steps, "step_size": 2.5 / self.probe_steps}
        return Adversarial(**own)

    def probe(self, model: nn.Module, batch: Batch, context: Context) -> dict[str, torch.Tensor]:
        """Accuracies under one step and under PGD, in eval mode; begins the remedy where they are too far apart."""
        right = (
            self._right(model, objective.perturb(model, batch, context), context) for objective in (self, self.careful)
        )
        once, often, samples = context.total(*right, len(batch))
        one, many = once / samples, often / samples
        before, self.counts["probed"] = self.counts.get("probed", -1.0), many
        fallen = one - many > self.gap and many <= before
        if fallen:
            words = (
                f"step {context.step + 1}: fast adversarial training has collapsed: {100 * one:.0f} % right "
                f"under its own step, {100 * many:.0f} % under {self.probe_steps} steps"
            )
            if self.remedy == "stop":
                raise RunError(f"{words}; go on from the checkpoint before it with remedy: pgd, or train `adversarial`")
            warnings.warn(words, RuntimeWarning, stacklevel=2)
            self.counts["collapses"] = self.counts.get("collapses", 0) + 1
            if self.remedy == "pgd":
                self.counts["left"] = self.relief
        found = {"one_step": one, "probe": many, "collapsed": float(fallen)}
        return {name: torch.tensor(value, device=context.device) for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """See `Objective.state_dict`."""
        return dict(self.counts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Objective.load_state_dict`."""
        self.counts.clear()
        self.counts.update(state)

    def _right(self, model: nn.Module, batch: Batch, context: Context) -> int:
        with borrowed(model, device=context.device) as net, torch.no_grad():
            margin = context.task.margin(forward(net, batch.inputs, batch.mask).logits, batch.targets)
        context.work.forwards += len(batch)
        return int(hits(margin, batch.targets).sum())
