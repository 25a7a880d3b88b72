"""Gated attention over the whole video and over a window (after GAT: Sahu and Goyal 2021, arXiv 2103.10043)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.errors import ModelError
from crossguard.models.attention import Attention, keys, looked_at, show, weights


class GatedAttention(Attention):
    """F: a gate weighs local against global context for every frame. O, since the paper's equations were not at hand:

    g = sigmoid(W_g x_t + b_g), one number a frame and head; y_t = g global_t + (1 - g) local_t. Both share queries,
    keys and values; local looks at times |t - s| <= `window` alone. The map that is shown is
    g A_global + (1 - g) A_local, whose rows sum to 1 like any other. The gate begins at 1/2.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__(width, heads)
        if window < 0:
            raise ModelError(
                f"gated attention: window is {window}, expected a whole number >= 0 of frames to each side"
            )
        self.window = window
        self.gate = nn.Linear(width, heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, time: Tensor | None) -> Tensor:
        """What each head gathers from near and far."""
        seen, time = keys(real), torch.arange(x.shape[1], device=x.device) if time is None else time
        near = ((time[:, None] - time).abs() <= self.window)[None, None]
        if seen is not None:
            # A frame that is not real may have no real neighbour: it looks at itself, and counts nowhere.
            near = near & seen | torch.eye(len(time), dtype=torch.bool, device=x.device)
        g = self.gate(x).sigmoid().transpose(1, 2)[..., None]
        if not looked_at("maps"):
            far = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            return g * far + (1 - g) * F.scaled_dot_product_attention(q, k, v, attn_mask=near)
        a = g * weights(q, k, seen) + (1 - g) * weights(q, k, near)
        show("maps", a, real)
        return a @ v
