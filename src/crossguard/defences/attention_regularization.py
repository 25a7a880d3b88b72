"""A-ART: attention must not move under attack (after Choudhary, Goyal and Sahu 2021, arXiv 2110.13950)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch, Need, Output
from crossguard.core.errors import ModelError, RecipeError
from crossguard.defences.adversarial import Adversarial
from crossguard.defences.objective import Context, Losses
from crossguard.models.attention import Sight, Watch, watching
from crossguard.models.maps import Distance, displacement, drift, mean_over_samples, smoothness


@dataclass(frozen=True, kw_only=True)
class AttentionRegularization(Adversarial):
    """L(x) + `alpha` L(x + r) + `beta` R + `gamma` S, with r from the inner attack of `Adversarial` on the task's loss.

    F: a regulariser of temporal attention beside adversarial training. O, its equations: R is the mean over layers,
    heads and real queries of the `distance` from A(x) to A(x + r), "kl", "js" or squared "frobenius" (`drift`), A(x) a
    constant where `stop_gradient`; S the mean over layers and heads of sum_t |A(x)[t] - A(x)[t - 1]|^2. `layers`: over
    "all" maps, or the "last" alone, where that is pooling the one that chooses what is answered. L are the losses of
    `Supervised`; the fused parts are logged, R as "drift" and S as "smoothness".

    `hold`: "maps", as above, or of our own "gathered": R is then the mean over layers and heads of how far what a head
    gathers by its map is displaced, in shares of how much it varies (`displacement`). It needs no map, so attention
    stays in fused kernels, and a frame may be looked at differently where that changes nothing of what is passed on;
    `distance` and `gamma`, which are of maps, stay at their defaults.

    x and x + r go through the model side by side, one clean pass a batch (batch statistics are over both). Models of
    this project give R and S layer by layer, and with `checkpoint` make a layer's maps again on the way back, so that
    those of one layer at a time are alive; any other model must return its maps for `need=("attention",)`.
    """

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.0
    distance: Distance = "kl"
    layers: Literal["all", "last"] = "all"
    hold: Sight = "maps"
    stop_gradient: bool = False
    checkpoint: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}
        if any(not 0 <= w < float("inf") for w in weights.values()):
            raise RecipeError(f"found {weights}, expected finite numbers >= 0")
        if self.distance not in ("kl", "js", "frobenius") or self.layers not in ("all", "last"):
            raise RecipeError(
                f"found distance {self.distance!r}, layers {self.layers!r}; expected 'kl', 'js' or 'frobenius', and "
                f"'all' or 'last'"
            )
        if self.hold not in ("maps", "gathered"):
            raise RecipeError(f"found hold {self.hold!r}, expected 'maps' or 'gathered'")
        if self.hold == "gathered" and (self.gamma or self.distance != "kl"):
            raise RecipeError(
                f"found gamma {self.gamma} and distance {self.distance!r} with hold: gathered; both are of maps, so "
                f"leave them out, or take hold: maps"
            )
        if self.clean_weight:
            raise RecipeError("clean_weight has no meaning here, L(x) is always in the loss; set alpha")

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`."""
        batch = self.dropped(model, batch, context)
        if self.begins(context):
            return self.supervise(model, batch, context)
        attacked = self.perturb(model, batch, context)
        watch = Watch(self.measure, self.checkpoint and self.hold == "maps", of=self.hold)
        watches = bool(self.beta or self.gamma)
        need: tuple[Need, ...] = ("attention",) if watches and self.hold == "maps" else ()
        with watching(watch if watches else None):
            output = self.answer(model, _both(batch, attacked), context, need)
        before, after = _halves(output, len(batch))
        clean = self.judge(before, batch, context)
        moved = self.judge(after, attacked, context, self.chosen(context).names)
        total, parts = clean.total + self.alpha * moved.total, dict(clean.parts)
        parts["attacked"] = moved.parts["fused"]
        if watches:
            apart, rough = self._held(watch, output)
            total = total + self.beta * apart + self.gamma * rough
            parts |= {"drift": apart.detach(), "smoothness": rough.detach()}
        return replace(clean, total=total, parts=parts)

    def measure(self, a: Tensor) -> Tensor:
        """(2,): R and S of what is held of one layer, of x before of x + r."""
        clean, attacked = a.chunk(2)
        fixed = clean.detach() if self.stop_gradient else clean
        if self.hold == "gathered":
            apart = displacement(fixed, attacked).mean()
        else:
            apart = mean_over_samples(drift(fixed, attacked, self.distance), clean)
        rough = mean_over_samples(smoothness(clean), clean) if self.gamma else torch.zeros_like(apart)
        return torch.stack([apart, rough])

    def _held(self, watch: Watch, output: Output) -> Tensor:
        """The mean over the layers that are held."""
        layers = watch.kept or [self.measure(a) for a in output.attention or ()]
        if not layers and self.hold == "gathered":
            raise ModelError(
                "hold: gathered needs a model with attention of crossguard.models, this one has none; take hold: maps "
                "and cg.adapt(net, …, attention=…) to say where its maps are"
            )
        if not layers:
            raise ModelError(
                "attention_regularization needs a model that returns attention maps, this one returns none; take a "
                "model with attention, or cg.adapt(net, …, attention=…) to say where its maps are"
            )
        return torch.stack(layers if self.layers == "all" else layers[-1:]).mean(dim=0)


def _both(clean: Batch, attacked: Batch) -> Batch:
    """Both batches, one after the other."""

    def doubled(one: dict[str, Tensor], two: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: torch.cat([x, two[n]]) for n, x in one.items()}

    return Batch(
        doubled(clean.inputs, attacked.inputs),
        torch.cat([clean.targets, attacked.targets]),
        doubled(clean.mask, attacked.mask),
    )


def _halves(output: Output, samples: int) -> tuple[Output, Output]:
    """What was said of each of both batches, without the maps."""

    def part(tree: Any, rows: slice) -> Any:
        if isinstance(tree, Tensor):
            return tree[rows]
        return {n: x[rows] for n, x in tree.items()} if tree is not None else None

    def half(rows: slice) -> Output:
        names = ("logits", "auxiliary", "latents", "weights", "odd_one_out")
        return Output(**{name: part(getattr(output, name), rows) for name in names})

    return half(slice(None, samples)), half(slice(samples, None))
