"""Small RGB-skeleton models, standard and adversarially trained in seconds, and bad defences to put around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import crossguard as cg
from crossguard.core.model import bare, forward
from crossguard.models import Encoder, FusionModel
from crossguard.models.fusion import FUSIONS

CLASSES = 4
THREAT = cg.ThreatModel(rgb=cg.Linf(8 / 255, bounds=(0, 1)), skeleton=cg.Linf(0.04))


class Winners(nn.Module):
    """k-winners-take-all (Xiao et al., ICLR 2020): of each sample's activations the largest stay, the rest are 0."""

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        least = x.topk(max(1, int(self.share * x.shape[1])), dim=1).values[:, -1:]
        return x * (x >= least).to(x.dtype)


class Flat(Encoder):
    """Two layers on what is flattened."""

    stages = ("first", "second")

    def __init__(self, features: int, mean: float, std: float, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.first = nn.Sequential(nn.Linear(features, 96), activation())
        self.second = nn.Sequential(nn.Linear(96, 48), activation())
        self.dims = {"first": 96, "second": 48}

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return ((x - self.mean) / self.std).flatten(1)


def build(activation: Callable[[], nn.Module] = nn.ReLU) -> FusionModel:
    encoders = {"rgb": Flat(3 * 8 * 8, 0.5, 0.2, activation), "skeleton": Flat(10 * 6, 0.0, 0.3, activation)}
    return FusionModel(encoders, FUSIONS["concat"](), CLASSES, auxiliary=False)


def data(n: int = 96, seed: int = 0, classes: int = CLASSES) -> cg.Batch:
    """Prototypes of the classes under noise, on images in [0, 1] and joints in metres."""
    fixed = torch.Generator().manual_seed(7)
    rgb = torch.randn(classes, 3, 8, 8, generator=fixed)
    skeleton = torch.randn(classes, 10, 6, generator=fixed)
    drawn = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=drawn)
    noise = {m: torch.randn(n, *p.shape[1:], generator=drawn) for m, p in (("rgb", rgb), ("skeleton", skeleton))}
    inputs = {
        "rgb": (0.5 + 0.04 * rgb[targets] + 0.12 * noise["rgb"]).clamp(0, 1),
        "skeleton": 0.04 * skeleton[targets] + 0.08 * noise["skeleton"],
    }
    return cg.Batch(inputs, targets, ids=tuple(f"{seed}-{i}" for i in range(n)))


@cache
def trained(kind: str = "standard", seed: int = 0, winners: bool = False) -> FusionModel:
    """A model in eval mode; do not change it."""
    torch.manual_seed(seed)
    model = build(Winners if winners else nn.ReLU)
    batch = data(1024, seed=100)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, weight_decay=1e-4)
    for step in range(160):
        rows = torch.randperm(1024)[:128].tolist()
        part = batch.take(rows)
        inputs = part.inputs
        if kind == "adversarial":
            options = {"steps": 4, "step_size": 0.4, "stop": "never", "select": "last", "ids": torch.tensor(rows)}
            inputs = cg.attacks.pgd(model, inputs, part.targets, THREAT, seed=step, **options).inputs
        loss = F.cross_entropy(model(inputs).logits, part.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


class Defence(nn.Module):
    """A bad defence around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.viewed = bare(model)

    def before(self, inputs: cg.Inputs) -> cg.Inputs:
        return inputs

    def after(self, logits: Tensor) -> Tensor:
        return logits

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return self.after(forward(self.viewed, self.before(inputs)).logits)


class Detached(Defence):
    """One branch hides from gradients."""

    def before(self, inputs: cg.Inputs) -> cg.Inputs:
        return {**inputs, "rgb": inputs["rgb"].detach()}


class Loud(Defence):
    """Logits so large that the gradient of the cross-entropy underflows."""

    def after(self, logits: Tensor) -> Tensor:
        return logits * 1e4


class Softmax(Defence):
    """Probabilities for logits."""

    def after(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)


class Quantised(Defence):
    """Inputs on a coarse grid."""

    def before(self, inputs: cg.Inputs) -> cg.Inputs:
        return {"rgb": (inputs["rgb"] * 15).round() / 15, "skeleton": (inputs["skeleton"] * 20).round() / 20}


class Noisy(Defence):
    """Random noise on the inputs, as large as the budget."""

    def before(self, inputs: cg.Inputs) -> cg.Inputs:
        return {m: x + THREAT.budgets[m].eps * torch.randn_like(x) for m, x in inputs.items()}


class Resized(Defence):
    """The image at a random size, padded at random places, and back (Xie et al., ICLR 2018); one draw a call."""

    def before(self, inputs: cg.Inputs) -> cg.Inputs:
        size = int(torch.randint(6, 9, ()))
        left, top = (int(torch.randint(0, 9 - size, ())) for _ in range(2))
        small = F.interpolate(inputs["rgb"], size=size, mode="bilinear", antialias=True)
        padded = F.pad(small, (left, 8 - size - left, top, 8 - size - top), value=0.5)
        return {**inputs, "rgb": padded}


class Gated(nn.Module):
    """Trusts one modality alone, by a gate that is steep enough to saturate."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.viewed = bare(model)

    def forward(self, inputs: cg.Inputs) -> Tensor:
        alone = {
            m: forward(self.viewed, {n: x if n == m else x.detach() * 0 for n, x in inputs.items()}).logits
            for m in inputs
        }
        sure = {m: x.topk(2, dim=1).values for m, x in alone.items()}
        trust = (sure["rgb"][:, :1] - sure["rgb"][:, 1:]) - (sure["skeleton"][:, :1] - sure["skeleton"][:, 1:])
        gate = torch.sigmoid(200 * trust)
        return gate * alone["rgb"] + (1 - gate) * alone["skeleton"]


class Filtered(Defence):
    """A median over neighbouring pixels and fewer levels, outside of torch."""

    def before(self, inputs: cg.Inputs) -> cg.Inputs:
        image = inputs["rgb"].detach().cpu().numpy()
        wide = np.pad(image, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="edge")
        middle = np.median(np.stack([wide[..., :-2], wide[..., 1:-1], wide[..., 2:]]), axis=0)
        levels = np.round(middle * 31) / 31
        return {**inputs, "rgb": torch.from_numpy(levels.astype(np.float32)).to(inputs["rgb"].device)}


DEFENCES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "detached": Detached,
    "loud": Loud,
    "softmax": Softmax,
    "quantised": Quantised,
    "noisy": Noisy,
    "resized": Resized,
    "gated": Gated,
    "filtered": Filtered,
}
