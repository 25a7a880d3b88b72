"""Free adversarial training: the gradient that trains the weights also moves the attack."""

# Annotations are not postponed here: see `supervision`.

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch
from crossguard.core.errors import RecipeError
from crossguard.defences.adversarial import Adversarial
from crossguard.defences.objective import Context, Losses
from crossguard.defences.supervision import Supervised


@dataclass(frozen=True, kw_only=True)
class Free(Supervised):
    """Each batch is trained on `replays` times in turn (m of Shafahi et al., NeurIPS 2019); every backward pass moves
    the weights and, by `step_size` x budget, what is added to the inputs, which the next batch starts from.

    So an epoch, which is as many steps as ever, sees one batch in `replays`, others every epoch: train for as many
    epochs as without. `attacked` as in `Adversarial`, drawn for all replays of a batch. Attacks follow the model as it
    trains, in training mode, and its own gradient: no `attack_view()`.
    """

    replays: int = 4
    step_size: float = 1.0
    attacked: str = "random"
    # "batch": the one that is replayed, "names": its attacked modalities, "delta": by modality, "turn": replays so far.
    kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    shown: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replays < 1 or not 0 < self.step_size < float("inf"):
            raise RecipeError(
                f"found replays {self.replays}, step_size {self.step_size}; expected >= 1 and a finite number > 0, a "
                f"share of the budget"
            )

    def check(self, model: nn.Module, context: Context) -> None:
        """See `Adversarial.check`."""
        super().check(model, context)
        Adversarial(attacked=self.attacked).check(model, context)

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`; the batch that is given counts where no other is being replayed."""
        turn = self.kept.get("turn", 0)
        if turn % self.replays == 0:
            self.kept["batch"] = self.dropped(model, batch, context)
            self.kept["names"] = list(Adversarial(attacked=self.attacked).chosen(context).names)
        self.kept["turn"] = turn + 1
        batch, names = self.kept["batch"].to(context.device), self.kept["names"]
        point = self.point(batch, context)
        self.shown.clear()
        self.shown.update({name: point[name].requires_grad_() for name in names})
        return self.supervise(model, batch.with_inputs({**batch.inputs, **self.shown}), context, tuple(names))

    def point(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """The batch's attacked inputs, each moved by what is added now, as its budget and mask allow."""
        threat = self._threat(context, batch)
        balls = threat.balls(batch.inputs, batch.mask)
        moved: dict[str, Tensor] = {}
        for name, ball in balls.items():
            delta = self.kept.get("delta", {}).get(name)
            y = ball.x.clone()
            if delta is not None and delta.shape[1:] == y.shape[1:]:  # clips of other lengths start anew
                rows = min(len(y), len(delta))
                y[:rows] += delta[:rows].to(y)
            moved[name] = y
        return {name: x.detach() for name, x in threat.repair(moved, balls).items()}

    def after_backward(self, model: nn.Module, context: Context) -> None:
        """Move what is added along the gradient that the backward pass left on the inputs."""
        batch = self.kept["batch"].to(context.device)
        threat = self._threat(context, batch)
        balls = threat.balls(batch.inputs, batch.mask)
        gradient = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in self.shown.items()}
        point = {n: x.detach() for n, x in self.shown.items()}
        gradient = threat.led(point, balls, gradient)
        moved = {n: balls[n].ascend(x, gradient[n], self.step_size) for n, x in point.items()}
        after = threat.couple(moved, balls, gradient)
        self.kept["delta"] = {**self.kept.get("delta", {}), **{n: x - balls[n].x for n, x in after.items()}}

    def state_dict(self) -> dict[str, Any]:
        """See `Objective.state_dict`."""
        if not self.kept:
            return {}
        batch: Batch = self.kept["batch"]
        fields = {n: getattr(batch, n) for n in ("inputs", "targets", "mask")}
        said = {"ids": list(batch.ids), "groups": list(batch.groups)}
        return {**self.kept, "batch": {**fields, **said}, "delta": dict(self.kept.get("delta", {}))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Objective.load_state_dict`."""
        self.kept.clear()
        self.kept.update(state)
        if state:
            held = state["batch"]
            said = {n: tuple(held[n]) for n in ("ids", "groups")}
            self.kept["batch"] = Batch(held["inputs"], held["targets"], held["mask"], **said)

    def _threat(self, context: Context, batch: Batch) -> Any:
        assert context.threat is not None, "check() saw a threat model"
        return context.threat.settled(batch.inputs).only(*self.kept["names"])
