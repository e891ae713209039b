"""ZO-LSTM as an attack: the learned zeroth-order optimizer (Ruan et al., ICLR 2020, sect. 4.1, A.1).

Shapes: B images, n active rows, q directions, Q points of a row, d = C H W pixels, K classes.
"""

import itertools
import math
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from zeroth.attacks.attack import Attack, check_accept
from zeroth.attacks.losses import check_kappa, hinge
from zeroth.estimators import LearnedSampling
from zeroth.estimators.estimator import Function
from zeroth.networks import CheckpointQueryRNN, CheckpointUpdateRNN
from zeroth.networks.checkpoint_rnns import shipped_optimizer
from zeroth.optimizers import LearnedOptimizer
from zeroth.oracles import Oracle, ScoreOracle, Trial, distance
from zeroth.oracles.forms import Form, inner_of, outer_of


class LearnedZO(Attack):
    r"""Makes margin and distortion small by steps and directions that two networks have learned (eqs. 1 to 3 and 6).

    .. math:: f(\theta) = \max\{m(x), -\kappa\} + c \|x - x_0\|_p, \qquad
        \theta_{t+1} = \theta_t + \alpha\,\mathrm{UpdateRNN}(\hat g_t)

    with :math:`x = \text{clip}(x_0 + \theta, 0, 1)` ("clamp", the paper's program) or
    :math:`x = (1 + \tanh(w_0 + \theta)) / 2` ("tanh", the paper's text), :math:`w_0` being the image in tanh space, and
    the margin m of log-probabilities, negative where the goal is met. An iteration asks its iterate and q points around
    it, q + 1 queries; the last query of a budget is an iterate, up to q of it are left.

    Args:
        checkpoint: an optimizer that train.py meta-trained, runs/train-optimizer/<name>/checkpoints/best.ckpt, with
            both networks; None for the one that ships with the package, trained on MNIST attacks.
        q: directions an iteration; paper 20 (MNIST), 50 (CIFAR-10).
        mu: step of the difference, in the units of theta; see :class:`~zeroth.estimators.LearnedSampling`.
        p: probability, an image and iteration, that the predicted variances are used; paper .5.
        alpha: factor of the updates, for victims and images unlike those of the training; paper 1 on its own task.
        c: weight of the distortion; paper .1 for MNIST, .25 for CIFAR-10.
        norm: of the distortion, and what is reported: paper "l1".
        form: "clamp" or "tanh".
        start_scale: standard deviation of the starting point; the paper's program 1e-4.
        iterations: give an image up after so many; None for no end but the budget. Paper 200.
        kappa: confidence of an adversarial point.
        accept: "all" asked points count, or only "iterates".

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: an argument is out of range, or the checkpoint is no optimizer's.
    """

    oracle_type: ClassVar[type[Oracle]] = ScoreOracle
    stop_at_success: ClassVar[bool] = False
    default_checkpoint = staticmethod(shipped_optimizer)

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        q: int = 20,
        mu: float = 1e-5,
        p: float = 0.5,
        alpha: float = 1.0,
        c: float = 0.1,
        norm: Literal["linf", "l2", "l1"] = "l1",
        form: Form = "clamp",
        start_scale: float = 1e-4,
        iterations: int | None = None,
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        if norm not in ("linf", "l2", "l1"):
            raise ValueError(f"norm must be linf, l2 or l1, got {norm!r}")
        if form not in get_args(Form):
            raise ValueError(f"form must be clamp or tanh, got {form!r}")
        for field, value in (("c", c), ("start_scale", start_scale)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{field} must be 0 or more, and finite, got {value}")
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        check_kappa(kappa)
        check_accept(accept)
        self.checkpoint, self.q, self.mu, self.p, self.alpha, self.c = checkpoint, q, mu, p, alpha, c
        self.norm, self.form, self.start_scale, self.iterations = norm, form, start_scale, iterations
        self.kappa, self.accept, self.request = kappa, accept, q
        self.optimizer = LearnedOptimizer(
            update=CheckpointUpdateRNN(checkpoint),
            estimator=LearnedSampling(q=q, mu=mu),
            query=CheckpointQueryRNN(checkpoint),
            p=p,
            alpha=alpha,
        ).eval()

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        size, dimension = len(trial.images), trial.images[0].numel()
        optimizer = self.optimizer.to(trial.images.device)
        theta = self.start_scale * trial.randn(torch.arange(size, device=trial.images.device), (dimension,))
        state = optimizer.begin(size, dimension, trial.images.device)
        for iteration in itertools.count():
            rows = trial.active
            if len(rows) == 0:
                return
            values = self._losses(trial, theta[rows].unsqueeze(1), rows, iterate=True)[:, 0]
            if iteration == self.iterations:
                trial.retire(rows, "iterations")
            # What an iteration asks beyond its own iterate leads to the next, which is asked as well.
            trial.retire(rows[trial.remaining(rows) < optimizer.queries(dimension, iteration)], "budget")
            rows, values = trial.keep(rows, values)
            if len(rows) == 0:
                return
            step = optimizer.step(
                self._around(trial, rows),
                theta[rows],
                {name: held[rows] for name, held in state.items()},
                iteration=iteration,
                draw=partial(trial.randn, rows),
                value=values,
            )
            theta[rows] = step.theta
            for name, held in step.state.items():
                state[name][rows] = held
            trial.retire(rows[~step.theta.isfinite().all(1)], "not finite")

    def _around(self, trial: Trial, rows: Tensor) -> Function:
        return lambda theta: self._losses(trial, theta, rows, iterate=False)

    def _losses(self, trial: Trial, theta: Tensor, rows: Tensor, *, iterate: bool) -> Tensor:
        """Ask points theta (n, Q, d) of rows (n,); returns f there, (n, Q)."""
        clean = trial.images[rows].unsqueeze(1)
        theta = theta.unflatten(2, tuple(trial.images.shape[1:]))
        points = outer_of(inner_of(clean, self.form) + theta, self.form)
        answers = trial.query(points, rows, iterate=iterate)
        lengths = distance((points - clean).flatten(0, 1), self.norm).view(points.shape[:2])
        return hinge(trial, self.kappa)(answers, rows) + self.c * lengths
