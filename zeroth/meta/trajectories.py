"""Trajectories in play while an optimizer is meta-trained, and what is made small on them.

Shapes: n trajectories, T iterations of a window, d coordinates, P trained parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zeroth.estimators import Estimator, black_box, with_gradient
from zeroth.optimizers.zeroth_order import State, ZerothOrder
from zeroth.oracles import ImageStreams
from zeroth.oracles.streams import derived_seed
from zeroth.problems import Problems, Window, unroll

# What a training's seed is derived for, beyond the purposes of zeroth.problems.
DIRECTIONS, META_DIRECTIONS = 11, 12


def draw_keys(numbers: Tensor, ages: Tensor) -> Tensor:
    """Return keys of random streams: one a trajectory (by its number) and an iteration (no trajectory has 2^24)."""
    return numbers * 2**24 + ages


def minibatch_keys(numbers: Tensor, ages: Tensor) -> Tensor:
    """Return names below 2^39 of minibatches: no trajectory has 2^15 iterations, no training 2^24 trajectories."""
    return numbers * 2**15 + ages


@dataclass
class Trajectories:
    """n trajectories in play, on the device but for the numbers that name them.

    Attributes:
        slots: (n,) int64, which trajectories they are of all that are in play, over all processes.
        rows: (n,) int64, their problems.
        numbers: (n,) int64, by which their draws are keyed: each trajectory ever begun has its own.
        ages: (n,) int64, iterations taken.
        copies: theta (n, d) and the rule's state, as often as the meta-gradient wants them.
        memory: (n, P), what the meta-gradient itself remembers of a trajectory; (n, 0) where nothing.
    """

    slots: Tensor
    rows: Tensor
    numbers: Tensor
    ages: Tensor
    copies: list[tuple[Tensor, State]]
    memory: Tensor

    _NAMED: ClassVar = ("slots", "rows", "numbers", "ages", "memory")

    def __len__(self) -> int:
        return len(self.slots)

    def select(self, places: Tensor) -> "Trajectories":
        """Return some of them, by their places (m,) int64."""
        there = places.to(self.memory.device)
        copies = [(theta[there], {key: held[there] for key, held in state.items()}) for theta, state in self.copies]
        named: dict[str, Any] = {name: getattr(self, name)[places] for name in self._NAMED[:-1]}
        return Trajectories(**named, copies=copies, memory=self.memory[there])

    def to(self, device: torch.device | str) -> "Trajectories":
        """Return them with what lives on a device on that device."""
        copies = [
            (theta.to(device), {key: held.to(device) for key, held in state.items()}) for theta, state in self.copies
        ]
        return replace(self, copies=copies, memory=self.memory.to(device))

    def plain(self) -> dict[str, Any]:
        """Return them as tensors in dicts and lists, for a checkpoint."""
        return {"copies": [list(copy) for copy in self.copies], **{name: getattr(self, name) for name in self._NAMED}}

    @staticmethod
    def of_plain(held: dict[str, Any]) -> "Trajectories":
        """Return what :meth:`plain` has told of."""
        return Trajectories(**{**held, "copies": [(theta, state) for theta, state in held["copies"]]})

    @staticmethod
    def joined(parts: Sequence["Trajectories"]) -> "Trajectories":
        """Return all of some groups of them, ordered by their slots."""
        named: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0]._NAMED}
        copies = [
            (
                torch.cat([theta for theta, _ in same]),
                {key: torch.cat([state[key] for _, state in same]) for key in same[0][1]},
            )
            for same in zip(*[part.copies for part in parts], strict=True)
        ]
        whole = Trajectories(**named, copies=copies)
        return whole.select(whole.slots.argsort())


@dataclass
class Task:
    r"""What is made small: :math:`\sum_t t f(\theta_t) + \lambda \sum_t \|o_t\|^2` of each trajectory (eq. 4).

    Attributes:
        rule: the optimizer.
        problems: what it is trained on.
        window: T.
        penalty: lambda.
        seed: decides directions, and those of meta-gradients.
    """

    rule: ZerothOrder
    problems: Problems
    window: int
    penalty: float
    seed: int

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained: the rule's parameters that take a gradient."""
        return [parameter for parameter in self.rule.parameters() if parameter.requires_grad]

    def times(self, of: Trajectories) -> Tensor:
        """Return the iterations of a window, (n, T) int64, counted from 0."""
        return of.ages.unsqueeze(1) + torch.arange(self.window)

    def _minibatches(self, of: Trajectories) -> Tensor:
        """Return those that the points after the iterations of a window are valued by, (n, T) int64."""
        return minibatch_keys(of.numbers.unsqueeze(1), self.times(of) + 1)

    def unroll(self, of: Trajectories, copy: int = 0) -> Window:
        """Take a window of trajectories, with a graph where gradients are on; the same draws at every call."""
        # A window has streams of its own: a resumed training needs no generator's state, copies share their draws.
        streams = ImageStreams(derived_seed(self.seed, DIRECTIONS), draw_keys(of.numbers, of.ages), self.device)
        everyone, (theta, state) = torch.arange(len(of)), of.copies[copy]
        return unroll(
            self.rule,
            self.problems,
            of.rows,
            theta,
            state,
            iterations=of.ages,
            minibatches=minibatch_keys(of.numbers, of.ages),
            steps=self.window,
            draw=lambda shape: streams.randn(everyone, shape),
        )

    def losses(self, of: Trajectories, window: Window, estimator: Estimator | None, differentiate: bool) -> Tensor:
        """Return the losses (n,) of a window, all of its points asked together.

        A point's value is of the minibatch that comes after those that led to it. Where they are differentiated, the
        problems' part of the graph is their gradient at the points: no graph of a victim is held. NaN or infinite where
        a point or a value is.

        Args:
            of: before the window.
            window: theirs.
            estimator: of the problems' gradient; None for the true one.
            differentiate: whether the losses carry a graph.
        """
        times, minibatches = self.times(of), self._minibatches(of)
        if not differentiate:
            rows = of.rows.repeat_interleave(self.window)
            f = self.problems.function(rows, minibatches.flatten())
            values = f(window.thetas.reshape(-1, 1, self.problems.dimension))[:, 0].view(times.shape)
        elif estimator is None:
            known, gradients = self.problems.gradient(window.thetas, of.rows, minibatches)
            known = known.masked_fill(~gradients.isfinite().all(2), torch.nan)
            values = with_gradient(window.thetas.flatten(0, 1), known.flatten(), gradients.flatten(0, 1))
        else:
            values = self._estimated(of, window, estimator)
        weights = (times + 1).to(self.device)
        return (weights * values.view(times.shape)).sum(1) + self.penalty * window.offsets

    @property
    def device(self) -> torch.device:
        """Where trajectories live."""
        return self.problems.device

    def _estimated(self, of: Trajectories, window: Window, estimator: Estimator) -> Tensor:
        """Values (n T,) at the points of a window that backpropagate by estimates; NaN where one was asked for NaN."""
        minibatches, rows = self._minibatches(of).flatten(), of.rows.repeat_interleave(self.window)
        points = window.thetas.flatten(0, 1)
        finite = points.detach().isfinite().all(1)
        bad = ~finite

        def values(asked: Tensor, part: slice) -> Tensor:
            answers = self.problems.function(rows[part], minibatches[part])(asked)
            bad[part] |= ~answers.isfinite().all(1)
            return answers.nan_to_num(0.0, 0.0, 0.0)

        keys = draw_keys(of.numbers.unsqueeze(1), self.times(of)).flatten()
        streams = ImageStreams(derived_seed(self.seed, META_DIRECTIONS), keys, self.device)
        asked = torch.where(finite.unsqueeze(1), points, 0.0)
        return black_box(values, asked, estimator, draw=streams.randn).masked_fill(bad, torch.nan)


@dataclass
class Outcome:
    """A window of n trajectories, and what it says about the rule.

    Attributes:
        loss: the mean of ``losses``, with the meta-gradient behind it.
        losses: (n,), not finite where a trajectory, or what it was asked for, is not.
        after: the trajectories, a window older; their tensors have no graph.
    """

    loss: Tensor
    losses: Tensor
    after: Trajectories
