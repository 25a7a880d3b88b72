"""Encoders: published sizes, stages, masks, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossguard.core import ModelError
from crossguard.models import ENCODERS, HCN, AudioCNN, Encoder, FrameCNN, OutlineNet, SeriesNet, VideoResNet

FRAMES = {"features": 5, "width": 8, "heads": 2, "layers": 2, "dropout": 0.0}
CASES: dict[str, tuple[dict[str, object], tuple[int, ...]]] = {
    "video": ({"width": 4}, (3, 8, 16, 16)),
    "hcn": ({"width": 8, "frames": 8}, (2, 8, 25, 3)),
    "series": ({"features": 6, "width": 4}, (13, 6)),
    "frames": ({"width": 2}, (3, 8, 16, 16)),
    "outline": ({"size": 16, "segments": 3, "width": 8}, (3, 8, 16, 16)),
    "audio": ({"front": "digits", "width": 2}, (1500,)),
    "transformer": (FRAMES, (9, 5)),
    "transformer gated": ({**FRAMES, "mixing": "gate", "window": 2, "pool": "mean"}, (9, 5)),
    "transformer token": ({**FRAMES, "pool": "token"}, (9, 5)),
    "transformer control": ({**FRAMES, "mixing": "mean", "pool": "mean"}, (9, 5)),
}
AXIS = {"video": 2, "hcn": 2, "series": 1, "frames": 2, "outline": 2, "audio": 1, "transformer": 1}  # of time
VIDEO = ("video", "frames", "outline")
OF_VALUES = [name for name in CASES if not ENCODERS[name.split()[0]].fixed]


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[Encoder, Tensor]:
    """A small encoder with batch statistics that are not trivial, in eval mode, and an input."""
    torch.manual_seed(0)
    options, shape = CASES[name]
    encoder = ENCODERS[name.split()[0]](**options).to(dtype)
    if name.startswith("transformer"):  # or what a last norm yields sums to 0, whatever the input
        for p in encoder.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    x = torch.rand(4, *shape, dtype=dtype)
    with torch.no_grad():
        encoder(x)
    return encoder.eval(), x


def test_every_encoder_is_tested() -> None:
    assert {name.split()[0] for name in CASES} == set(ENCODERS)


@pytest.mark.parametrize("name", CASES)
def test_stages_have_the_announced_channels_and_compose(name: str) -> None:
    encoder, x = built(name)
    whole = encoder(x)
    for stage in encoder.stages:
        assert encoder.get_submodule(stage) is not None
        part = encoder.run(x, to=stage)
        assert part.shape[1] == encoder.dims[stage]
        rest = part if stage == encoder.stages[-1] else encoder.run(part, after=stage)
        assert torch.equal(rest, whole)
        assert encoder.pool(part, None).shape == (4, encoder.dims[stage])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OF_VALUES)
def test_every_sample_has_a_gradient_of_its_own(name: str, dtype: torch.dtype) -> None:
    encoder, x = built(name, dtype)
    x.requires_grad_()
    y = encoder.pool(encoder(x), None)
    assert y.dtype == dtype
    gradient = torch.autograd.grad(y[1].sum(), x)[0]
    assert bool(gradient[1].abs().sum() > 0)
    assert not gradient[[0, 2, 3]].any()


@pytest.mark.parametrize("name", CASES)
def test_a_sample_is_answered_by_itself_alone(name: str) -> None:
    encoder, x = built(name)
    torch.testing.assert_close(encoder(x[2:3]), encoder(x)[2:3], rtol=1e-10, atol=1e-12)
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(encoder(x[order]), encoder(x)[order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OF_VALUES)
@pytest.mark.parametrize("over", ["time", "place", "every number"])
def test_what_is_masked_out_changes_nothing(name: str, over: str) -> None:
    encoder, x = built(name)
    axis = AXIS[name.split()[0]]
    if over == "time":
        mask = torch.ones(
            tuple(n if i in (0, axis) else 1 for i, n in enumerate(x.shape[: axis + 1])), dtype=torch.bool
        )
        mask.narrow(axis, 5, 3).fill_(False)
    elif over == "every number":
        mask = torch.rand(x.shape) < 0.7
    else:
        shape = (4, 1, *x.shape[2:]) if name in VIDEO else x.shape[: axis + 1]
        mask = torch.rand(shape) < 0.7
    hidden = ~mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim())).expand_as(x)
    other = torch.where(hidden, torch.full_like(x, 7.0), x)
    first, second = (encoder.pool(encoder(v, mask), mask) for v in (x, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, encoder.pool(encoder(x), None))
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(encoder.pool(encoder(leaf, mask), mask).sum(), leaf)[0]
    assert not gradient[hidden].any()
    assert bool(gradient.abs().sum() > 0)


@pytest.mark.parametrize("name", CASES)
def test_a_mask_of_all_that_is_real_is_no_mask(name: str) -> None:
    encoder, x = built(name)
    mask = torch.ones((4, 1, 8) if name in VIDEO else x.shape[: AXIS[name.split()[0]] + 1], dtype=torch.bool)
    torch.testing.assert_close(encoder.pool(encoder(x, mask), mask), encoder.pool(encoder(x), None))


def test_r3d_18_has_the_parameters_of_its_trunk() -> None:
    with torch.device("meta"):
        net = VideoResNet(width=64, blocks=(2, 2, 2, 2), stem=(3, 7, 7), stride=(1, 2, 2))
    assert sum(p.numel() for p in net.parameters()) == 33_371_472 - 205_200  # less the head: 400 x 512 + 400
    assert net.dims == {"stem": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}


def test_video_is_normalised_in_its_unit_and_its_background_is_neutral() -> None:
    net = VideoResNet(channels=1, width=4, mean=2000.0, std=500.0)
    x = torch.full((1, 1, 2, 2, 2), 3000.0)
    mask = torch.tensor([True, False]).view(1, 1, 1, 1, 2)
    assert net.prepare(x, mask).unique().tolist() == [0.0, 2.0]
    two = VideoResNet(channels=2, width=4, mean=(1.0, 2.0), std=(1.0, 4.0)).prepare(
        torch.full((1, 2, 1, 1, 1), 4.0), None
    )
    assert two.flatten().tolist() == [3.0, 0.5]


def test_video_about_its_own_mean_is_seen_alike_at_any_distance() -> None:
    net = VideoResNet(channels=1, width=4, mean=None, std=100.0)
    x = torch.tensor([2900.0, 3100.0, 0.0]).view(1, 1, 1, 1, 3)
    mask = torch.tensor([True, True, False]).view(1, 1, 1, 1, 3)
    assert net.prepare(x, mask).flatten().tolist() == [-1.0, 1.0, 0.0]
    assert net.prepare(x + 500, mask).flatten().tolist() == [-1.0, 1.0, 0.0]
    assert net.prepare(x, torch.zeros_like(mask)).flatten().tolist() == [0.0, 0.0, 0.0]
    assert net.prepare(x[..., :2], None).flatten().tolist() == [-1.0, 1.0]


def trained_video(**options: object) -> VideoResNet:
    """A small network of which no bias is 0, so that what lies beside a clip is not either."""
    torch.manual_seed(0)
    net = VideoResNet(width=4, **options).double()  # type: ignore[arg-type]
    net(torch.rand(4, 3, 16, 8, 8).double())
    for p in net.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    return net.eval()


@pytest.mark.parametrize(("stem", "stride"), [(3, 1), (3, 2), (2, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("frames", [1, 10])
def test_video_padding_changes_nothing(frames: int, stem: int, stride: int) -> None:
    net = trained_video(stem=(stem, 3, 3), stride=(stride, 2, 2), blocks=(1, 2, 1, 1), outline=True)
    clip = torch.rand(2, 3, frames, 8, 8).double()
    for size in (16, 32):
        padded = torch.cat([clip, torch.full((2, 3, size - frames, 8, 8), 9.0).double()], dim=2).requires_grad_()
        mask = (torch.arange(size) < frames).view(1, 1, -1).expand(2, -1, -1)
        for stage in net.stages:
            part, alone = net.run(padded, mask, to=stage), net.run(clip, to=stage)
            torch.testing.assert_close(part[:, :, : alone.shape[2]], alone)
            torch.testing.assert_close(net.pool(part, mask), net.pool(alone, None))
        (gradient,) = torch.autograd.grad(net.pool(net(padded, mask), mask).sum(), padded)
        assert not gradient[:, :, frames:].any()
        assert bool(gradient[:, :, :frames].any())


def test_video_padded_beside_longer_clips_is_answered_as_alone() -> None:
    net, x = trained_video(), torch.rand(3, 3, 16, 8, 8).double()
    lengths = torch.tensor([16, 7, 10])
    mask = (torch.arange(16) < lengths[:, None])[:, None]
    together = net.pool(net(x, mask), mask)
    for row, length in enumerate(lengths.tolist()):
        alone = x[row : row + 1, :, :length]
        torch.testing.assert_close(together[row : row + 1], net.pool(net(alone), None))


@pytest.mark.parametrize("training", [True, False])
def test_video_of_bodies_in_every_frame_is_masked_at_its_input_alone(training: bool) -> None:
    net, x = trained_video(outline=True).train(training), torch.rand(3, 3, 9, 8, 8).double()
    mask = torch.rand(3, 1, 9, 8, 8) < 0.5
    seen = net.prepare(x, mask)
    for stage in net.stages:
        layer = net.get_submodule(stage)
        assert isinstance(layer, torch.nn.Sequential)
        seen = layer(seen)  # as without a mask
    assert torch.equal(net(x, mask), seen)
    torch.testing.assert_close(net.pool(seen, mask), net.pool(seen, None))


def test_video_is_moved_in_training_alone() -> None:
    torch.manual_seed(0)
    net = VideoResNet(channels=1, width=4, mean=0.0, std=1.0, shift=1)
    x = torch.zeros(64, 1, 2, 5, 5)
    x[..., 2, 2] = 1.0
    assert torch.equal(net.eval().prepare(x, None), x)
    moved = net.train().prepare(x, None)
    assert torch.equal(moved[:, :, 0], moved[:, :, 1])  # a clip moves as a whole
    assert moved.flatten(1).sum(dim=1).unique().tolist() == [2.0]
    assert {tuple(at) for at in moved[:, 0, 0].nonzero()[:, 1:].tolist()} == {
        (i, j) for i in (1, 2, 3) for j in (1, 2, 3)
    }


def test_an_outline_is_its_difference_from_its_mean_and_its_changes_in_each_part() -> None:
    net = OutlineNet(size=(1, 4), segments=2, cell=1, width=2, shift=0)
    rows = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]  # no body in the last frame
    mask = torch.tensor(rows).bool().view(1, 1, 4, 1, 4)
    parts = net.prepare(torch.rand(1, 1, 4, 1, 4), mask)[0, :, :, 0]
    third = 1 / 3
    differs = [[third / 2, 0, -third / 2, 0], [-third / 2, 0, third / 2, 0]]
    torch.testing.assert_close(parts[0], torch.tensor(differs))
    assert parts[1].tolist() == [[0.5, 0, 0.5, 0], [0, 0, 0, 0]]
    coarse = OutlineNet(size=(2, 4), segments=2, cell=2, width=2, shift=0)
    twice = mask.expand(1, 1, 4, 2, 4)
    assert coarse.prepare(torch.rand(1, 1, 4, 2, 4), twice)[0, 1, 0, 0].tolist() == [0.25, 0.25]


def test_nothing_but_the_mask_moves_an_outline() -> None:
    encoder, x = built("outline")
    mask = torch.rand(4, 1, 8, 16, 16) < 0.7
    seen = encoder(x, mask)
    assert torch.equal(seen, encoder(torch.rand_like(x), mask))
    assert not torch.allclose(seen, encoder(x, torch.rand(4, 1, 8, 16, 16) < 0.7))
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(encoder(x.requires_grad_(), mask).sum(), x)
    assert not VideoResNet(outline=True).fixed


def test_hcn_has_the_published_size() -> None:
    net = HCN(frames=32, width=64)
    assert net.dims == {"streams": 128, "conv5": 128, "conv6": 256, "fc7": 512}
    x = torch.rand(2, 2, 32, 25, 3)
    shapes = [tuple(net.run(x, to=stage).shape) for stage in net.stages]
    assert shapes == [(2, 128, 2, 8, 8), (2, 128, 2, 4, 4), (2, 256, 2, 2, 2), (2, 512)]


def test_hcn_streams_are_positions_about_the_centre_and_differences() -> None:
    net = HCN(joints=2, coords=1, frames=3, width=4, centre=0, std=0.5)
    x = torch.tensor([[1.0, 2.0], [2.0, 5.0], [3.0, 5.0]]).view(1, 1, 3, 2, 1)
    streams = net.prepare(x, None)[0, :, 0]
    assert streams[0].tolist() == [[-2.0, 0.0], [0.0, 6.0], [2.0, 6.0]]
    assert streams[1].tolist() == [[0.0, 0.0], [2.0, 6.0], [2.0, 0.0]]
    lost = torch.tensor([True, True, False]).view(1, 1, 3)
    streams = net.prepare(x, lost)[0, :, 0]
    assert streams[0].tolist() == [[-1.0, 1.0], [1.0, 7.0], [0.0, 0.0]]
    assert streams[1].tolist() == [[0.0, 0.0], [2.0, 6.0], [0.0, 0.0]]
    shifted = net.prepare(x + 3.0, None)
    torch.testing.assert_close(shifted, net.prepare(x, None))


def test_hcn_an_absent_person_takes_no_part_and_order_does_not_matter() -> None:
    encoder, x = built("hcn")
    one = x[:, :1]
    mask = torch.tensor([True, False]).view(1, 2, 1).expand(4, 2, 8)
    torch.testing.assert_close(encoder(x, mask), encoder(one))
    middle = [encoder.pool(encoder.run(v, m, to="conv5"), m) for v, m in ((x, mask), (one, None))]
    torch.testing.assert_close(middle[0], middle[1])
    torch.testing.assert_close(encoder(x.flip(1)), encoder(x))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2), (4, 2, 1), (4, 1, 8), (4, 2, 8), (4, 2, 8, 25)])
def test_hcn_takes_masks_over_any_leading_axes(shape: tuple[int, ...]) -> None:
    encoder, x = built("hcn")
    mask = torch.ones(shape, dtype=torch.bool)
    torch.testing.assert_close(encoder(x, mask), encoder(x))
    mask[0] = False
    assert bool(torch.isfinite(encoder(x, mask)).all())
    torch.testing.assert_close(encoder(x, mask)[1:], encoder(x)[1:])


def test_series_padding_changes_nothing() -> None:
    encoder, x = built("series")
    padded = torch.cat([x, torch.full((4, 8, 6), 9.0, dtype=x.dtype)], dim=1)
    mask = (torch.arange(21) < 13).expand(4, -1)
    torch.testing.assert_close(encoder.pool(encoder(padded, mask), mask), encoder.pool(encoder(x), None))


@pytest.mark.parametrize("samples", [1000, 1024, 1025])
def test_audio_padding_changes_nothing(samples: int) -> None:
    encoder, x = built("audio")
    clip = 0.1 * x[:, :samples]
    padded = torch.cat([clip, torch.full((4, 900), 9.0, dtype=x.dtype)], dim=1)
    mask = (torch.arange(samples + 900) < samples).expand(4, -1)
    for stage in encoder.stages:
        part = encoder.run(padded, mask, to=stage)
        torch.testing.assert_close(part[:, :, : encoder.run(clip, to=stage).shape[2]], encoder.run(clip, to=stage))
    torch.testing.assert_close(encoder.pool(encoder(padded, mask), mask), encoder.pool(encoder(clip), None))


def test_audio_has_the_published_size() -> None:
    with torch.device("meta"):
        net = AudioCNN(width=32)
    assert net.dims == {"conv1": 32, "conv2": 64, "conv3": 128, "conv4": 256, "conv5": 1024}
    assert sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()) == 10
    small = AudioCNN(width=1)
    assert small.prepare(torch.zeros(1, 160000), None).shape == (1, 1, 400, 64)
    assert small(torch.zeros(1, 160000)).shape == (1, 32, 100)


def test_audio_hears_features_as_it_hears_waveforms() -> None:
    encoder, x = built("audio")
    assert isinstance(encoder, AudioCNN)
    assert encoder.frontend is not None
    bare = AudioCNN(front=None, mels=32, width=2).double().eval()
    bare.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(bare(encoder.frontend(x)), encoder(x), rtol=1e-12, atol=1e-12)
    gaps = torch.tensor([[False, True, False, False, True], [False, False, False, True, False]])
    steps = bare.real(gaps, 2)
    assert steps is not None
    assert steps.tolist() == [[True, True], [True, False]]
    with pytest.raises(ModelError, match="settings only of a front end"):
        AudioCNN(front=None, settings={"hop": 100})


def test_a_picture_is_a_video_of_one_frame() -> None:
    encoder, x = built("frames")
    still = x[:, :, 0]
    assert torch.equal(encoder(still), encoder(still[:, :, None]))
    mask = torch.rand(4, 1, 16, 16) < 0.5
    assert torch.equal(encoder(still, mask), encoder(still[:, :, None], mask[:, :, None]))
    whole = torch.cat([encoder(x[:, :, t]) for t in range(8)], dim=2)
    torch.testing.assert_close(encoder(x), whole)


@pytest.mark.parametrize(
    ("make", "shape", "said"),
    [
        (lambda: VideoResNet(width=4), (1, 1, 8, 16, 16), r"\(N, 3, T, H, W\)"),
        (lambda: VideoResNet(width=4), (1, 3, 16, 16), "NCTHW"),
        (lambda: HCN(width=4, frames=8), (1, 2, 9, 25, 3), r"\(N, M, 8, 25, 3\)"),
        (lambda: SeriesNet(features=6), (1, 20, 5), r"\(N, T, 6\)"),
        (lambda: FrameCNN(width=2), (1, 1, 16, 16), r"\(N, 3, H, W\)"),
        (lambda: AudioCNN(width=2), (1, 2, 1600), "NT"),
        (lambda: AudioCNN(front=None, width=2), (1, 20, 32), r"\(N, T, 64\)"),
    ],
)
def test_wrong_shapes_are_refused(make: object, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        make()(torch.zeros(shape))  # type: ignore[operator]


@pytest.mark.parametrize(
    "make",
    [
        lambda: HCN(centre=25),
        lambda: VideoResNet(mean=(0.1, 0.2)),
        lambda: VideoResNet(blocks=(1, 0, 1, 1)),
        lambda: VideoResNet(shift=-1),
        lambda: OutlineNet(shift=-1),
        lambda: OutlineNet(size=(16, 1)),
    ],
)
def test_impossible_arguments_are_refused(make: object) -> None:
    with pytest.raises(ModelError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("video", {"width": 0}, "width is 0"),
        ("video", {"channels": -1}, "channels is -1"),
        ("video", {"stride": (0, 1, 1)}, "stride is 0"),
        ("video", {"std": (0.2, 0.0, 0.2)}, "std: found 0"),
        ("hcn", {"frames": 0}, "frames is 0"),
        ("frames", {"std": 0.0}, "std: found 0"),
        ("audio", {"time_poolings": 6}, "time_poolings 6"),
        ("audio", {"settings": {"hop": 0}}, "hop is 0"),
        ("hcn", {"std": 0.0}, "std: found 0"),
        ("series", {"features": 3, "kernel": 4}, "kernel is 4, expected an odd number"),
        ("series", {"features": 3, "std": -1.0}, "std: found -1"),
    ],
)
def test_sizes_that_cannot_be(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ENCODERS[name](**options)


@pytest.mark.parametrize("length", [1, 2, 5, 9, 13])
def test_series_steps_are_real_whatever_the_padding(length: int) -> None:
    encoder, _ = built("series")
    steps = encoder(torch.zeros(1, length, 6).double()).shape[2]
    for size in range(length, length + 20):
        mask = (torch.arange(size) < length).expand(2, -1)
        x = encoder(torch.zeros(2, size, 6).double(), mask)
        real = encoder.real(mask, x.shape[2])
        assert real is not None
        assert real.tolist() == [[step < steps for step in range(x.shape[2])]] * 2
    assert encoder.real(None, steps) is None
    for present in (torch.tensor([True, False]), torch.tensor([[True], [False]])):
        real = encoder.real(present, 3)
        assert real is not None
        assert real.tolist() == [[True] * 3, [False] * 3]
    with pytest.raises(ModelError, match="a map of 9 frames"):
        encoder.real(torch.ones(2, 5, dtype=torch.bool), 9)
