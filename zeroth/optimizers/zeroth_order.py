"""What every zeroth-order optimizer promises: a step of a batch of problems, made of function values alone.

Shapes: B problems, Q points a problem, d coordinates, k surrogates.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from zeroth.estimators import GuidedES, LearnedSampling
from zeroth.estimators.estimator import Draw, Estimator, Function
from zeroth.networks.query_rnn import QueryRNN
from zeroth.oracles.oracle import exact_float32

# Every tensor has the problems first, so that {key: held[rows]} is the state of some of them.
State = dict[str, Tensor]


class Step(NamedTuple):
    """One iteration of B problems.

    Attributes:
        theta: (B, d), the next point: the old one plus ``update``.
        state: what the next iteration needs.
        gradient: (B, d), the estimate at the old point.
        update: (B, d), what was added.
        value: (B,) f at the old point; the mean of what was asked where the estimator does not ask there.
        sigma: (B, d), standard deviations that a QueryRNN predicted, of either sign; None without one.
        offset: (B, d), its outputs, which a regulariser keeps small; None without one.
    """

    theta: Tensor
    state: State
    gradient: Tensor
    update: Tensor
    value: Tensor
    sigma: Tensor | None = None
    offset: Tensor | None = None


class Guidance(NamedTuple):
    """What an iteration tells its estimator about where to ask: keyword arguments of its call, and their making."""

    arguments: dict[str, Tensor]
    sigma: Tensor | None = None
    offset: Tensor | None = None


class ZerothOrder(nn.Module, ABC):
    """A zeroth-order optimizer: an estimator tells where to ask, the rule what to make of the estimate.

    Functional: a step changes nothing in place and keeps nothing, what an iteration hands to the next is in
    :class:`Step`. A problem's trajectory depends on its own draws and values alone, not on its neighbours: on a CPU bit
    by bit where d is a multiple of 8, else to rounding. Every rule runs over every estimator; :class:`GuidedES` is
    given the last estimate and the last update as surrogates.

    Where gradients are on, theta, update and gradient carry graphs to the parameters of networks, the QueryRNN's
    through the product |sigma| m of :class:`LearnedSampling` alone. f is asked without a graph, about a detached theta,
    and both QueryRNN's inputs are detached. To truncate, detach theta and the tensors of the state.

    Args:
        estimator: of the gradient.
        query: learned sampling: predicts sigma of each iteration from the last estimate and update. Needs
            LearnedSampling as estimator. In training mode its prediction is always used; in eval mode by chance.
        p: probability, a problem and an iteration, that predicted variances are used in eval mode; else standard
            normal directions are (sect. 3.1). One draw holds for all q directions. Paper .5.

    Attributes:
        has_epochs: whether iterations differ by their number: problems of different ages cannot take one together then.

    Raises:
        ValueError: p outside [0, 1], or a query with another estimator.
    """

    has_epochs: ClassVar[bool] = False

    def __init__(self, *, estimator: Estimator, query: QueryRNN | None = None, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p, the probability of predicted variances, must be in [0, 1], got {p}")
        if query is not None and not isinstance(estimator, LearnedSampling):
            raise ValueError(
                f"a query predicts the variances of LearnedSampling, got the estimator {type(estimator).__name__}: "
                "take LearnedSampling, or no query"
            )
        self.estimator, self.query, self.p = estimator, query, p

    def begin(
        self,
        batch: int,
        dimension: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> State:
        """Return the state of B problems of d coordinates at the start of their trajectories."""
        state: State = {}
        if self._remembers:
            zeros = torch.zeros(batch, dimension, device=device, dtype=dtype)
            state |= {"gradient": zeros, "update": zeros.clone()}
        if self.query is not None:
            state["query_h"], state["query_c"] = self.query.begin(batch, dimension, device)
        return state

    def queries(self, dimension: int, iteration: int) -> int:
        """Return what a problem is asked in an iteration, counted from 0, f at the point itself included."""
        return self.estimator.queries(dimension)

    @abstractmethod
    def learning_rate(self, dimension: int) -> float:
        """Return the factor of :meth:`move` that is used where none is given."""

    @abstractmethod
    def move(self, gradient: Tensor, state: State, *, iteration: int) -> Tensor:
        """Make a step (B, d) of learning rate 1 from an estimate (B, d); may put new entries into ``state``."""

    def step(
        self,
        f: Function,
        theta: Tensor,
        state: State,
        *,
        iteration: int,
        draw: Draw,
        value: Tensor | None = None,
        lr: float | Tensor | None = None,
    ) -> Step:
        """Take one iteration.

        Args:
            f: values (B, Q) at points (B, Q, d); row b is the b-th problem.
            theta: (B, d), with or without a graph behind it.
            state: of :meth:`begin`, or of the last step.
            iteration: counted from 0; of problems of several ages any, unless the rule has epochs.
            draw: standard normal numbers (B, *shape) for a shape; ``ImageStreams`` gives each problem its own.
            value: (B,) f(theta) where it is known already: one query less where the estimator needs it.
            lr: what multiplies :meth:`move`, a number or one a coordinate (d,); default :meth:`learning_rate`.
        """
        with exact_float32(theta.device.type):
            state = dict(state)
            guidance = self._guide(state, draw)
            gradient, value = self.estimate(
                f,
                theta.detach(),
                state,
                guidance.arguments,
                iteration=iteration,
                draw=lambda shape: draw(shape).to(theta),
                value=value,
            )
            move = self.move(gradient, state, iteration=iteration)
            update = (self.learning_rate(theta.shape[1]) if lr is None else lr) * move
        if self._remembers:
            state |= {"gradient": gradient.detach(), "update": update.detach()}
        return Step(theta + update, state, gradient, update, value, guidance.sigma, guidance.offset)

    def estimate(
        self,
        f: Function,
        theta: Tensor,
        state: State,
        guidance: dict[str, Tensor],
        *,
        iteration: int,
        draw: Draw,
        value: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the estimate (B, d) at theta and the value (B,) there; may put entries of its own into ``state``."""
        return ask(self.estimator, f, theta, guidance, draw=draw, value=value)

    @property
    def _remembers(self) -> bool:
        """Whether the last estimate and update guide the next estimate."""
        return self.query is not None or isinstance(self.estimator, GuidedES)

    def _guide(self, state: State, draw: Draw) -> Guidance:
        """Say where to ask; puts the QueryRNN's new memory into ``state``."""
        if isinstance(self.estimator, GuidedES):
            return Guidance({"surrogates": torch.stack([state["gradient"], state["update"]], 1)})
        if self.query is None:
            return Guidance({})
        memory = (state["query_h"], state["query_c"])
        sigma, offset, (state["query_h"], state["query_c"]) = self.query(state["gradient"], state["update"], memory)
        if self.training:
            return Guidance({"sigma": sigma}, sigma, offset)
        # Drawn whatever p, so that trajectories of different p see the same directions.
        followed = draw(()).double() < torch.special.ndtri(torch.tensor(self.p, dtype=torch.float64))  # (B,)
        used = torch.where(followed.unsqueeze(1), sigma, 1.0)
        return Guidance({"sigma": used}, sigma, offset)


class Descent(ZerothOrder):
    r"""A rule with the learning rate :math:`\delta / d` of ZO-L2L's baselines (sect. 4).

    Args:
        delta: learning rate times dimension; paper: tuned, coarsely over .01, .1, ..., 1000, then on a line.
        estimator: of the gradient.
        query: the sampling rule, or None.
        p: probability that it is followed in eval mode.

    Raises:
        ValueError: delta is not positive and finite, and as :class:`ZerothOrder`.
    """

    def __init__(self, *, delta: float, estimator: Estimator, query: QueryRNN | None = None, p: float = 0.5) -> None:
        super().__init__(estimator=estimator, query=query, p=p)
        if not (delta > 0 and math.isfinite(delta)):
            raise ValueError(f"delta, the learning rate times the dimension, must be > 0 and finite, got {delta}")
        self.delta = delta

    def learning_rate(self, dimension: int) -> float:
        """Return delta / d."""
        return self.delta / dimension


def ask(
    estimator: Estimator,
    f: Function,
    x: Tensor,
    guidance: dict[str, Tensor],
    *,
    draw: Draw,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return an estimate (B, d) at x, and f(x) (B,): the mean of what was asked where the estimator does not ask x.

    The estimate is NaN where one of the values is not finite.
    """
    seen: list[Tensor] = []

    @torch.no_grad()
    def kept(points: Tensor) -> Tensor:
        seen.append(f(points))
        return seen[-1]

    gradient = estimator(kept, x, value=value, draw=draw, **guidance)
    values = torch.cat(seen, 1)  # (B, queries)
    if value is None:
        value = values[:, 0] if estimator.needs_value else values.mean(1)
    finite = values.isfinite().all(1) & value.isfinite()
    return torch.where(finite.unsqueeze(1), gradient, torch.nan), value
