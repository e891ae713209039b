"""The search over c, the weight of the victim's part in a loss c f + distance, by attacks that look for the nearest.

Shapes: B images, n rows.
"""

import torch
from torch import Tensor

from zeroth.attacks.losses import check_kappa

# Beyond it the published programs do not go; a constant that grows without end would end as inf, and a step as NaN.
LARGEST = 1e10
# A loss that has not fallen below this share of what it was one window ago is taken to stand still.
PLATEAU = 0.9999


class ConstantSearch:
    """Each image's c: raised tenfold until a search succeeds, then bisected (Carlini and Wagner, 2017).

    A search is so many iterations at one c. An image's search ends by itself, at its last iteration or when its loss
    stands still, whatever its neighbours do; so images are in different iterations of different searches.

    Args:
        size: B.
        initial: the first c.
        iterations: of one search.
        searches: number of c's an image tries; None for no end.
        windows: the loss is compared so many times a search, and a search whose loss stands still ends; 0 for never.
        device: of the images.

    Attributes:
        constant: (B,) c.
        iteration: (B,) int64, iterations of the running search that are done.
        done: (B,) int64, searches that are done.
    """

    def __init__(
        self,
        size: int,
        *,
        initial: float,
        iterations: int,
        searches: int | None,
        windows: int,
        device: torch.device,
    ) -> None:
        self.iterations, self.searches = iterations, searches
        self.window = max(1, iterations // windows) if windows else None
        self.constant = torch.full((size,), initial, dtype=torch.float32, device=device)
        self.low = torch.zeros(size, device=device)  # the largest c that failed
        self.high = torch.full((size,), torch.inf, device=device)  # the smallest c that worked
        self.iteration = torch.zeros(size, dtype=torch.int64, device=device)
        self.done = torch.zeros_like(self.iteration)
        self.worked = torch.zeros(size, dtype=torch.bool, device=device)  # the running search has an adversarial point
        self.before = torch.full((size,), torch.inf, device=device)  # the loss one window ago

    def enter(self, rows: Tensor, losses: Tensor, won: Tensor) -> Tensor:
        """Take what an iteration brought; where it ends a search, set the next c.

        Args:
            rows: (n,) distinct.
            losses: (n,) c f + distance.
            won: (n,) bool, whether the iterate is adversarial.

        Returns:
            (m,) the rows whose search has ended: to be put back to their beginning.
        """
        self.iteration[rows] += 1
        self.worked[rows] |= won
        end = self.iteration[rows] >= self.iterations
        if self.window is not None:
            look = self.iteration[rows] % self.window == 0
            end |= look & (losses > PLATEAU * self.before[rows])
            self.before[rows] = torch.where(look, losses, self.before[rows])
        over = rows[end]
        constant, worked = self.constant[over], self.worked[over]
        self.high[over] = torch.where(worked, self.high[over].minimum(constant), self.high[over])
        self.low[over] = torch.where(worked, self.low[over], self.low[over].maximum(constant))
        bounded = self.high[over] < torch.inf
        middle = (self.low[over] + self.high[over]) / 2
        self.constant[over] = torch.where(bounded, middle, (10 * constant).clamp_max(LARGEST))
        self.iteration[over], self.worked[over], self.before[over] = 0, False, torch.inf
        self.done[over] += 1
        return over

    def spent(self, rows: Tensor) -> Tensor:
        """(n,) bool: which rows have no search left."""
        return torch.zeros_like(rows, dtype=torch.bool) if self.searches is None else self.done[rows] >= self.searches


def check_search(*, initial: float, iterations: int, searches: int | None, learning_rate: float, kappa: float) -> None:
    """Raise ValueError, which names the field and the value, for settings that make no search."""
    if not 0 < initial <= LARGEST:
        raise ValueError(f"constant must lie in (0, {LARGEST:g}], got {initial}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if searches is not None and searches < 1:
        raise ValueError(f"searches must be at least 1, or None for no end but the budget, got {searches}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be > 0, got {learning_rate}")
    check_kappa(kappa)
