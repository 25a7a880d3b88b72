"""Latents on paper: two dimensions of them, and the way that an attack takes there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from crossguard.core import Batch, InputError, ModelError, borrowed
from crossguard.diagnostics.latents import rows

Method: TypeAlias = Literal["pca", "tsne"]
SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Projection:
    """`points` (K, 2) of clean latents and `paths` (J, S + 1, 2) of attacked samples from clean on, by `method`;
    `explained`: the share of the variance that is seen (PCA alone)."""

    method: Method
    points: Tensor
    paths: Tensor
    explained: float | None


def project(points: Tensor, paths: Tensor | None = None, *, method: Method = "pca", seed: int = 0) -> Projection:
    """(K, D) latents, and (J, S, D) ways of some, in two dimensions by scikit-learn (the extra `latents`).

    "pca": the axes are those of the clean latents; "tsne" (van der Maaten and Hinton, JMLR 2008) places all together,
    since it has no rule for further points, and only who is near whom means something. Raises InputError for fewer
    than five latents or an unknown method, ModelError where scikit-learn is not installed.
    """
    if points.dim() != 2 or len(points) < 5 or method not in ("pca", "tsne"):
        raise InputError(f"found {tuple(points.shape)} and {method!r}, expected (K >= 5, D) latents, 'pca' or 'tsne'")
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ModelError("a projection needs scikit-learn: pip install 'crossguard[latents]'") from error
    ways = points.new_zeros(0, 1, points.shape[1]) if paths is None else paths
    still, moving = points.double().numpy(), ways.double().flatten(0, 1).numpy()
    explained: float | None = None
    if method == "pca":
        pca: Any = PCA(2, random_state=seed).fit(still)
        explained = float(pca.explained_variance_ratio_.sum())
        placed = pca.transform(np.concatenate([still, moving]))
    else:
        whole = np.concatenate([still, moving])
        tsne: Any = TSNE(2, perplexity=min(30.0, (len(whole) - 1) / 3), init="pca", random_state=seed)
        placed = tsne.fit_transform(whole)
    both = torch.from_numpy(placed).double()
    return Projection(method, both[: len(points)], both[len(points) :].reshape(*ways.shape[:2], 2), explained)


def attack_paths(
    model: nn.Module,
    batch: Batch,
    found: Mapping[str, Tensor],
    *,
    name: str = "fused",
    shares: Sequence[float] = SHARES,
    at: Mapping[str, str] | None = None,
) -> Tensor:
    """(N, S + 1, D) latents `name` on the straight way in input space from a batch to what an attack `found`.

    `at` as in `latents`. Raises ModelError for a latent that the model does not return.
    """
    steps: list[Tensor] = []
    with borrowed(model) as net, torch.no_grad():
        for t in (0.0, *shares):
            inputs = {n: x if n not in found else x + t * (found[n] - x) for n, x in batch.inputs.items()}
            said = rows(net, batch.with_inputs(inputs), at or {})
            if f"value/{name}" not in said:
                known = sorted(n.removeprefix("value/") for n in said if n.startswith("value/"))
                raise ModelError(f"the model returns no latent {name!r}, found {known}")
            steps.append(said[f"value/{name}"].cpu())
    return torch.stack(steps, dim=1)
