"""Gradients of what an optimizer reaches, in the optimizer's own parameters, a window of its trajectories at a time.

Shapes: n trajectories, m of them that share a perturbation, d coordinates, P trained parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from zeroth.estimators import Estimator, with_gradient
from zeroth.meta.trajectories import Outcome, Task, Trajectories, draw_keys
from zeroth.oracles import ImageStreams
from zeroth.oracles.streams import derived_seed
from zeroth.problems import Window

# What a training's seed is derived for, beyond the purposes of zeroth.meta.trajectories.
PERTURBATIONS = 13


class MetaGradient(ABC):
    """Takes the trajectories a window on, and tells how the trained parameters would have to change.

    Attributes:
        copies: trajectories that it keeps of each slot.
        remembers: whether it remembers P numbers of each trajectory.
    """

    copies: ClassVar[int] = 1
    remembers: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, task: Task, of: Trajectories) -> Outcome:
        """Take all trajectories a window on; deterministic.

        A trajectory's part does not depend on the others, but for the perturbation that some of evolution strategies
        share, which is drawn by the newest of them.
        """


class TBPTT(MetaGradient):
    """Truncated backpropagation through time: the window's own part of the gradient, through its iterations.

    Args:
        estimator: of the problems' gradients, e.g. a central CGE (eq. 5) or an RGE; None for the true ones, which the
            paper assumes known in training.
    """

    def __init__(self, *, estimator: Estimator | None = None) -> None:
        self.estimator = estimator

    def __call__(self, task: Task, of: Trajectories) -> Outcome:
        """See :class:`MetaGradient`."""
        with torch.enable_grad():
            window = task.unroll(of)
            losses = task.losses(of, window, self.estimator, differentiate=True)
        return Outcome(loss=losses.mean(), losses=losses.detach(), after=_after(of, [window]))


class _Evolution(MetaGradient):
    """What is common to evolution strategies: antithetic pairs of perturbed parameters, on the same draws."""

    def __init__(self, *, sigma: float = 0.01, pairs: int = 8) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma must be > 0, got {sigma}")
        if pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {pairs}")
        self.sigma, self.pairs = sigma, pairs

    def __call__(self, task: Task, of: Trajectories) -> Outcome:
        """See :class:`MetaGradient`; trajectories of one pair share its perturbation."""
        groups = of.slots % self.pairs
        parts, changes, losses = [], [], []
        with torch.no_grad():
            for group in groups.unique():
                part = of.select((groups == group).nonzero()[:, 0])
                perturbation = self._perturbation(task, part)
                known, windows = [], []
                for copy, sign in ((0, 1.0), (self.copies - 1, -1.0)):
                    with shifted(task.parameters, sign * perturbation):
                        windows.append(task.unroll(part, copy))
                        known.append(task.losses(part, windows[-1], None, differentiate=False))
                parts.append(self._next(task, part, windows, perturbation))
                along = (known[0] - known[1]) / (2 * self.sigma**2)  # (m,)
                changes.append(along @ self._weights(parts[-1], perturbation))
                losses.append(((known[0] + known[1]) / 2, part.slots))
            gradient = torch.stack(changes).sum(0) / len(of)  # (P,)
            order = torch.cat([slots for _, slots in losses]).argsort().to(task.device)
            means = torch.cat([told for told, _ in losses])[order]
        held = nn.utils.parameters_to_vector(task.parameters)
        loss = with_gradient(held.unsqueeze(0), means.mean().unsqueeze(0), gradient.unsqueeze(0))[0]
        return Outcome(loss=loss, losses=means, after=Trajectories.joined(parts))

    def _perturbation(self, task: Task, part: Trajectories) -> Tensor:
        """Draw (P,) for a pair in this window, keyed by the newest number and the age among its trajectories."""
        latest = int(part.numbers.argmax())
        key = draw_keys(part.numbers[latest], part.ages[latest])
        streams = ImageStreams(derived_seed(task.seed, PERTURBATIONS), key.unsqueeze(0), task.device)
        size = sum(parameter.numel() for parameter in task.parameters)
        return self.sigma * streams.randn(torch.zeros(1, dtype=torch.int64), (size,))[0]

    @abstractmethod
    def _next(self, task: Task, part: Trajectories, windows: list[Window], perturbation: Tensor) -> Trajectories:
        """Return trajectories after a window that both perturbed rules have taken."""

    @abstractmethod
    def _weights(self, after: Trajectories, perturbation: Tensor) -> Tensor:
        """Return (m, P), by what the differences of the losses of m trajectories are multiplied."""


class TruncatedES(_Evolution):
    r"""Antithetic evolution strategies on the window alone: no graph, no gradient of the problems, biased as TBPTT is.

    .. math:: \hat g = \frac{1}{2 \sigma^2} \, \epsilon \, (L(\phi + \epsilon) - L(\phi - \epsilon)),
        \qquad \epsilon \sim N(0, \sigma^2 I)

    Both perturbed windows begin where the unperturbed rule has come to, which takes the window once more.

    Args:
        sigma: standard deviation of the perturbations.
        pairs: perturbations at a time; the trajectories in play are shared out among them.

    Raises:
        ValueError: an argument is out of range.
    """

    def _next(self, task: Task, part: Trajectories, windows: list[Window], perturbation: Tensor) -> Trajectories:
        return _after(part, [task.unroll(part)])

    def _weights(self, after: Trajectories, perturbation: Tensor) -> Tensor:
        return perturbation.expand(len(after), -1)


class PES(_Evolution):
    r"""Persistent evolution strategies (Vicol et al., ICML 2021): unbiased for the whole trajectory, in windows.

    .. math:: \hat g = \frac{1}{2 \sigma^2} \, \xi \, (L(\phi + \epsilon) - L(\phi - \epsilon)),
        \qquad \xi = \text{sum of a trajectory's } \epsilon \text{ so far}

    Each perturbed rule goes on from where its own perturbations have led it.

    Args:
        sigma: standard deviation of the perturbations.
        pairs: perturbations at a time; the trajectories in play are shared out among them.

    Raises:
        ValueError: an argument is out of range.
    """

    copies: ClassVar[int] = 2
    remembers: ClassVar[bool] = True

    def _next(self, task: Task, part: Trajectories, windows: list[Window], perturbation: Tensor) -> Trajectories:
        return replace(_after(part, windows), memory=part.memory + perturbation)

    def _weights(self, after: Trajectories, perturbation: Tensor) -> Tensor:
        return after.memory


def _after(of: Trajectories, windows: list[Window]) -> Trajectories:
    """Trajectories after a window of each copy, cut off from its graph."""
    copies = [
        (window.thetas[:, -1].detach(), {key: held.detach() for key, held in window.state.items()})
        for window in windows
    ]
    return replace(of, ages=of.ages + windows[0].thetas.shape[1], copies=copies)


@contextmanager
def shifted(parameters: Sequence[nn.Parameter], by: Tensor) -> Iterator[None]:
    """Add (P,) to parameters; they are put back exactly, which subtracting would not do."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, part in zip(parameters, by.split([held.numel() for held in before]), strict=True):
                parameter.add_(part.view_as(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, held in zip(parameters, before, strict=True):
                parameter.copy_(held)
