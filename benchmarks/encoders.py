"""A step of an attack on each convolutional encoder, beside the same one that normalises after its convolutions.

python benchmarks/encoders.py           # forward and the gradient at the input, eval mode, one thread

What `models/folded.py` saves. The quickest of rounds that take turns, in processor seconds, which other work disturbs
less than those of a clock.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from unittest import mock

import torch
from torch import Tensor, nn

from crossguard.models import audio, folded, frames, series, video
from crossguard.models.encoder import Encoder
from crossguard.models.folded import Conv, Norm
from crossguard.models.skeleton import HCN


def encoders() -> dict[str, tuple[Encoder, Tensor]]:
    """The encoders of the project's studies, and R3D-18, each with a batch."""
    depth = video.VideoResNet(channels=1, stem=(5, 3, 3), stride=(4, 2, 2), mean=None, std=100.0, outline=True)
    r3d18 = video.VideoResNet(width=64, blocks=(2, 2, 2, 2), stem=(3, 7, 7), stride=(1, 2, 2))
    return {
        "depth, 16x16, 16 frames": (depth, torch.randn(64, 1, 16, 16, 16)),
        "RGB, 48x48, 16 frames": (video.VideoResNet(), torch.rand(16, 3, 16, 48, 48)),
        "R3D-18, 112x112, 8 frames": (r3d18, torch.rand(1, 3, 8, 112, 112)),
        "skeleton, 20 joints, 16 frames": (HCN(joints=20, frames=16, width=24), torch.randn(64, 1, 16, 20, 3)),
        "inertial, 270 times": (series.SeriesNet(features=3), torch.randn(64, 270, 3)),
        "sound, 1 s at 16 kHz": (audio.AudioCNN(width=16), torch.randn(8, 16000)),
        "pictures, 4 of 48x48": (frames.FrameCNN(), torch.rand(16, 3, 4, 48, 48)),
    }


def apart(conv: Conv, norm: Norm, x: Tensor) -> Tensor:
    """The two layers one after the other."""
    return norm(conv(x))


def step(net: nn.Module, x: Tensor) -> float:
    """Processor seconds of one forward and the gradient at the input."""
    leaf = x.clone().requires_grad_()
    start = time.process_time()
    torch.autograd.grad(net(leaf).sum(), leaf)
    return time.process_time() - start


def main() -> None:
    """One line an encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    print(f"torch {torch.__version__}, {given.threads} thread(s)")
    users = (folded, video, series, audio, frames)
    for name, (net, x) in encoders().items():
        net.eval().requires_grad_(False)
        step(net, x)
        ours, plain = [], []
        for _ in range(given.rounds):
            ours.append(step(net, x))
            with ExitStack() as patches:
                for module in users:
                    patches.enter_context(mock.patch.object(module, "normed", apart))
                plain.append(step(net, x))
        print(f"{name:31}{1e3 * min(ours):7.1f} of {1e3 * min(plain):7.1f} ms: {min(ours) / min(plain):.2f}")


if __name__ == "__main__":
    main()
