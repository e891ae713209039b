"""Boundary Attack: a random walk along the decision boundary (Brendel, Rauber and Bethge, ICLR 2018).

Shapes: B images, n rows, W answers a window, C x H x W pixels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.label.label_attack import LabelAttack
from zeroth.attacks.label.starts import check_start, find_starts
from zeroth.attacks.label.walk import Steps, across, check_steps, walk
from zeroth.oracles import Trial

# Step sizes change where the share of adversarial answers leaves this range.
FEWEST, MOST = 0.2, 0.5
# A step towards the image by less is lost in float32: the walk has converged, and begins again with its first steps.
SMALLEST_STEP = 1e-6


class Window:
    """The last ``width`` answers of each image since its window was emptied.

    Args:
        images: B.
        width: W.
        device: where the answers are kept.
    """

    def __init__(self, images: int, width: int, device: torch.device) -> None:
        self.answers = torch.zeros(images, width, device=device)
        self.count = torch.zeros(images, dtype=torch.int64, device=device)

    def add(self, rows: Tensor, met: Tensor) -> None:
        """Take one answer (n,) for each of rows (n,), in place of the oldest where the window is full."""
        self.answers[rows, self.count[rows] % self.answers.shape[1]] = met.to(self.answers.dtype)
        self.count[rows] += 1

    def turn(self, rows: Tensor) -> Tensor:
        """(n,): 1 where the window is full of too many adversarial answers, -1 of too few, else 0; empty the former."""
        share = self.answers[rows].mean(1)
        sign = (share > MOST).long() - (share < FEWEST).long()
        sign = sign * (self.count[rows] >= self.answers.shape[1])
        self.count[rows[sign != 0]] = 0
        return sign


class AdaptedSteps:
    """Steps that grow where most answers are adversarial and shrink where few are; see :class:`Boundary`."""

    def __init__(
        self,
        trial: Trial,
        *,
        spherical_step: float,
        source_step: float,
        adaptation: float,
        candidates: int,
        test_every: int,
        windows: tuple[int, int],
    ) -> None:
        size, device = len(trial.images), trial.images.device
        self.first = (spherical_step, source_step)
        self.wide = torch.full((size,), spherical_step, device=device)
        self.near = torch.full((size,), source_step, device=device)
        self.adaptation, self.candidates, self.test_every = adaptation, candidates, test_every
        self.on_sphere, self.on_candidates = (Window(size, width, device) for width in windows)
        # (B,): the number of the step, from 1, and the candidates that failed in it.
        self.step = torch.ones(size, dtype=torch.int64, device=device)
        self.failed = torch.zeros_like(self.step)

    def sizes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Steps`."""
        return self.wide[rows], self.near[rows]

    def tested(self, rows: Tensor) -> Tensor:
        """See :class:`Steps`."""
        return self.step[rows] % self.test_every == 0

    def learn(self, rows: Tensor, sphere: Tensor, met: Tensor) -> None:
        """See :class:`Steps`."""
        tested = self.tested(rows)
        self.on_sphere.add(rows[sphere], met[sphere])
        # In a tested step a candidate is asked only where its point on the sphere was adversarial.
        came = tested & ~sphere
        self.on_candidates.add(rows[came], met[came])
        self.failed[rows] += (~met).long()
        over = (met & ~sphere) | (self.failed[rows] >= self.candidates)
        self.step[rows[over]] += 1
        self.failed[rows[over]] = 0
        judged = rows[over & tested]  # the windows of the others are as they were
        if len(judged):
            both, source = self.on_sphere.turn(judged), self.on_candidates.turn(judged)
            self.wide[judged] *= self.adaptation**both
            self.near[judged] *= self.adaptation ** (both + source)
            converged = judged[self.near[judged] < SMALLEST_STEP]
            self.wide[converged], self.near[converged] = self.first


class Boundary(LabelAttack):
    r"""Walk around the image on the adversarial side of the boundary, a little nearer with each step that stays on it.

    A candidate is a random step :math:`\eta` of length ``spherical_step`` d at right angles to the way to the image
    x_0, at distance d, brought back to the sphere of radius d, then ``source_step`` d towards x_0. It takes the place
    of the point where it is adversarial. In every ``test_every``-th step the point on the sphere is asked too: about
    half of these are adversarial where the boundary looks flat, so both steps grow when over half of the last were and
    shrink when under a fifth were; the source step alone does so by the candidates that come from them.

    The defaults are ours; ``configs/attack/boundary_paper.yaml`` has those of the authors' program, in foolbox 1.

    Args:
        spherical_step: first step around the image, in shares of the distance; theirs .01.
        source_step: first step towards the image, in shares of the distance; theirs .01.
        adaptation: factor by which steps grow and shrink; theirs 1.5.
        candidates: how many may fail before a step is over; theirs 25.
        test_every: steps of which one is tested; theirs 10.
        windows: last answers that are counted, of points on the sphere and of candidates; theirs 100 and 30.
        tries: random directions of which the best is the start; theirs takes the first uniform noise that is
            adversarial when blended in.
        start_cells: these are constant on grids of so many cells a side, in turn; None for white noise (theirs).

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    norm: Literal["linf", "l2", "l1"] = "l2"

    def __init__(
        self,
        *,
        spherical_step: float = 0.1,
        source_step: float = 0.01,
        adaptation: float = 1.5,
        candidates: int = 5,
        test_every: int = 1,
        windows: tuple[int, int] = (20, 10),
        tries: int = 30,
        start_cells: Sequence[int] | None = (7, 4, 2),
    ) -> None:
        check_steps(spherical_step=spherical_step, source_step=source_step)
        if not adaptation > 1:
            raise ValueError(f"adaptation must be > 1, got {adaptation}")
        for field, number in (("candidates", candidates), ("test_every", test_every)):
            if number < 1:
                raise ValueError(f"{field} must be at least 1, got {number}")
        if min(windows) < 1:
            raise ValueError(f"windows must be two numbers of answers >= 1, got {windows}")
        check_start(tries, start_cells)
        self.spherical_step, self.source_step, self.adaptation = spherical_step, source_step, adaptation
        self.candidates, self.test_every, self.windows = candidates, test_every, windows
        self.tries, self.start_cells = tries, start_cells

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        rows = trial.active
        starts = find_starts(trial, rows, norm="l2", tries=self.tries, cells=self.start_cells, pool=self.pool)

        def propose(which: Tensor, points: Tensor) -> Tensor:
            clean = trial.images[which]
            return across(clean, points, trial.randn(which, clean.shape[1:]))

        walk(trial, rows, starts, self.steps(trial), propose)

    def steps(self, trial: Trial) -> Steps:
        """Return the first steps of the trial's images."""
        return AdaptedSteps(
            trial,
            spherical_step=self.spherical_step,
            source_step=self.source_step,
            adaptation=self.adaptation,
            candidates=self.candidates,
            test_every=self.test_every,
            windows=self.windows,
        )
