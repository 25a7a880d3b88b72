"""Latents in one pass: which samples, at which depth, and how much is held meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard import Batch, InputError, ModelError
from crossguard.diagnostics.latents import latents, rest
from crossguard.models import ENCODERS
from crossguard.models.fusion import FUSIONS


def model(fusion: str = "concat", **options: object) -> cg.FusionModel:
    torch.manual_seed(0)
    encoders = {"a": ENCODERS["series"](features=3, width=2), "b": ENCODERS["series"](features=2, width=2)}
    return cg.FusionModel(encoders, FUSIONS[fusion](**options), 3)


def batches(count: int, size: int, *, classes: int = 3, several: bool = False, first: int = 0) -> Iterator[Batch]:
    for start in range(first, first + count, size):
        n = min(size, first + count - start)
        index = torch.arange(start, start + n)
        noise = (index[:, None, None] * torch.arange(1, 25).view(8, 3)).sin()
        x = {"a": noise + index[:, None, None] % 17, "b": noise[..., :2] * (index[:, None, None] % 5)}
        targets = index % classes
        if several:
            targets = torch.stack([(index % (c + 2) == 0) for c in range(classes)], dim=1).float()
        ids, groups = tuple(f"clip{i}" for i in index.tolist()), tuple(f"g{i // 4}" for i in index.tolist())
        yield Batch(x, targets, {}, ids, groups)


def test_keeps_so_many_of_each_class_whatever_the_order_and_the_batches() -> None:
    net = model()
    net.train()
    some = latents(net, batches(200, 7), most=10, seed=3)
    assert len(some) == 30
    assert some.targets.bincount().tolist() == [10, 10, 10]
    assert some.seen.tolist() == [67, 67, 66]
    assert net.training
    shuffled = list(batches(200, 50))[::-1]
    again = latents(net, shuffled, most=10, seed=3)
    assert again.ids == some.ids
    assert again.groups == some.groups
    torch.testing.assert_close(again.values["fused"], some.values["fused"])
    other = latents(net, shuffled, most=10, seed=4)
    assert other.ids != some.ids


def test_are_those_of_the_model_at_every_branch_and_fused() -> None:
    net = model().eval()
    (batch,) = batches(12, 12)
    found = latents(net, [batch], features=True)
    order = [batch.ids.index(i) for i in found.ids]
    output = net(batch.inputs, need=("latents",))
    assert output.latents is not None
    assert set(found.values) == {"a", "b", "fused"}
    for name, value in output.latents.items():
        torch.testing.assert_close(found.values[name], value[order].detach())
    torch.testing.assert_close(found.logits, output.logits[order].detach())
    torch.testing.assert_close(rest(net)(found.features).logits, found.logits)


def test_several_labels_stay_for_any_of_them() -> None:
    found = latents(model(), batches(120, 16, several=True), most=5)
    assert bool((found.targets.sum(dim=0) >= 5).all())
    assert bool((found.targets.sum(dim=1) > 0).all())
    assert len(found) <= 15
    assert found.seen.tolist() == [60, 40, 30]


def test_what_is_absent_is_said() -> None:
    (batch,) = batches(6, 6)
    there = torch.tensor([True, False] * 3)
    found = latents(model(), [Batch(batch.inputs, batch.targets, {"a": there}, batch.ids)])
    order = [batch.ids.index(i) for i in found.ids]
    assert torch.equal(found.present["a"], there[order])
    assert bool(found.present["b"].all())
    assert bool(found.present["fused"].all())


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv1d(3, 4, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.body(inputs["a"].transpose(1, 2)).mean(dim=2)[:, :3]


def test_submodules_of_anyones_model() -> None:
    net = Plain()
    (batch,) = batches(6, 6)
    found = latents(net, [batch], at={"fused": "body"})
    order = [batch.ids.index(i) for i in found.ids]
    expected = net.body(batch.inputs["a"].transpose(1, 2)).mean(dim=2)
    torch.testing.assert_close(found.values["fused"], expected[order].detach())
    with pytest.raises(ModelError, match="no latents; name submodules"):
        latents(net, [batch])
    with pytest.raises(ModelError, match="need a model with branches"):
        latents(net, [batch], features=True)
    with pytest.raises(ModelError, match="no submodule 'bodi' for the latent 'fused'; did you mean 'body'"):
        latents(net, [batch], at={"fused": "bodi"})


def test_submodules_of_a_model_with_branches_beside_what_they_hand_over() -> None:
    net = model().eval()
    (batch,) = batches(6, 6)
    plain, found = (latents(net, [batch], features=f, at={"layer1": "encoders.a.layer1"}) for f in (False, True))
    assert set(found.values) == {"a", "b", "fused", "layer1"}
    for name, value in plain.values.items():
        torch.testing.assert_close(found.values[name], value)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="most is 0"):
        latents(model(), batches(4, 4), most=0)
    with pytest.raises(InputError, match="no sample"):
        latents(model(), [])


def held() -> int:
    """Bytes of all tensors that are alive."""
    found = [x for x in gc.get_objects() if type(x) is Tensor]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}.values())


def test_memory_does_not_grow_with_the_number_of_clips() -> None:
    net = model()
    peaks: list[int] = []
    for count in (600, 3600):
        peak, gcs = 0, 0

        def watched(count: int = count) -> Iterator[Batch]:
            nonlocal peak, gcs
            for batch in batches(count, 100):
                gcs += 1
                if gcs % (count // 600) == 0:
                    peak = max(peak, held())
                yield batch

        latents(net, watched(), most=40)
        peaks.append(peak)
    assert peaks[1] < 1.2 * peaks[0]


def test_a_latent_without_a_row_a_sample_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, inputs: dict[str, Tensor], need: tuple[str, ...] = ()) -> cg.Output:
            return cg.Output(torch.zeros(6, 3), latents={"fused": torch.zeros(2, 3)})

    with pytest.raises(ModelError, match="2 rows for 6 samples"):
        latents(Odd(), batches(6, 6))


def test_features_are_what_fuse_takes() -> None:
    net = model("mmtm").eval()
    found = latents(net, batches(6, 6), features=True)
    assert found.features["a"].value.dim() == 3
    torch.testing.assert_close(net.fuse(found.features).logits, found.logits)


def test_maps_of_clips_of_different_lengths_keep_their_masks() -> None:
    torch.manual_seed(0)
    encoders = {n: ENCODERS["transformer"](features=d, width=8, heads=2, layers=1) for n, d in (("a", 3), ("b", 2))}
    net = cg.FusionModel(encoders, FUSIONS["transformer"](join="tokens", width=8, layers=1, heads=2), 3).eval()

    def clips() -> Iterator[Batch]:
        for number, batch in enumerate(batches(12, 4)):
            length = 8 - 2 * number
            x = {n: v[:, :length] for n, v in batch.inputs.items()}
            real = torch.arange(length) < torch.tensor([length, 1, 2, length])[:, None]
            # Only some batches say that b is there as a whole.
            mask = {"a": real} if number else {"a": real, "b": torch.ones(4, 8, dtype=torch.bool)}
            yield Batch({"a": x["a"], "b": batch.inputs["b"]}, batch.targets, mask, batch.ids)

    found = latents(net, clips(), features=True)
    assert found.features["a"].value.shape == (12, 8, 8)
    answer = rest(net)(found.features)
    torch.testing.assert_close(answer.logits, found.logits)
    for estimate in cg.diagnostics.convexity(rest(net), found.features, found.targets, pairs=50):
        assert estimate.defined


def of_frames(frames: int, masked: bool, tag: str) -> Batch:
    x = torch.randn(4, frames, 6, generator=torch.Generator().manual_seed(frames))
    mask = {"x": torch.ones(4, frames, dtype=torch.bool)} if masked else {}
    return Batch({"x": x}, torch.arange(4) % 2, mask, tuple(f"{tag}{i}" for i in range(4)))


@pytest.mark.parametrize("lengths", [(4, 2), (4, 7), (4, 4), (1, 3)])
@pytest.mark.parametrize("masked", [(True, False), (False, True), (False, False)])
def test_clips_of_batches_without_masks_are_as_long_as_their_own_batch(
    lengths: tuple[int, int], masked: tuple[bool, bool]
) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS["transformer"](features=6, width=16, layers=0, heads=2)
    net = cg.FusionModel({"x": encoder}, FUSIONS["transformer"](width=16, layers=1, heads=2), 2).eval()
    parts = [of_frames(n, m, tag) for n, m, tag in zip(lengths, masked, "ab", strict=True)]
    for most in (3, 100):
        found = latents(net, parts, features=True, most=most)
        with torch.no_grad():
            torch.testing.assert_close(rest(net)(found.features).logits, found.logits)


def test_masks_that_do_not_tell_an_axis_apart_do_so_where_clips_were_padded() -> None:
    torch.manual_seed(0)
    encoder = ENCODERS["transformer"](features=6, width=16, layers=0, heads=2)
    net = cg.FusionModel({"x": encoder}, FUSIONS["transformer"](width=16, layers=1, heads=2), 2).eval()
    whole, frames = of_frames(5, False, "a"), of_frames(3, True, "b")
    for there in (torch.tensor([True, True, False, True]), torch.tensor([[True], [True], [False], [True]])):
        some = Batch(whole.inputs, whole.targets, {"x": there}, whole.ids)
        for parts in ([some, frames], [frames, some], [some, of_frames(3, False, "b")]):
            found = latents(net, parts, features=True)
            with torch.no_grad():
                torch.testing.assert_close(rest(net)(found.features).logits, found.logits)
