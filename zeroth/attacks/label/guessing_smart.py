"""Guessing Smart: the Boundary Attack with biased steps (Brunner, Diehl, Truong Le and Knoll, ICCV 2019).

Shapes: B images, n rows, C x H x W pixels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.label.label_attack import LabelAttack
from zeroth.attacks.label.perlin import perlin_directions
from zeroth.attacks.label.starts import check_start, find_starts
from zeroth.attacks.label.walk import Steps, across, check_steps, walk
from zeroth.oracles import Trial


class CycleSteps:
    r"""Steps that shrink with each failure, and begin anew after a success or a full cycle; see :class:`GuessingSmart`.

    .. math:: \text{step} \cdot (1 - i / n + 0.3)

    for the i-th candidate, i = 0, 1, ..., n - 1.
    """

    def __init__(self, trial: Trial, *, spherical_step: float, source_step: float, cycle: int) -> None:
        self.wide, self.near, self.cycle = spherical_step, source_step, cycle
        self.failed = torch.zeros(len(trial.images), dtype=torch.int64, device=trial.images.device)

    def sizes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Steps`."""
        scale = 1.3 - self.failed[rows] / self.cycle
        return self.wide * scale, self.near * scale

    def tested(self, rows: Tensor) -> Tensor:
        """See :class:`Steps`; none, since nothing but failures changes the steps."""
        return torch.zeros_like(rows, dtype=torch.bool)

    def learn(self, rows: Tensor, sphere: Tensor, met: Tensor) -> None:
        """See :class:`Steps`."""
        self.failed[rows] = torch.where(met, 0, (self.failed[rows] + 1) % self.cycle)


class GuessingSmart(LabelAttack):
    r"""The walk of :class:`Boundary` along directions that are likelier to succeed.

    Two priors: the noise is Perlin noise, of low frequency as adversarial perturbations are, and its pixels are
    weighted by how much they differ from the image x_0 already,

    .. math:: \max(f, (|x - x_0| / \max |x - x_0|)^p).

    The paper's third, gradients of a surrogate model, is left out, as Cheng et al. (2020) do where they compare. Step
    sizes shrink with each candidate that fails, from 1.3 to .3 times themselves in a cycle, which a success ends. With
    ``frequency=None`` and ``mask_power=0`` it is the Boundary Attack with these step sizes.

    The defaults are ours, for images of 28 or 32 pixels a side; ``configs/attack/guessing_smart_paper.yaml`` has the
    paper's, for 299.

    Args:
        spherical_step: step around the image, in shares of the distance; paper .05.
        source_step: step towards the image, in shares of the distance; paper .002.
        cycle: n, candidates of a cycle; paper 50.
        frequency: cells of the Perlin noise a side; paper 20, and 5 at 64 pixels; None for white noise.
        mask_power: p, exponent of the mask; paper .5; 0 for no mask.
        mask_floor: f, least weight of a pixel; paper 0, at which a pixel that does not differ never will: where noise
            meets a black background these are half of all.
        tries: random directions of which the best is the start; the paper starts from the nearest image of the target
            class.
        start_cells: these are constant on grids of so many cells a side, in turn; None for white noise.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    norm: Literal["linf", "l2", "l1"] = "l2"

    def __init__(
        self,
        *,
        spherical_step: float = 0.07,
        source_step: float = 0.003,
        cycle: int = 50,
        frequency: int | None = 9,
        mask_power: float = 0.5,
        mask_floor: float = 0.1,
        tries: int = 30,
        start_cells: Sequence[int] | None = (7, 4, 2),
    ) -> None:
        # A cycle begins with 1.3 times the step.
        check_steps(below=1 / 1.3, spherical_step=spherical_step, source_step=source_step)
        for name, number in (("cycle", cycle), ("frequency", frequency)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if not mask_power >= 0:
            raise ValueError(f"mask_power must be >= 0, got {mask_power}")
        if not 0 <= mask_floor < 1:
            raise ValueError(f"mask_floor must lie in [0, 1), a weight beside the largest of 1, got {mask_floor}")
        check_start(tries, start_cells)
        self.spherical_step, self.source_step, self.cycle = spherical_step, source_step, cycle
        self.frequency, self.mask_power, self.mask_floor = frequency, mask_power, mask_floor
        self.tries, self.start_cells = tries, start_cells

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        rows = trial.active
        starts = find_starts(trial, rows, norm="l2", tries=self.tries, cells=self.start_cells, pool=self.pool)

        def propose(which: Tensor, points: Tensor) -> Tensor:
            clean = trial.images[which]
            away = (points - clean).abs()
            mask = (away / away.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)) ** self.mask_power
            return across(clean, points, self._draw(trial, which)) * mask.clamp_min(self.mask_floor)

        walk(trial, rows, starts, self.steps(trial), propose)

    def steps(self, trial: Trial) -> Steps:
        """Return the first steps of the trial's images."""
        return CycleSteps(trial, spherical_step=self.spherical_step, source_step=self.source_step, cycle=self.cycle)

    def _draw(self, trial: Trial, rows: Tensor) -> Tensor:
        """Draw noise (n, C, H, W)."""
        channels, height, width = trial.images.shape[1:]
        if self.frequency is None:
            return trial.randn(rows, (channels, height, width))
        return perlin_directions(lambda shape: trial.randn(rows, shape), 1, (channels, height, width), self.frequency)[
            :, 0
        ]
