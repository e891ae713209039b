"""Numbers of parameters in closed form, for the tests of the networks."""

from torch import nn


def parameters(network: nn.Module) -> int:
    """Those of a whole network."""
    return sum(p.numel() for p in network.parameters())


def conv(before: int, after: int) -> int:
    """Those of a 3x3 convolution with bias."""
    return 9 * before * after + after


def dense(before: int, after: int) -> int:
    """Those of a fully connected layer."""
    return before * after + after
