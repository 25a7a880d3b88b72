"""How convex a class is in latent space, for the network that reads it (Li et al., ICASSP 2022)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Output
from crossguard.core.errors import InputError
from crossguard.core.estimate import Estimate
from crossguard.core.model import borrowed
from crossguard.core.random import bits, combine, text_key
from crossguard.diagnostics.classes import group_codes, members, share_of, times_drawn

Latents: TypeAlias = Tensor | Mapping[str, Tensor | Feature]
Head: TypeAlias = Callable[[Any], Any]
Ends: TypeAlias = Literal["all", "right"]


def convexity(
    head: Head,
    latents: Latents,
    targets: Tensor,
    *,
    pairs: int = 2000,
    threshold: float | None = None,
    ends: Ends = "all",
    moved: Collection[str] | None = None,
    groups: Sequence[str] | None = None,
    classes: int | None = None,
    batch_size: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """One value a class: the share of lambda z_a + (1 - lambda) z_b, lambda ~ U(0, 1), that `head` still gives it.

    Over `pairs` random pairs of its samples. `latents` are (N, …), or by modality, tensors or Features with masks (see
    `Feature.between`); `head` (the rest of the network, in eval mode if it is a module) gives their logits. Several
    labels (targets (N, C)): p_c >= `threshold` (0.1, as published). One label: c wins, and p_c > `threshold` (0; our
    choice, one chosen on validation data tells more). `ends="right"` takes only samples that the head gives their
    class. `moved` names the modalities that are interpolated, the others stay at z_a. Under a linear head every class
    is convex: measure where the rest of the network is not linear, on samples that it was not trained on. Intervals
    resample groups (samples where there are none). A class of fewer than two samples is undefined. Raises InputError
    for what cannot be meant.
    """
    handed = latents if isinstance(latents, Mapping) else {"": latents}
    table = {n: z if isinstance(z, Feature) else Feature(z) for n, z in handed.items()}
    samples = {len(z.value) for z in table.values()}
    unknown = sorted(set(moved or ()) - set(table))
    if len(samples) != 1 or pairs < 1 or ends not in get_args(Ends) or unknown:
        raise InputError(
            f"found latents of {sorted(samples)} samples, pairs {pairs}, ends {ends!r}, moved {moved}; expected as "
            f"many of each modality, pairs >= 1, 'all' or 'right', and modalities of {sorted(table)}"
        )
    several, (count,) = targets.dim() == 2, samples
    least = (0.1 if several else 0.0) if threshold is None else threshold
    device = next(iter(table.values())).value.device

    def given(z: Mapping[str, Feature], c: int) -> Tensor:
        """(N,) bool: which latents the head gives class c."""
        asked = {n: f if isinstance(handed[n], Feature) else f.value for n, f in z.items()}
        answer = head(asked if isinstance(latents, Mapping) else asked[""])
        logits: Tensor = answer.logits if isinstance(answer, Output) else answer
        column = torch.as_tensor(c, device=logits.device).expand(len(logits))[:, None]
        if several:
            return (logits.sigmoid().gather(1, column) >= least).squeeze(1).cpu()
        p = logits.softmax(dim=1).gather(1, column).squeeze(1)
        return ((logits.argmax(dim=1) == column.squeeze(1)) & (p > least)).cpu()

    belongs = members(targets.to(device), count, classes)
    codes = group_codes(groups, count, device)
    found: list[Estimate] = []
    with torch.no_grad(), _lent(head):
        for c in range(belongs.shape[1]):
            rows = belongs[:, c].nonzero().squeeze(1)
            if ends == "right" and len(rows):
                parts = [given({n: z.take(r) for n, z in table.items()}, c) for r in rows.split(batch_size)]
                rows = rows[torch.cat(parts).to(rows.device)]
            if len(rows) < 2:
                what = "samples" if ends == "all" else "samples that the head gives this class"
                found.append(Estimate.undefined(len(rows), f"{len(rows)} {what}, 2 needed"))
                continue
            a, b, share = _pairs(len(rows), pairs, seed, c)
            hits: list[Tensor] = []
            for part in torch.arange(pairs).split(batch_size):
                ends_of, t = (rows[a[part].to(device)], rows[b[part].to(device)]), share[part].to(device)
                hits.append(
                    given({n: _between(x, *ends_of, t, moved is None or n in moved) for n, x in table.items()}, c)
                )
            used, place = torch.cat([a, b]).unique(return_inverse=True)
            times = times_drawn(codes[rows[used.to(device)]], seed)[:, place]
            found.append(share_of(torch.cat(hits), len(rows), times[:, :pairs] * times[:, pairs:]))
    return found


def _pairs(count: int, pairs: int, seed: int, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two different ones of `count`, and lambda in (0, 1), a function of (seed, class)."""
    first, second, share = bits(combine(torch.tensor([text_key("pairs")]), seed, c), 3 * pairs)[0].chunk(3)
    a = first.remainder(count)
    return a, (a + 1 + second.remainder(count - 1)).remainder(count), share.remainder(2**24).double() / 2**24


def _between(x: Feature, a: Tensor, b: Tensor, share: Tensor, moves: bool) -> Feature:
    """lambda x_a + (1 - lambda) x_b, or x_a where nothing moves."""
    return x.take(a).between(x.take(b), share) if moves else x.take(a)


def _lent(head: Head) -> AbstractContextManager[Any]:
    return borrowed(head) if isinstance(head, nn.Module) else nullcontext()
