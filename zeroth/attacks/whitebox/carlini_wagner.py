"""C&W l_2: the nearest adversarial image by Adam in tanh space (Carlini and Wagner, S&P 2017; thesis eqs. 6 and 9).

Shapes: B images, n active rows, C x H x W pixels.
"""

from typing import ClassVar

import torch
from torch import Tensor

from zeroth.attacks.adam import adam_step
from zeroth.attacks.attack import Attack
from zeroth.attacks.constant_search import ConstantSearch, check_search
from zeroth.attacks.losses import hinge
from zeroth.attacks.whitebox.steepest import elastic_net, margin_gradient
from zeroth.oracles import GradientOracle, Oracle, Trial, distance
from zeroth.oracles.forms import INSIDE


class CarliniWagner(Attack):
    r"""Minimise the squared distance plus c times the hinge on the margin, c found by a search of each image.

    .. math:: \min_w \|x(w) - x_0\|_2^2 + \beta \|x(w) - x_0\|_1 + c \max(m(x(w)), -\kappa), \qquad
              x(w) = \frac{1 + \tanh w}{2}

    m is the difference of logits of eq. 9, which is that of the log-probabilities. An iteration costs one query: the
    gradient at the clean image, where every search begins, came with its check. Adam starts anew with each search, and
    an image whose loss stands still goes on to its next c alone. The defaults are ours: the first c is the tuned (40
    trials on MNIST training images), searches are half as long as the tuned ones, which on 48 other training images is
    as near at kappa 0 and nearer at kappa 20 and 40 within 1,000 queries; ``configs/attack/carlini_wagner_paper.yaml``
    has the paper's.

    Args:
        constant: the first c; paper .001. Ten times as much after each search that fails, until one works; then the
            middle between the largest c that failed and the smallest that worked.
        searches: c's tried; None for as many as the budget allows; paper 9.
        iterations: Adam's steps for one c; paper 1,000.
        learning_rate: Adam's, in tanh space; paper .01.
        abort: end a search whose loss has not fallen over a tenth of its iterations (C&W's program; the thesis never).
        beta: weight of l_1, [0, 1] pixels; 0 is C&W. Above it this is the elastic net by change of variable (thesis
            Table 5, where EAD does better), and ``distance`` is l_2^2 + beta l_1, its decision rule there.
        kappa: confidence of an adversarial point, as a difference of logits; paper 0 to 40.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = GradientOracle
    norm = "l2"
    stop_at_success: ClassVar[bool] = False

    def __init__(
        self,
        *,
        constant: float = 0.27,
        searches: int | None = None,
        iterations: int = 300,
        learning_rate: float = 0.1,
        abort: bool = True,
        beta: float = 0.0,
        kappa: float = 0.0,
    ) -> None:
        check_search(
            initial=constant, iterations=iterations, searches=searches, learning_rate=learning_rate, kappa=kappa
        )
        if beta < 0:
            raise ValueError(f"beta must be >= 0, got {beta}")
        self.constant, self.searches, self.iterations = constant, searches, iterations
        self.learning_rate, self.abort, self.beta, self.kappa = learning_rate, abort, beta, kappa

    def distance(self, delta: Tensor) -> Tensor:
        """Return l_2 of perturbations, with beta what is made small: (N, C, H, W) -> (N,)."""
        return elastic_net(delta, self.beta) if self.beta else distance(delta, "l2")

    @property
    def distance_name(self) -> str:
        """What is made small."""
        return "elastic-net" if self.beta else "l2"

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        clean, start, loss = trial.images, margin_gradient(trial), hinge(trial, self.kappa)
        search = ConstantSearch(
            len(clean),
            initial=self.constant,
            iterations=self.iterations,
            searches=self.searches,
            windows=10 if self.abort else 0,
            device=clean.device,
        )
        # tanh in float64: in float32 its last digit depends on the batch, and the hinge makes much of a last digit.
        origin = torch.atanh((2 * clean.double() - 1) * INSIDE).float()
        level = origin.double().tanh()
        w, gradient = origin.clone(), start.clone()  # where each row stands, and the gradient of its hinge there
        tanh = level.clone()  # of w; the dearest step outside the victim, so it is not taken twice
        first, second = torch.zeros_like(w), torch.zeros_like(w)  # Adam's moments

        while len(rows := trial.active):
            constant = search.constant[rows]
            bent = tanh[rows]
            moved = (1 + bent) / 2 - clean[rows]
            slope = 2 * moved + self.beta * moved.sign() + constant.reshape(-1, 1, 1, 1) * gradient[rows]
            slope = (slope * (1 - bent.square()) / 2).float()  # the chain rule through x(w)
            steps = (search.iteration[rows] + 1).reshape(-1, 1, 1, 1)
            move, first[rows], second[rows] = adam_step(slope, first[rows], second[rows], steps, self.learning_rate)
            w[rows] -= move
            bent = tanh[rows] = w[rows].double().tanh()
            points = ((1 + bent) / 2).float()
            answers, gradient[rows] = trial.gradient(points, rows, loss)
            rows, constant, points, answers = trial.keep(rows, constant, points, answers)
            losses = elastic_net(points - clean[rows], self.beta) + constant * loss(answers, rows)
            over = search.enter(rows, losses, trial.goal.met(answers, rows))
            w[over], tanh[over], gradient[over] = origin[over], level[over], start[over]
            first[over], second[over] = 0, 0
            trial.retire(rows[search.spent(rows)], "searches")
