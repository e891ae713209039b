"""Where a ray from an image crosses the victim's decision boundary: bracketing and bisection, many images at once.

Each function works on rows in different states: a request asks one point of each row whose search still goes on, so the
numbers of queries are ragged. A row that leaves play keeps the bounds it had; the trial has kept its best point.

Shapes: n rows, m of them in a request, C x H x W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from zeroth.oracles import Trial, distance
from zeroth.oracles.goal import Norm

# Positions (m,) in the rows of a search, radii (m,) -> the points (m, C, H, W) of these rows at these radii.
Place = Callable[[Tensor, Tensor], Tensor]

# Relative width below which float32 radii are not told apart: a bisection to less would never end.
FLOAT32_STEP = 5e-7


def lengths(vectors: Tensor, norm: Norm) -> Tensor:
    """Return the norms of vectors (..., C, H, W) as (..., 1, 1, 1), never 0, so that they divide."""
    sizes = distance(vectors.reshape(-1, *vectors.shape[-3:]), norm).clamp_min(1e-12)
    return sizes.reshape(*vectors.shape[:-3], 1, 1, 1)


def along(trial: Trial, rows: Tensor, directions: Tensor) -> Place:
    """Make the points x0 + r theta of rows (n,) on their rays (n, C, H, W)."""

    def place(which: Tensor, radii: Tensor) -> Tensor:
        return trial.images[rows[which]] + radii.reshape(-1, 1, 1, 1) * directions[which]

    return place


def ask(trial: Trial, rows: Tensor, points: Tensor) -> Tensor:
    """Ask one point (n, C, H, W) of each row; (n,) bool: which are adversarial."""
    return trial.adversarial(points.unsqueeze(1), rows)[:, 0]


def bisect(
    trial: Trial, rows: Tensor, place: Place, low: Tensor, high: Tensor, tolerance: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Halve [low, high] until it is at most ``tolerance`` wide; its upper end stays adversarial.

    Args:
        trial: the trial.
        rows: (n,).
        place: makes the points.
        low: (n,) radii that are not adversarial, or 0.
        high: (n,) radii that are; rows of infinite radius are left alone.
        tolerance: (n,) or one number, absolute; widths that float32 does not resolve end the search too.

    Returns:
        the bounds, each (n,).
    """
    low, high = low.clone(), high.clone()
    tolerance = torch.as_tensor(tolerance, dtype=high.dtype, device=high.device)
    while True:
        wide = high - low > torch.maximum(tolerance, FLOAT32_STEP * high)
        which = (wide & high.isfinite() & trial.playing[rows]).nonzero().flatten()
        if len(which) == 0:
            return low, high
        middle = (low[which] + high[which]) / 2
        met = ask(trial, rows[which], place(which, middle))
        kept = trial.playing[rows[which]] | met  # what was not asked says nothing of the lower bound
        high[which] = torch.where(met, middle, high[which])
        low[which] = torch.where(kept & ~met, middle, low[which])


def bracket(
    trial: Trial,
    rows: Tensor,
    place: Place,
    radius: Tensor,
    met: Tensor,
    *,
    step: float,
    growth: float,
    limit: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Find bounds around the boundary from a radius near it.

    Goes down from radii that are adversarial and up from those that are not, by the factor 1 -+ step, the step growing
    by ``growth`` each time, up to a half.

    Args:
        trial: the trial.
        rows: (n,).
        place: makes the points.
        radius: (n,) where the search begins, asked already.
        met: (n,) bool: which of these are adversarial.
        step: first relative step, e.g. .01.
        growth: factor of the step, 1 for steps of one size.
        limit: radius at which going up ends, one number or (n,).

    Returns:
        low and high (n,); high is inf where nothing adversarial was met up to the limit.
    """
    low = torch.where(met, torch.zeros_like(radius), radius)
    high = torch.where(met, radius, torch.full_like(radius, torch.inf))
    at, width = radius.clone(), step
    limit = torch.as_tensor(limit, dtype=radius.dtype, device=radius.device).expand_as(radius)
    going = torch.ones_like(met)
    while True:
        # Below what float32 resolves there is no boundary: the image itself is not adversarial.
        going &= trial.playing[rows] & torch.where(met, at > 1e-12, at < limit)
        which = going.nonzero().flatten()
        if len(which) == 0:
            return low, high
        down = met[which]
        at[which] = torch.where(down, at[which] * (1 - width), torch.minimum(at[which] * (1 + width), limit[which]))
        hit = ask(trial, rows[which], place(which, at[which]))
        high[which] = torch.where(hit, at[which], high[which])
        low[which] = torch.where(hit, low[which], at[which])
        going[which] = hit == down
        width = min(0.5, width * growth)


def crossing(
    trial: Trial,
    rows: Tensor,
    place: Place,
    near: Tensor,
    *,
    growth: float,
    limit: Tensor | float,
    tolerance: Tensor | float,
) -> Tensor:
    """Find the boundary from a radius near it: one query, then a bracket that begins with steps of 1 %, a bisection.

    Args:
        trial: the trial.
        rows: (n,).
        place: makes the points.
        near: (n,) radii to begin at.
        growth: factor of the bracketing steps.
        limit: largest radius of interest, one number or (n,). Where it is ``near``, one query tells that the boundary
            lies beyond.
        tolerance: relative width of the final bounds, one number or (n,).

    Returns:
        (n,) adversarial radii, inf where none was met up to the limit.
    """
    met = ask(trial, rows, place(torch.arange(len(rows), device=rows.device), near))
    low, high = bracket(trial, rows, place, near, met, step=0.01, growth=growth, limit=limit)
    return bisect(trial, rows, place, low, high, tolerance * high)[1]
