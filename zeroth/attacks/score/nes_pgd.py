"""NES-PGD: projected gradient descent on natural-evolution-strategy estimates (Ilyas et al., ICML 2018).

Shapes: B images, n active rows, D pixels.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zeroth.attacks.losses import Loss, check_loss, loss_values
from zeroth.attacks.score.sampled import Probes, SampledAttack
from zeroth.oracles import Trial


class NESPGD(SampledAttack):
    """Sign steps along a momentum of antithetic estimates, the step cut when the loss has stopped falling.

    The defaults are ours, tuned on MNIST training images (40 trials); ``configs/attack/nes_pgd_paper.yaml`` has the
    paper's.

    Args:
        epsilon: radius of the l_inf ball, [0, 1] pixels; paper .05 on ImageNet, .4 in the MNIST table of ZO-NGD.
        samples: antithetic pairs an iteration, two queries each; paper 25.
        sigma: length scale of the search: a probe moves sigma a pixel on average; paper .001. A unit direction is
            moved by sigma sqrt(D), so it means the same at every image size.
        learning_rate: size of the sign step; None takes 2 epsilon; paper .01.
        smallest_rate: where cutting ends; None takes learning_rate / 16; paper 5e-5.
        momentum: weight of the old direction; paper .9.
        window: the rate is halved when the loss has risen over so many iterations; paper 5.
        loss: "cross_entropy" (paper) or "margin".
        cells: draw directions on a grid of cells x cells; None for pixels (paper).
        iterations: give an image up after so many steps; None for no end but the budget.
        kappa: confidence of an adversarial point.
        accept: "all" asked points count, or only "iterates" (paper).

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    antithetic: ClassVar[bool] = True

    def __init__(
        self,
        *,
        epsilon: float = 0.4,
        samples: int = 3,
        sigma: float = 0.002,
        learning_rate: float | None = None,
        smallest_rate: float | None = None,
        momentum: float = 0.66,
        window: int = 4,
        loss: Loss = "margin",
        cells: int | None = 7,
        iterations: int | None = None,
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma must be > 0 in [0, 1] pixels, got {sigma}")
        super().__init__(
            epsilon=epsilon, samples=samples, mu=sigma, cells=cells, iterations=iterations, kappa=kappa, accept=accept
        )
        learning_rate = self.step_size(learning_rate)
        smallest_rate = learning_rate / 16 if smallest_rate is None else smallest_rate
        if not 0 < smallest_rate <= learning_rate:
            raise ValueError(f"smallest_rate must lie in (0, learning_rate = {learning_rate}], got {smallest_rate}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        if window < 1:
            raise ValueError(f"window must be at least 1 iteration, got {window}")
        check_loss(loss)
        self.sigma, self.learning_rate, self.smallest_rate = sigma, learning_rate, smallest_rate
        self.momentum, self.window = momentum, window
        self.loss: Loss = loss

    def length(self, dimension: int) -> float:
        """Return sigma sqrt(D)."""
        return self.sigma * math.sqrt(dimension)

    def begin(self, trial: Trial) -> dict[str, Tensor]:
        """See :class:`SampledAttack`."""
        images = trial.images
        return {
            "velocity": torch.zeros_like(images.flatten(1)),
            "rate": images.new_full((len(images),), self.learning_rate),
            "losses": images.new_full((len(images), self.window), torch.nan),
        }

    def descend(self, trial: Trial, probes: Probes, state: dict[str, Tensor]) -> Tensor:
        """Return rate x sign(momentum of the estimates)."""
        rows, velocity, rate, losses = probes.rows, state["velocity"], state["rate"], state["losses"]
        now = self.objective(trial, probes.base, rows)
        estimate = self.gradient(probes, self.objective(trial, probes.answers, rows), now)
        velocity[rows] = self.momentum * velocity[rows] + (1 - self.momentum) * estimate
        slot = probes.iteration % self.window  # holds the loss of ``window`` iterations ago
        risen = now > losses[rows, slot]
        losses[rows, slot] = now
        # Having cut the rate, wait a whole window before judging it again.
        losses[rows[risen]] = torch.nan
        rate[rows[risen]] = (rate[rows[risen]] / 2).clamp_min(self.smallest_rate)
        return rate[rows].unsqueeze(1) * velocity[rows].sign()

    def objective(self, trial: Trial, answers: Tensor, rows: Tensor) -> Tensor:
        """Margin, or the log-probability of the label (untargeted) or against the target: (n, ...)."""
        if self.loss == "margin":
            return super().objective(trial, answers, rows)
        return loss_values(trial, answers, rows, self.loss)
