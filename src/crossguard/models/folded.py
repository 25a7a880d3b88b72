"""A convolution and its batch normalisation as one convolution, wherever the statistics are fixed."""

from __future__ import annotations

from torch import Tensor, nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def normed(conv: Conv, norm: Norm, x: Tensor) -> Tensor:
    """norm(conv(x)); in eval mode, in which every attack runs, neither passes over the map a second time.

    Of an attack's step the normalisation's own passes, forward and back, are up to a fifth
    (`benchmarks/encoders.py`). Weights and statistics stay where they are; a hook on `norm` hears training alone.
    """
    if norm.training:
        return norm(conv(x))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    weight = conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    return conv._conv_forward(x, weight, bias)  # pyright: ignore[reportPrivateUsage] (one name for all ranks)


class Normed(nn.Sequential):
    """A convolution, its batch normalisation and what follows them."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (named as in the base)
        """As an nn.Sequential of the same, by `normed`."""
        conv, norm, *rest = self
        assert isinstance(conv, Conv)
        assert isinstance(norm, Norm)
        x = normed(conv, norm, input)
        for layer in rest:
            x = layer(x)
        return x
