"""The first adversarial point of each image: the best of many directions, many images at once.

Shapes: B images, n rows, Q directions a request, C x H x W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zeroth.attacks.label.directions import noise
from zeroth.attacks.label.ray_search import lengths
from zeroth.oracles import Trial
from zeroth.oracles.goal import Norm

# Directions tried in one request: each request is tested at the best radius so far, so fewer, later tests are cheaper.
TOGETHER = 10


def check_start(tries: int, cells: Sequence[int] | None) -> None:
    """Raise ValueError, which names the field and the value, for settings that make no start."""
    if tries < 1:
        raise ValueError(f"tries must be at least 1, got {tries}")
    if cells is not None and (len(cells) == 0 or min(cells) < 1):
        raise ValueError(f"start_cells must be sides of grids >= 1, or null for white noise, got {cells}")


@dataclass(frozen=True)
class Pool:
    """Images of known classes, from which targeted attacks take their first directions.

    Images of a class are taken in their order here, so every attack that is given the same pool begins from the same
    points.

    Args:
        labels: (N,) int64 of all images, as a rule those of the training set.
        read: places among them (m,) int64 -> images (m, C, H, W) in [0, 1]; asked for those that are needed alone.
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]

    def of(self, classes: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return images ``first`` ... of classes (n,): (n, count, C, H, W), and how many there are, (n,)."""
        kinds, kind = classes.cpu().unique(return_inverse=True)
        order = torch.zeros(len(kinds), count, dtype=torch.int64)  # beyond what there is, any image
        found = torch.zeros(len(kinds), dtype=torch.int64)
        for row, label in enumerate(kinds.tolist()):
            places = (self.labels == label).nonzero().flatten()[first : first + count]
            order[row, : len(places)], found[row] = places, len(places)
        places, back = order.unique(return_inverse=True)
        return self.read(places)[back[kind]].to(classes.device), found[kind].to(classes.device)


@dataclass(frozen=True)
class Starts:
    """A start of each row.

    Attributes:
        directions: (n, C, H, W), of norm 1.
        low: (n,) radii along them that are not adversarial, or 0.
        high: (n,) radii that are; inf where no start was found.
    """

    directions: Tensor
    low: Tensor
    high: Tensor


def find_starts(
    trial: Trial,
    rows: Tensor,
    *,
    norm: Norm,
    tries: int,
    cells: Sequence[int] | None = None,
    clip: bool = True,
    tolerance: float = 0.01,
    pool: Pool | None = None,
) -> Starts:
    """Try directions until ``tries`` are spent and keep the one whose boundary is nearest.

    The first directions are tested at their own length; once a row has a radius, further ones are tested there, at one
    query each, and only those that are adversarial there, thus nearer, race on by :func:`race`.

    Args:
        trial: the trial.
        rows: (n,).
        norm: in which radii are measured.
        tries: directions a row, one query each, besides the bisections.
        cells: draw noise that is constant on grids of so many cells a side, in turn; None for white noise. White noise
            leaves one MNIST image in ten without a start, coarse noise (7, 4, 2) none.
        clip: take the directions of the clamped images, whose radii are smaller; False for the noise as it is.
        tolerance: relative width of the bounds of the radius.
        pool: images to start from in place of noise; used by targeted attacks only.
    """
    count, images = len(rows), trial.images
    best = torch.zeros_like(images[rows])
    low = images.new_zeros(count)
    high = images.new_full((count,), torch.inf)
    for first in range(0, tries, TOGETHER):
        which = trial.playing[rows].nonzero().flatten()
        if len(which) == 0:
            break
        theirs, width = rows[which], min(TOGETHER, tries - first)
        clean = images[theirs].unsqueeze(1)
        ready = torch.full_like(theirs, width)
        if pool is not None and trial.goal.targets is not None:
            points, ready = pool.of(trial.goal.targets[theirs], first, width)
            offsets = points - clean
        else:
            offsets = noise(trial, theirs, width, cells[first // TOGETHER % len(cells)] if cells else None)
            offsets = (clean + offsets).clamp(0, 1) - clean if clip else offsets
        size = lengths(offsets, norm)
        directions = offsets / size
        # (n, Q): the radius so far is where a direction must be adversarial to be of use.
        reach = torch.minimum(size.flatten(1), high[which].unsqueeze(1))
        asked = torch.minimum(trial.remaining(theirs), ready)
        met = trial.adversarial(clean + reach.reshape(size.shape) * directions, theirs, asked)
        some = met.any(1).nonzero().flatten()
        if len(some):
            found, below, above = race(trial, theirs[some], directions[some], met[some], reach[some], tolerance)
            best[which[some]], low[which[some]], high[which[some]] = found, below, above
    return Starts(best, low, high)


def race(
    trial: Trial, rows: Tensor, directions: Tensor, met: Tensor, reach: Tensor, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Bisect several rays of a row together: a radius at which some are adversarial ends the race of the others.

    Args:
        trial: the trial.
        rows: (n,).
        directions: (n, Q, C, H, W) of norm 1.
        met: (n, Q) bool: which are adversarial at ``reach``, one at least in each row.
        reach: (n, Q) radii.
        tolerance: relative width at which a race ends.

    Returns:
        directions (n, C, H, W), low (n,) and high (n,).
    """
    alive = met.clone()
    high, winner = torch.where(alive, reach, torch.inf).min(1)
    low = torch.zeros_like(high)
    while True:
        which = ((high - low > tolerance * high) & trial.playing[rows]).nonzero().flatten()
        if len(which) == 0:
            break
        middle = (low[which] + high[which]) / 2
        number = torch.minimum(alive[which].sum(1), trial.remaining(rows[which]))
        order = (~alive[which]).long().argsort(dim=1, stable=True)[:, : int(number.max())]  # those alive come first
        points = (
            trial.images[rows[which]].unsqueeze(1)
            + middle.reshape(-1, 1, 1, 1, 1) * directions[which.unsqueeze(1), order]
        )
        hit = trial.adversarial(points, rows[which], number)
        nearer = hit.any(1)
        survivors = torch.zeros_like(alive[which]).scatter_(1, order, hit)
        alive[which] = torch.where(nearer.unsqueeze(1), survivors, alive[which])
        winner[which] = torch.where(nearer, survivors.int().argmax(1), winner[which])
        high[which] = torch.where(nearer, middle, high[which])
        low[which] = torch.where(nearer, low[which], middle)
    return directions[torch.arange(len(rows), device=rows.device), winner], low, high
