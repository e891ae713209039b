import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroth.oracles import ImageStreams


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True), st.integers(1, 5)
)
def test_a_draw_depends_on_seed_and_index_and_history_alone(seed, indices, cut):
    whole = ImageStreams(seed, indices)
    rows = torch.arange(len(indices))
    first, second = whole.randn(rows, (3, 7)), whole.rand(rows, (5,))
    cut = min(cut, len(indices) - 1)
    parts = [ImageStreams(seed, indices[:cut]), ImageStreams(seed, indices[cut:])]
    assert torch.equal(torch.cat([p.randn(torch.arange(len(p.keys)), (3, 7)) for p in parts]), first)
    # the order of rows, and other rows drawing in between, change nothing
    assert torch.equal(parts[1].rand(torch.arange(len(indices) - cut).flip(0), (5,)).flip(0), second[cut:])


def test_images_and_seeds_draw_different_numbers():
    draws = torch.cat([ImageStreams(seed, range(4)).randn(torch.arange(4), (8,)) for seed in (0, 1)])
    assert len({tuple(row) for row in draws.tolist()}) == 8


def test_moments_and_sphere():
    streams = ImageStreams(0, range(50))
    draws = streams.randn(torch.arange(50), (4000,))
    assert abs(float(draws.mean())) < 4 / 200_000**0.5
    assert abs(float(draws.var()) - 1) < 4 * (2 / 200_000) ** 0.5
    points = streams.sphere(torch.arange(50), (200, 1, 2, 2))
    assert torch.allclose(points.flatten(2).norm(dim=2), torch.ones(50, 200), atol=1e-6)
    moments = torch.einsum("bqi,bqj->ij", points.flatten(2), points.flatten(2)) / 10_000
    assert torch.allclose(moments, torch.eye(4) / 4, atol=0.01)


def test_bad_keys_are_named():
    with pytest.raises(ValueError, match=r"seed must be >= 0 and below 2.32, got -1"):
        ImageStreams(-1, [0])
    with pytest.raises(ValueError, match=r"below 2.32, got 4294967296"):
        ImageStreams(2**32, [0])
    with pytest.raises(ValueError, match="indices must be dataset indices >= 0, got -5"):
        ImageStreams(0, [3, -5])
