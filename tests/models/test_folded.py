from __future__ import annotations

import pytest
import torch
from torch import nn

from crossguard.models.audio import AudioCNN
from crossguard.models.folded import Norm, Normed, normed
from crossguard.models.frames import FrameCNN
from crossguard.models.series import SeriesNet
from crossguard.models.skeleton import HCN
from crossguard.models.video import VideoResNet

CONVS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


def _used(norm: nn.Module) -> None:
    """Statistics and weights as of a trained norm."""
    assert isinstance(norm, Norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_is_the_norm_of_the_convolution_and_so_are_all_gradients(dims: int, bias: bool) -> None:
    conv_of, norm_of = CONVS[dims]
    conv, norm = conv_of(3, 5, 3, 2, 1, bias=bias).double(), norm_of(5).double()
    _used(norm)
    x = torch.randn(2, 3, *[7] * dims, dtype=torch.double, requires_grad=True)
    for layer in (conv, norm):
        layer.eval()
    wanted, found = norm(conv(x)), normed(conv, norm, x)
    torch.testing.assert_close(found, wanted)
    cotangent = torch.randn_like(wanted)
    over = [x, *conv.parameters(), *norm.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((found * cotangent).sum(), over), torch.autograd.grad((wanted * cotangent).sum(), over)
    )


def test_training_is_as_ever_to_the_bit_and_moves_the_statistics() -> None:
    torch.manual_seed(0)
    layers = nn.Conv1d(3, 5, 3, bias=False), nn.BatchNorm1d(5)
    x = torch.randn(4, 3, 9)
    twin = nn.Sequential(nn.Conv1d(3, 5, 3, bias=False), nn.BatchNorm1d(5), nn.ReLU())
    ours = Normed(*layers, nn.ReLU())
    twin.load_state_dict(ours.state_dict())  # one layout of weights, either way
    torch.testing.assert_close(ours(x), twin(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.state_dict(), twin.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(x), twin.eval()(x))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (VideoResNet(width=4, outline=True), (2, 3, 8, 16, 16)),
        (SeriesNet(features=3, width=4), (2, 30, 3)),
        (HCN(joints=20, frames=16, width=8), (2, 1, 16, 20, 3)),
        (FrameCNN(channels=3, width=4), (2, 3, 3, 16, 16)),
        (AudioCNN(width=4), (2, 16000)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_no_encoder_normalises_a_map_of_its_own_in_eval_mode(net: nn.Module, shape: tuple[int, ...]) -> None:
    heard: list[nn.Module] = []
    norms = [m for m in net.modules() if isinstance(m, Norm)]
    for norm in norms:
        norm.register_forward_hook(lambda module, *_: heard.append(module))
    net.train()(torch.rand(shape))
    assert len(heard) == len(norms) > 0
    heard.clear()
    net.eval()(torch.rand(shape))
    assert not heard
