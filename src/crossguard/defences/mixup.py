"""Mix-up: samples and labels of a batch are interpolated, evenly or as a metric of latent space guides (our choice)."""

# Annotations are not postponed here: recipes look up those of subclasses, which stand in their own modules.

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch
from crossguard.core.errors import ModelError, RecipeError
from crossguard.core.model import Branched, bare
from crossguard.data.base import Dataset
from crossguard.defences.guide import drawn_by
from crossguard.defences.mixing import Between, Mixture, Partner, partners
from crossguard.defences.objective import Context, Losses
from crossguard.defences.supervision import AuxiliaryWeight, Supervised, weight_of


@dataclass(frozen=True, kw_only=True)
class Mixup(Supervised):
    """lambda L(x~, y) + (1 - lambda) L(x~, y'), x~ = lambda x + (1 - lambda) x', lambda ~ Beta(alpha, alpha), one a
    batch (Zhang et al., ICLR 2018).

    `at`: what is mixed, the "input" or the "bottleneck" (each branch's features where branches first meet; the place
    of manifold mix-up, Verma et al., ICML 2019). `lambdas`: "one" for all modalities, or "separate" ones: then the
    fused loss takes their mean, an auxiliary head its own. `partner`: see `partners`. `guide`: classes are drawn with
    p(c) ~ exp(-`tau` z_c), see `drawn_by`, on `samples` training samples, anew every `every` epochs; tau < 0 draws the
    classes of high values instead. Metric-guided mix-up is after Li et al., ICASSP 2022; its details are our choice.
    """

    robust: ClassVar[bool] = False

    alpha: float = 1.0
    at: Literal["input", "bottleneck"] = "input"
    partner: Partner = "any"
    lambdas: Literal["one", "separate"] = "one"
    guide: Literal["none", "density", "convexity"] = "none"
    tau: float = 1.0
    every: int = 1
    samples: int = 1000
    # p(c) of the guide's last look, (C,), if there was one.
    chances: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < float("inf") or not abs(self.tau) < float("inf") or min(self.every, self.samples) < 1:
            raise RecipeError(
                f"found alpha {self.alpha}, tau {self.tau}, every {self.every}, samples {self.samples}; expected "
                f"finite numbers, alpha > 0, every and samples >= 1"
            )
        known = {
            "at": ("input", "bottleneck"),
            "partner": ("any", "within", "across"),
            "lambdas": ("one", "separate"),
            "guide": ("none", "density", "convexity"),
        }
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise RecipeError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(words)}")

    def check(self, model: nn.Module, context: Context) -> None:
        """Raise ModelError where the bottleneck or the guide needs branches that the model does not have."""
        super().check(model, context)
        net = bare(model)
        branches = isinstance(net, Branched) and bool(getattr(net, "modalities", ()))
        if not branches and (self.at == "bottleneck" or self.guide == "convexity"):
            raise ModelError(
                f"at {self.at!r} with guide {self.guide!r} needs a model with branches, such as cg.FusionModel; mix "
                f"the input, with guide none or density"
            )

    def epoch_start(self, model: nn.Module, dataset: Dataset, context: Context) -> None:
        """See `drawn_by` and `Supervised.epoch_start`."""
        super().epoch_start(model, dataset, context)
        if self.guide != "none" and context.epoch % self.every == 0:
            self.chances[:] = [drawn_by(self.guide, self.tau, model, dataset, self.samples, context)]

    def state_dict(self) -> dict[str, Any]:
        """See `Objective.state_dict`."""
        return {"chances": list(self.chances)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Objective.load_state_dict`."""
        self.chances[:] = state.get("chances", [])

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`."""
        return self.mixed(model, self.dropped(model, batch, context), context)

    def mixed(self, model: nn.Module, batch: Batch, context: Context, attacked: tuple[str, ...] = ()) -> Losses:
        """The loss of a batch mixed with itself."""
        mixture = self.mixture(batch, context)
        first, second = (batch.take(rows.tolist()) for rows in (mixture.first, mixture.second))
        if self.at == "input":
            inputs, masks = mixture.inputs(batch)
            first, second = (replace(part, inputs=inputs, mask=masks) for part in (first, second))
            output = self.answer(model, first, context)
        else:
            output = self.answer(Between(bare(model), mixture), batch, context)
            _, masks = mixture.inputs(batch)
            first, second = (replace(part, mask=masks) for part in (first, second))
        fused = sum(mixture.share.values()) / len(mixture.share)
        own = self.weighed(mixture, fused, second=False).judge(output, first, context, attacked)
        other = self.weighed(mixture, fused, second=True).judge(output, second, context, attacked)
        # A head whose share is all or nothing is judged by one side alone; the other has no part for it.
        by_head = {f"auxiliary/{n}": s for n, s in mixture.share.items()}
        shares = {n: by_head.get(n, fused) for n in (*own.parts, *other.parts)}
        parts = {n: s * own.parts.get(n, 0.0) + (1 - s) * other.parts.get(n, 0.0) for n, s in shares.items()}
        return replace(own, total=fused * own.total + (1 - fused) * other.total, parts=parts)

    def mixture(self, batch: Batch, context: Context) -> Mixture:
        """Who is mixed with whom, and by how much: a function of (seed, step)."""
        generator = torch.Generator().manual_seed(context.draw(5))
        chances = self.chances[0] if self.chances else None
        first, second = partners(batch.targets, self.partner, chances, generator)
        names = sorted(batch.inputs)
        gamma = torch._standard_gamma(torch.full((2, len(names)), self.alpha), generator)  # pyright: ignore
        shares: list[float] = (gamma[0] / gamma.sum(dim=0).clamp_min(1e-30)).tolist()
        device = batch.targets.device
        by_name = {n: shares[i if self.lambdas == "separate" else 0] for i, n in enumerate(names)}
        return Mixture(first.to(device), second.to(device), by_name)

    def weighed(self, mixture: Mixture, fused: float, *, second: bool) -> Supervised:
        """Itself with the auxiliary weights that make each head's loss mixed by its own modality's lambda."""
        if self.lambdas == "one":
            return self
        share = {
            n: (1 - s) / max(1 - fused, 1e-9) if second else s / max(fused, 1e-9) for n, s in mixture.share.items()
        }
        weights: AuxiliaryWeight = {n: weight_of(self.auxiliary_weight, n) * s for n, s in share.items()}
        return replace(self, auxiliary_weight=weights)
