"""The walk of Boundary and Guessing Smart: a random step around the image, then one towards it, many images at once.

Shapes: B images, n rows, C x H x W pixels.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from zeroth.attacks.label.ray_search import ask, lengths
from zeroth.attacks.label.starts import Starts
from zeroth.oracles import Trial

# Rows (n,) and their points (n, C, H, W) -> directions (n, C, H, W) of any length, in which to go around the images.
Propose = Callable[[Tensor, Tensor], Tensor]


class Steps(Protocol):
    """Step sizes of each image, and what is learnt of them from answers."""

    def sizes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps around the images and towards them, each (n,), in shares of the distance."""
        ...

    def tested(self, rows: Tensor) -> Tensor:
        """(n,) bool: the rows whose points on the sphere are asked too, before the candidates that come from them."""
        ...

    def learn(self, rows: Tensor, sphere: Tensor, met: Tensor) -> None:
        """Take answers ``met`` (n,) to points on the sphere where ``sphere`` (n,) says so, else to candidates."""
        ...


def check_steps(*, below: float = 1.0, **steps: float) -> None:
    """Raise ValueError, which names the field and the value, for a step that is no share of the distance.

    Args:
        below: a step so long would go the whole distance, and ask the image itself.
        steps: by the names of their fields.
    """
    for field, step in steps.items():
        if not 0 < step < below:
            raise ValueError(f"{field} must lie in (0, {below:.3g}), a share of the distance, got {step}")


def across(clean: Tensor, points: Tensor, noise: Tensor) -> Tensor:
    """Project noise onto the plane at right angles to the way from the points to the images; all (n, C, H, W)."""
    source = clean - points
    source = source / lengths(source, "l2")
    return noise - (noise * source).sum((1, 2, 3), keepdim=True) * source


def around(clean: Tensor, points: Tensor, directions: Tensor, step: Tensor) -> Tensor:
    r"""Go along directions (n, C, H, W) by ``step`` (n,) of the distance d, and back to the sphere around the images.

    .. math:: x_0 + \frac{(x - x_0) + s d \, \eta / \|\eta\|}{\sqrt{1 + s^2}}

    clamped to the pixels' range, which may take it off the sphere again.
    """
    away, step = points - clean, step.reshape(-1, 1, 1, 1)
    moved = away + step * lengths(away, "l2") * (directions / lengths(directions, "l2"))
    return (clean + moved / (1 + step**2).sqrt()).clamp(0, 1)


def towards(clean: Tensor, sphere: Tensor, radius: Tensor, step: Tensor) -> Tensor:
    r"""Bring points (n, C, H, W) towards the images, to (1 - step) of the old distance ``radius`` (n,); never away.

    .. math:: x_0 + \min(1, (1 - \epsilon) d / \|s - x_0\|) (s - x_0)
    """
    away = sphere - clean
    share = ((1 - step) * radius).reshape(-1, 1, 1, 1) / lengths(away, "l2")
    return clean + share.clamp_max(1) * away


def walk(trial: Trial, rows: Tensor, starts: Starts, steps: Steps, propose: Propose) -> None:
    """Walk from the starts of rows (n,) until they leave play, at one query a row and request.

    A candidate that is adversarial and nearer than the point before takes its place. Rows without a start leave play
    at once.

    Args:
        trial: the trial.
        rows: (n,) all rows in play.
        starts: of these rows.
        steps: how far to go.
        propose: where to go.
    """
    trial.retire(rows[starts.high.isinf()], "no start")
    rows, high, directions = trial.keep(rows, starts.high, starts.directions)
    images = trial.images
    points, sphere, candidates = images.clone(), images.clone(), images.clone()
    points[rows] = images[rows] + high.reshape(-1, 1, 1, 1) * directions
    radius = images.new_zeros(len(images))
    radius[rows] = _distance(points[rows], images[rows])
    # Rows whose point on the sphere was adversarial: the candidate that comes from it is yet to be asked.
    waiting = torch.zeros_like(trial.playing)
    while len(rows := trial.active):
        new = rows[~waiting[rows]]
        if len(new):
            clean, here = images[new], points[new]
            wide, near = steps.sizes(new)
            sphere[new] = around(clean, here, propose(new, here), wide)
            candidates[new] = towards(clean, sphere[new], radius[new], near)
        testing = steps.tested(rows) & ~waiting[rows]
        met = ask(trial, rows, torch.where(testing.reshape(-1, 1, 1, 1), sphere[rows], candidates[rows]))
        rows, testing, met = trial.keep(rows, testing, met)
        waiting[rows] = testing & met
        found = rows[met & ~testing]
        size = _distance(candidates[found], images[found])
        # A step too small for float32 may lead away.
        nearer = size < radius[found]
        found = found[nearer]
        points[found], radius[found] = candidates[found], size[nearer]
        steps.learn(rows, testing, met)


def _distance(points: Tensor, clean: Tensor) -> Tensor:
    return lengths(points - clean, "l2").flatten()
