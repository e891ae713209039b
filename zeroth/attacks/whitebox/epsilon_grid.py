"""The grid search over epsilon of the fast gradient methods (thesis Table 4), image by image.

Shapes: B images, n rows, Q grid points of a request.
"""

import torch
from torch import Tensor

# Table 4's ranges end here; its resolutions are a thousandth of them.
LARGEST = {"linf": 1.0, "l2": 10.0, "l1": 1000.0}


def check_grid(norm: str, largest: float | None, points: int, stride: int) -> float:
    """Return the largest epsilon, Table 4's where none is given.

    Raises:
        ValueError: a value that makes no grid.
    """
    if norm not in LARGEST:
        raise ValueError(f"norm must be 'linf', 'l2' or 'l1', got {norm!r}")
    if largest is not None and not largest > 0:
        raise ValueError(f"largest must be > 0 in [0, 1] pixels, or None for the thesis' value, got {largest}")
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    if not 1 <= stride <= points:
        raise ValueError(f"stride must lie in 1..points = {points}, got {stride}")
    return LARGEST[norm] if largest is None else largest


class EpsilonGrid:
    """Looks for the smallest of epsilons 1, ..., ``points`` (times a unit) that works, each image on its own.

    Every ``stride``-th epsilon is tried, upwards; below the first that works, those that were passed over are tried,
    upwards. With stride 1 this is the full search, which ends at the first that works: the smallest.

    Args:
        size: B.
        points: number of epsilons.
        stride: how many epsilons the first pass goes on at once.
        device: of the images.
    """

    def __init__(self, size: int, *, points: int, stride: int, device: torch.device) -> None:
        self.points = points
        self.next = torch.full((size,), stride, dtype=torch.int64, device=device)  # number of the next epsilon
        self.end = torch.full_like(self.next, points)  # number of the last epsilon of this pass
        self.hop = torch.full_like(self.next, stride)
        self.found = torch.zeros(size, dtype=torch.bool, device=device)

    def propose(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return the numbers (n, Q) of the next epsilons of rows, and how many of them stand for something, (n,)."""
        start, end, hop = (column[rows].unsqueeze(1) for column in (self.next, self.end, self.hop))
        numbers = start + hop * torch.arange(width, device=rows.device)
        # A first pass that does not come out even ends with the largest epsilon all the same.
        return numbers.minimum(end), (numbers < end + hop).sum(1)

    def enter(self, rows: Tensor, works: Tensor, count: Tensor) -> Tensor:
        """Take what became of the first ``count`` (n,) epsilons proposed.

        Args:
            rows: (n,).
            works: (n, Q) bool.
            count: (n,).

        Returns:
            (n,) bool: which rows have no epsilon left to try.
        """
        works = works & (torch.arange(works.shape[1], device=rows.device) < count.unsqueeze(1))
        hit, hop = works.any(1), self.hop[rows]
        at = self.next[rows] + hop * works.int().argmax(1)  # where the first that works stands
        self.found[rows] |= hit
        self.next[rows] = torch.where(hit, at - hop + 1, self.next[rows] + hop * count)
        self.end[rows] = torch.where(hit, torch.where(hop > 1, at.clamp_max(self.points) - 1, 0), self.end[rows])
        self.hop[rows] = torch.where(hit, 1, hop)
        return self.next[rows] >= self.end[rows] + self.hop[rows]
