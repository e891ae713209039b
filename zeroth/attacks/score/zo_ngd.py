"""ZO-NGD: zeroth-order natural gradient attack (Zhao et al., AAAI 2020).

Shapes: n active rows, R directions, M score vectors, D pixels, K classes.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from zeroth.attacks.score.sampled import Probes, SampledAttack
from zeroth.oracles import Trial

Fisher = Literal["outer_product", "two_class", "monte_carlo", "exact", "none"]

# The published program takes log(1.0001 - p) for the class "not t", so that a certain victim keeps a finite score.
NOT_LABEL = 1.0001


def natural_gradient(gradient: Tensor, factors: Tensor, damping: float) -> Tensor:
    r"""Solve :math:`(V^T V + \gamma I)\, x = g` by the Woodbury identity, without a D x D matrix (ZO-NGD eqs. 18-22).

    .. math:: x = \frac{1}{\gamma}\left(g - V^T (\gamma I_M + V V^T)^{-1} V g\right)

    With one factor this is the Sherman-Morrison form of eq. 22.

    Args:
        gradient: (n, D).
        factors: (n, M, D) rows of V; score vectors times the square roots of their weights.
        damping: gamma > 0.

    Returns:
        (n, D).
    """
    small = (factors @ factors.transpose(1, 2)).double()
    small += damping * torch.eye(small.shape[1], dtype=small.dtype, device=small.device)
    along = (factors @ gradient.unsqueeze(2)).double()
    inside = torch.linalg.solve(small, along).to(gradient.dtype)
    return (gradient - (factors.transpose(1, 2) @ inside).squeeze(2)) / damping


class ZONGD(SampledAttack):
    """Natural-gradient descent on the margin loss, the Fisher information taken from the same queries (eqs. 2, 16-22).

    Asks R + 1 images an iteration; the base query of one iteration is the success check of the last. Directions are
    unit vectors and estimates are scaled by D, as the published program does (the paper prints neither; mu = 1 means a
    step of 1 / sqrt(D) a pixel). The defaults are ours, tuned on MNIST training images (40 trials);
    ``configs/attack/zo_ngd_paper.yaml`` has the paper's.

    Args:
        epsilon: radius of the l_inf ball, [0, 1] pixels; paper: .4 MNIST, .2 CIFAR-10 and ImageNet.
        samples: R, directions an iteration; paper 40.
        mu: length of a probe's step; paper 1.
        learning_rate: lambda of eq. 19, of which the paper gives no value; None takes 2 epsilon, for sign steps.
        damping: gamma of eq. 18; paper .01.
        fisher: "outer_product" (eq. 12, rank one; a targeted attack takes its target for t), "two_class" (t against
            the rest, in expectation), "monte_carlo" (eq. 13), "exact" (eq. 9), or "none": eq. 3, plain descent.
        fisher_samples: n_MC of eq. 13.
        step: "natural" takes the natural gradient as it is (paper), "sign" its sign.
        cells: draw directions on a grid of cells x cells; None for pixels (paper).
        iterations: give an image up after so many steps; None for no end but the budget.
        kappa: confidence of an adversarial point; paper 0.
        accept: "all" asked points count, or only "iterates" (paper).

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.4,
        samples: int = 6,
        mu: float = 0.15,
        learning_rate: float | None = None,
        damping: float = 5e-5,
        fisher: Fisher = "outer_product",
        fisher_samples: int = 1,
        step: Literal["natural", "sign"] = "sign",
        cells: int | None = 7,
        iterations: int | None = None,
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        super().__init__(
            epsilon=epsilon, samples=samples, mu=mu, cells=cells, iterations=iterations, kappa=kappa, accept=accept
        )
        if not damping > 0:
            raise ValueError(f"damping must be > 0, got {damping}")
        if fisher not in get_args(Fisher):
            raise ValueError(f"fisher must be one of {', '.join(get_args(Fisher))}, got {fisher!r}")
        if fisher_samples < 1:
            raise ValueError(f"fisher_samples must be at least 1, got {fisher_samples}")
        if step not in ("natural", "sign"):
            raise ValueError(f"step must be 'natural' or 'sign', got {step!r}")
        if step == "natural" and learning_rate is None:
            raise ValueError("learning_rate must be given for step='natural': lambda of eq. 19 depends on the victim")
        self.learning_rate = self.step_size(learning_rate)
        self.damping, self.fisher, self.fisher_samples, self.step = damping, fisher, fisher_samples, step

    def descend(self, trial: Trial, probes: Probes, state: dict[str, Tensor]) -> Tensor:
        """Return lambda F^-1 g (eq. 19), or lambda sign(F^-1 g)."""
        rows = probes.rows
        direction = self.gradient(
            probes, self.objective(trial, probes.answers, rows), self.objective(trial, probes.base, rows)
        )
        if self.fisher != "none":
            at_probes, at_base, weights = self._likelihoods(trial, probes)
            direction = natural_gradient(direction, self._factors(probes, at_probes, at_base, weights), self.damping)
        return self.learning_rate * (direction.sign() if self.step == "sign" else direction)

    def _likelihoods(self, trial: Trial, probes: Probes) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-likelihoods that make the Fisher matrix: (n, R, M), (n, M), and their weights (n, M)."""
        rows, base, answers = probes.rows, probes.base, probes.answers
        probabilities = base.exp()
        if self.fisher == "exact":
            return answers, base, probabilities
        if self.fisher == "monte_carlo":
            uniform = trial.streams.rand(rows, (self.fisher_samples,))
            classes = torch.searchsorted(probabilities.cumsum(1), uniform).clamp_max(base.shape[1] - 1)
            weights = torch.full_like(uniform, 1 / self.fisher_samples)
        else:
            classes, weights = trial.goal.key[rows].unsqueeze(1), torch.ones(len(rows), 1, device=base.device)
        own = answers.gather(2, classes.unsqueeze(1).expand(-1, answers.shape[1], -1)), base.gather(1, classes)
        if self.fisher == "two_class":
            p = own[1].exp()
            rest = [(NOT_LABEL - log_p.exp()).log() for log_p in own]
            return torch.cat([own[0], rest[0]], 2), torch.cat([own[1], rest[1]], 1), torch.cat([p, 1 - p], 1)
        return *own, weights

    def _factors(self, probes: Probes, at_probes: Tensor, at_base: Tensor, weights: Tensor) -> Tensor:
        """Estimate the weighted score vectors (n, min(M, R), D), eq. 17 for each."""
        root = weights.clamp_min(0).sqrt()
        at_probes, at_base = at_probes * root.unsqueeze(1), at_base * root
        if at_probes.shape[2] > at_probes.shape[1]:
            # More classes than directions: V = W U with W (M, R), and V^T V = U^T (W^T W) U needs only a root of the
            # small W^T W, so the R columns of that root replace the M classes.
            change = at_probes - at_base.unsqueeze(1)  # (n, R, M)
            values, vectors = torch.linalg.eigh(change.nan_to_num(nan=0.0) @ change.nan_to_num(nan=0.0).transpose(1, 2))
            compressed = vectors * values.clamp_min(0).sqrt().unsqueeze(1)  # (n, R, R)
            at_probes = torch.where(change[:, :, :1].isnan(), torch.nan, compressed)
            at_base = torch.zeros_like(compressed[:, 0])
        return self.gradient(probes, at_probes, at_base)
