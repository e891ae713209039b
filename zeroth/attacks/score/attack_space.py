"""The small spaces in which coordinate descent moves large images, and which of their coordinates it draws.

Shapes: n rows, Q coordinates a row, P pixels that one coordinate moves, C x H x W pixels, m = C h w coordinates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Importance is looked at on so many regions each way (thesis section 3.2.4).
REGIONS = 8
# A region that never changed is not ruled out for good: it is drawn once all others are.
NEVER = 1e-30


class AttackSpace:
    r"""Perturbations y (C, h, w) and the bilinear upscaling D to pixels (thesis section 3.2.2).

    A coordinate of y moves the few pixels around it, by the weights of its column of D; D is the identity where the
    space is as large as the image.

    Args:
        side: h and w, at most the image's own; None for the pixels themselves.
        shape: (C, H, W) of the images.
        device: of the images.

    Attributes:
        shape: (C, h, w).
        size: m.
        whole: whether the space is that of the pixels.
    """

    def __init__(self, side: int | None, shape: tuple[int, int, int], device: torch.device) -> None:
        channels, self.height, self.width = shape
        self.shape = (channels, min(side or self.height, self.height), min(side or self.width, self.width))
        self.size = channels * self.shape[1] * self.shape[2]
        self.whole = self.shape[1:] == (self.height, self.width)
        self._first_row, self._row_weights = _hats(self.shape[1], self.height, device)
        self._first_column, self._column_weights = _hats(self.shape[2], self.width, device)

    def upscale(self, y: Tensor) -> Tensor:
        """Return D(y): (n, m) -> (n, C H W)."""
        if self.whole:
            return y
        return _resize(y.unflatten(1, self.shape), (self.height, self.width)).flatten(1)

    def touched(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Return which pixels (n, Q, P) each coordinate (n, Q) moves, as flat numbers, and their weights in D."""
        _, height, width = self.shape
        channel, place = coordinates // (height * width), coordinates % (height * width)
        row, column = place // width, place % width
        down, across = self._row_weights.shape[1], self._column_weights.shape[1]
        rows = (self._first_row[row].unsqueeze(-1) + torch.arange(down, device=row.device)).unsqueeze(-1)
        columns = (self._first_column[column].unsqueeze(-1) + torch.arange(across, device=row.device)).unsqueeze(-2)
        pixels = (channel[..., None, None] * self.height + rows) * self.width + columns  # (n, Q, down, across)
        weights = self._row_weights[row].unsqueeze(-1) * self._column_weights[column].unsqueeze(-2)
        return pixels.flatten(2), weights.flatten(2)

    def enlarge(self, y: Tensor, larger: "AttackSpace") -> Tensor:
        """Return perturbations (n, m) in a larger space, (n, m'), bilinearly (thesis section 3.2.3)."""
        return _resize(y.unflatten(1, self.shape), larger.shape[1:]).flatten(1)

    def importance(self, y: Tensor) -> Tensor:
        """Return the probabilities (n, m) by which coordinates are drawn, each row's sum 1 (thesis section 3.2.4).

        The largest absolute change in each of 8 x 8 regions of each channel, the same for all its coordinates: at
        32 x 32 a maximum over 4 x 4. Uniform where nothing has changed.
        """
        regions = F.adaptive_max_pool2d(
            y.unflatten(1, self.shape).abs(), [min(REGIONS, side) for side in self.shape[1:]]
        )
        change = F.interpolate(regions, size=self.shape[1:], mode="nearest-exact").flatten(1)
        total = change.sum(1, keepdim=True)
        return torch.where(total > 0, change / total.clamp_min(torch.finfo(y.dtype).tiny), 1 / self.size)


def draw_coordinates(uniform: Tensor, number: int, probabilities: Tensor | None = None) -> Tensor:
    r"""Draw coordinates without replacement, (n, number).

    One after the other, each by its probability among those that are left: that is the order in which exponential
    clocks of these rates ring, :math:`-\log u_i / p_i`.

    Args:
        uniform: (n, m) numbers u on [0, 1), the rows' own draws.
        number: at most m.
        probabilities: (n, m) p; None for the same for all.
    """
    clocks = -uniform.log()
    if probabilities is not None:
        clocks = clocks / probabilities.clamp_min(NEVER)
    return clocks.topk(number, dim=1, largest=False).indices


def _resize(y: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(y, size=size, mode="bilinear", align_corners=False)


def _hats(small: int, large: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where in ``large`` each of ``small`` entries of a line begins to count, (small,), and its weights there.

    The weights (small, P) are a column of linear interpolation each, which is zero outside a window of P.
    """
    columns = F.interpolate(torch.eye(small).unsqueeze(0), size=large, mode="linear", align_corners=False)[0]
    window = int((columns > 0).sum(1).max())
    first = (columns > 0).int().argmax(1).clamp_max(large - window)
    weights = columns.gather(1, first.unsqueeze(1) + torch.arange(window))
    return first.to(device), weights.to(device)
