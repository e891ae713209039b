"""CIFAR ResNets: published sizes, where the shortcuts are convolved, the maps of the stages."""

import pytest
import torch
from torch import nn

from tests.networks.counting import parameters
from zeroth.networks import CIFARResNet


@pytest.mark.parametrize(
    ("depth", "published"),
    # He et al., table 6, counts identity shortcuts; two 1x1 convolutions with BatchNorm come on top.
    [(20, 269_722), (32, 464_154), (110, 1_727_962)],
)
def test_parameters_and_depth(depth: int, published: int) -> None:
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert parameters(CIFARResNet(depth=depth)) == published + shortcuts
    # The depth counts the stem, two convolutions a block and the last layer.
    main_path = [m for m in CIFARResNet(depth=depth).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(main_path) + 1 == depth


def test_the_shortcut_is_convolved_only_where_the_shape_changes() -> None:
    blocks = [block for stage in CIFARResNet(depth=20).stages for block in stage]
    changing = [isinstance(block.shortcut, nn.Sequential) for block in blocks]
    assert changing == [False, False, False, True, False, False, True, False, False]


def test_stages_halve_the_maps_and_double_the_widths() -> None:
    network = CIFARResNet(depth=8).eval()
    shapes = []
    maps = network.stem(network.normalize(torch.rand(1, 3, 32, 32)))
    for stage in network.stages:
        maps = stage(maps)
        shapes += [tuple(maps.shape[1:])]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("depth", [19, 21, 2, 0])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6 n \\+ 2.*got depth={depth}$"):
        CIFARResNet(depth=depth)
