"""Random numbers depend on the key alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossguard.core.random import bits, combine, direction, mix, sample_keys, text_key, uniform


def test_uniform_looks_uniform() -> None:
    u = uniform(torch.arange(200), 500)
    assert u.min() >= -1
    assert u.max() <= 1
    assert abs(float(u.mean())) < 0.01
    assert abs(float(u.var()) - 1 / 3) < 0.01
    assert torch.equal(u, u.float().double())


def test_splitmix_matches_its_published_first_numbers() -> None:
    # SplitMix64 seeded with 1234567 (the reference implementation's own test vector).
    expected = [6457827717110365317, 3203168211198807973, -8629252141511181193, 4593380528125082431]
    found = bits(torch.tensor([1234567]), 4)[0].tolist()
    assert found == expected


def test_rows_do_not_depend_on_their_neighbours() -> None:
    keys = combine(torch.arange(64), 7, text_key("rgb"))
    whole = direction(keys, 100)
    assert torch.equal(whole[10:11], direction(keys[10:11], 100))
    assert torch.equal(whole.flip(0), direction(keys.flip(0), 100))
    assert torch.allclose(whole.norm(dim=1), torch.ones(64, dtype=torch.float64))


def test_directions_point_everywhere() -> None:
    d = direction(torch.arange(4000), 8)
    assert d.mean(dim=0).abs().max() < 0.02
    assert (d.T @ d / 4000 - torch.eye(8) / 8).abs().max() < 0.01


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**31))
def test_content_keys_follow_the_content(n: int, seed: int) -> None:
    x = {"a": torch.randn(n, 3, 2, generator=torch.Generator().manual_seed(seed)), "b": torch.ones(n, 4)}
    keys = sample_keys(None, x)
    order = torch.randperm(n)
    assert torch.equal(keys[order], sample_keys(None, {k: v[order] for k, v in x.items()}))
    assert len(set(keys.tolist())) == n
    changed = {**x, "a": x["a"].clone()}
    changed["a"][0, 0, 0] += 1
    assert sample_keys(None, changed)[0] != keys[0]


def test_ids_give_keys_by_name() -> None:
    x = {"a": torch.zeros(3, 2)}
    assert torch.equal(sample_keys(["u", "v", "w"], x)[1:2], sample_keys(["v"], {"a": torch.ones(1, 2)}))
    assert torch.equal(sample_keys(torch.tensor([4, 5, 6]), x)[2:], sample_keys(torch.tensor([6]), x))


def test_single_numbers_give_keys() -> None:
    x = {"a": torch.tensor([1.0, 2.0, 1.0]), "b": torch.arange(3)}
    assert len(set(sample_keys(None, x).tolist())) == 3
    assert sample_keys(None, {"a": torch.zeros(0), "b": torch.zeros(0, 4)}).shape == (0,)


def test_a_direction_is_that_of_its_free_entries() -> None:
    keys, free = torch.arange(7), (torch.arange(40) < 10).expand(7, -1)
    found = direction(keys, 40, free)
    assert torch.equal(found[:, :10], direction(keys, 10))
    assert not found[:, 10:].any()


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def splitmix(x: np.ndarray) -> np.ndarray:
    """The reference implementation's finaliser, in unsigned arithmetic."""
    z = x.view(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [0, 1, 3, 2**16 - 1, 2**16, 2**16 + 1, 2**17, 5 * 2**16 + 7])
def test_the_bits_are_the_same_at_any_size(count: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for threads in (1, 2):  # which only decide how much is mixed at a time
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        x = (np.arange(count) - count // 2) * 0x1E3779B97F4A7C15
        given_ = torch.from_numpy(x).to(device)
        assert np.array_equal(mix(given_).cpu().numpy(), splitmix(x))
        assert np.array_equal(given_.cpu().numpy(), x), "what was given stays"
        if count:
            assert np.array_equal(mix(given_[0]).cpu().numpy(), splitmix(x[:1])[0])


@pytest.mark.parametrize("device", DEVICES)
def test_the_bits_are_the_same_in_any_layout(device: str) -> None:
    x = np.arange(300 * 500 * 2).reshape(300, 1000) * 0x1E3779B97F4A7C15
    whole = torch.from_numpy(x).to(device)
    for view, expected in (
        (whole[:, ::2], x[:, ::2]), (whole.T, x.T), (whole[:, :1].expand(-1, 1000), np.repeat(x[:, :1], 1000, axis=1)),
    ):  # fmt: skip
        assert np.array_equal(mix(view).cpu().numpy(), splitmix(np.ascontiguousarray(expected)))
    assert np.array_equal(whole.cpu().numpy(), x), "what was given stays"


@pytest.mark.parametrize("device", DEVICES)
def test_wide_rows_begin_as_narrow_ones_do(device: str) -> None:
    keys = torch.tensor([3, -8, 2**62], device=device)
    for draw in (bits, uniform):
        wide = draw(keys, 70_000)
        assert torch.equal(wide[:, :50], draw(keys, 50))
        assert torch.equal(wide[1:2], draw(keys[1:2], 70_000))
        assert torch.equal(wide.cpu(), draw(keys.cpu(), 70_000))
    reference = (bits(keys, 70_000).cpu().numpy().view(np.uint64) >> np.uint64(40)) * 2.0**-23 - 1
    assert np.array_equal(uniform(keys, 70_000).cpu().numpy(), reference)
