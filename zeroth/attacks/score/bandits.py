"""Bandits: gradient estimates that remember (time prior) and are flat on tiles (data prior) (Ilyas et al., ICLR 2019).

Shapes: B images, n active rows, C x H x W pixels, C x h x w tiles, m = C h w.
"""

import itertools
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroth.attacks.attack import Attack, check_accept
from zeroth.attacks.losses import Loss, check_kappa, check_loss, loss_values
from zeroth.estimators import probes
from zeroth.oracles import Oracle, ScoreOracle, Trial


def _unit(images: Tensor) -> Tensor:
    """Scale images (..., C, H, W) to unit l_2 norm; zero stays zero."""
    return images / torch.linalg.vector_norm(images, dim=(-3, -2, -1), keepdim=True).clamp_min(1e-12)


class Bandits(Attack):
    r"""Descend along a prior v that online learning keeps near the gradient (algorithms 2 and 3), Bandits_TD.

    With L the loss to raise (minus the loss of this class), x the iterate, u ~ N(0, I / m) and T the upsampling of
    tiles to pixels, one step is

    .. math:: q_\pm = \frac{T(v \pm \delta u)}{\lVert T(v \pm \delta u) \rVert}, \quad
        g = \frac{L(x + \mu q_+) - L(x + \mu q_-)}{\mu}\, u
    .. math:: v \leftarrow \tanh(\operatorname{artanh} v + \alpha g) \ (l_\infty), \quad
        v \leftarrow v + \alpha g \ (l_2)
    .. math:: x \leftarrow x + \lambda \operatorname{sign} T(v) \ (l_\infty), \quad
        x \leftarrow x + \lambda T(v) / \lVert T(v) \rVert \ (l_2)

    then projection onto ball and box. The tanh form is the exponentiated-gradient step on (v + 1) / 2; artanh v is what
    is kept, so that a large g cannot overflow or pin v to +-1. The paper divides g by delta; its program does not, and
    its constants are those below.

    Two probes a step, and one query for the new iterate every ``check`` steps, which is the success check: the
    published program does not count it. An image leaves play, and stops moving, at its first adversarial answer.

    The defaults are ours, tuned in l_inf on MNIST training images (40 trials, rounded); for l_2 see
    ``configs/attack/bandits_l2.yaml``. ``configs/attack/bandits_paper.yaml`` has the paper's.

    Args:
        norm: of the ball: "linf" or "l2".
        epsilon: radius of the ball, [0, 1] pixels; paper .05 (l_inf), 5 (l_2) on ImageNet.
        mu: length of a probe's step along its unit direction; the program's fd_eta, .1 (l_inf), .01 (l_2).
        learning_rate: lambda, size of the image's step: of each pixel (l_inf), of the whole (l_2); None takes epsilon;
            paper .01 (l_inf), .5 (l_2).
        prior_rate: alpha, of the prior's step; paper 100 (l_inf), .1 (l_2).
        exploration: delta, how far probes leave the prior; paper 1 (l_inf), .01 (l_2).
        cells: the prior is drawn on a grid of cells x cells; None for pixels; paper 50 at 299 pixels.
        check: ask the iterate after so many steps; paper 1.
        loss: "cross_entropy" (paper) or "margin".
        kappa: confidence of an adversarial point; paper 0.
        accept: "all" asked points count, or only "iterates" (paper).

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = ScoreOracle
    epsilon: float
    request = 2

    def __init__(
        self,
        *,
        norm: Literal["linf", "l2"] = "linf",
        epsilon: float = 0.4,
        mu: float = 4.0,
        learning_rate: float | None = None,
        prior_rate: float = 0.33,
        exploration: float = 3.0,
        cells: int | None = 7,
        check: int = 1,
        loss: Loss = "margin",
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
        for field, value in (("epsilon", epsilon), ("mu", mu)):
            if not value > 0:
                raise ValueError(f"{field} must be > 0 in [0, 1] pixels, got {value}")
        learning_rate = epsilon if learning_rate is None else learning_rate
        rates = (("learning_rate", learning_rate), ("prior_rate", prior_rate), ("exploration", exploration))
        for field, value in rates:
            if not value > 0:
                raise ValueError(f"{field} must be > 0, got {value}")
        for field, number in (("cells", cells), ("check", check)):
            if number is not None and number < 1:
                raise ValueError(f"{field} must be at least 1, got {number}")
        check_loss(loss)
        check_kappa(kappa)
        check_accept(accept)
        self.norm: Literal["linf", "l2", "l1"] = norm
        self.epsilon, self.mu, self.learning_rate = epsilon, mu, learning_rate
        self.prior_rate, self.exploration, self.cells, self.check = prior_rate, exploration, cells, check
        self.loss: Loss = loss
        self.kappa, self.accept = kappa, accept

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        images = trial.images
        channels, height, width = images.shape[1:]
        cells = self.cells or max(height, width)
        delta = torch.zeros_like(images)
        # artanh v (l_inf) or v (l_2)
        memory = images.new_zeros(len(images), channels, min(cells, height), min(cells, width))
        for step in itertools.count(1):
            rows = trial.active
            # Two probes, and the iterate that they lead to.
            trial.retire(rows[trial.remaining(rows) < 3], "budget")
            (rows,) = trial.keep(rows)
            if len(rows) == 0:
                return
            noise = trial.randn(rows, tuple(memory.shape[1:])) / memory[0].numel() ** 0.5
            answers = trial.query(self._probes(trial, rows, delta, memory, noise), rows, 2, iterate=False)
            rows, answers, noise = trial.keep(rows, answers, noise)
            if len(rows) == 0:
                continue
            values = loss_values(trial, answers, rows, self.loss)  # (n, 2)
            slope = (values[:, 1] - values[:, 0]) / self.mu
            memory[rows] += self.prior_rate * slope.reshape(-1, 1, 1, 1) * noise
            delta[rows] = self.move(images[rows], delta[rows], self.direction(memory[rows], height, width))
            due = rows[(trial.remaining(rows) < 3) | (step % self.check == 0)]
            trial.query((images[due] + delta[due]).unsqueeze(1), due)

    def prior(self, memory: Tensor) -> Tensor:
        """Return v of what is kept of it, same shape."""
        return memory.tanh() if self.norm == "linf" else memory

    def direction(self, memory: Tensor, height: int, width: int) -> Tensor:
        """Return T(v), (n, C, H, W): where this class's loss is believed to fall."""
        return _upsample(self.prior(memory), height, width)

    def move(self, images: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
        """Return the perturbations (n, C, H, W) one step on, inside ball and box."""
        if self.norm == "linf":
            moved = (delta + self.learning_rate * direction.sign()).clamp(-self.epsilon, self.epsilon)
        else:
            moved = delta + self.learning_rate * _unit(direction)
            length = torch.linalg.vector_norm(moved, dim=(1, 2, 3), keepdim=True)
            moved = moved * (self.epsilon / length.clamp_min(self.epsilon))
        return (images + moved).clamp(0, 1) - images

    def _probes(self, trial: Trial, rows: Tensor, delta: Tensor, memory: Tensor, noise: Tensor) -> Tensor:
        """Return the two points (n, 2, C, H, W)."""
        height, width = trial.images.shape[2:]
        around = probes(
            self.prior(memory[rows]).flatten(1).unsqueeze(1), noise.flatten(1).unsqueeze(1), self.exploration, True
        )
        directions = _upsample(around.reshape(-1, *memory.shape[1:]), height, width).unflatten(0, (-1, 2))
        return (trial.images[rows] + delta[rows]).unsqueeze(1) + self.mu * _unit(directions)


def _upsample(tiles: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(tiles, size=(height, width), mode="nearest-exact")
