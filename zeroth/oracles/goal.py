"""What counts as an adversarial answer, and how far an adversarial image is.

Shapes: B images, N asked points, K classes, D pixels.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["l1", "l2", "linf"]

# Projections onto a ball are exact to float32 rounding only.
ROUNDING = 1e-6


def margin(log_probabilities: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    r"""How far an answer is from adversarial: negative exactly where the goal is met (ZO-NGD eq. 2, no floor).

    .. math:: m = \log p_t - \max_{i \ne t} \log p_i \quad \text{(untargeted)}
    .. math:: m = \max_{i \ne y} \log p_i - \log p_y \quad \text{(targeted)}

    Args:
        log_probabilities: (..., K).
        labels: (...) true labels t, broadcast against the leading dimensions.
        targets: (...) wanted labels y; None for an untargeted attack.

    Returns:
        (...) margins.
    """
    key = (labels if targets is None else targets).expand(log_probabilities.shape[:-1]).unsqueeze(-1)
    own = log_probabilities.gather(-1, key).squeeze(-1)
    other = log_probabilities.scatter(-1, key, -torch.inf).amax(-1)
    return own - other if targets is None else other - own


def least_likely(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the wrong class of the least log-probability, the first of equal ones: (..., K), labels (...) -> (...)."""
    wrong = log_probabilities.detach().scatter(-1, labels.expand(log_probabilities.shape[:-1]).unsqueeze(-1), torch.inf)
    return wrong.argmin(-1)


def distance(delta: Tensor, norm: Norm) -> Tensor:
    """Norm of each perturbation: (N, ...) -> (N,), in [0, 1] pixels."""
    order = {"l1": 1, "l2": 2, "linf": torch.inf}[norm]
    return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)


@dataclass(frozen=True)
class Goal:
    """The answers an attack is after.

    Args:
        labels: (B,) true labels.
        targets: (B,) wanted labels, None for untargeted attacks.
        kappa: confidence: the margin must be at most -kappa (scores only; labels have no confidence).
        least_likely: the targets are the wrong classes that the victim's first answers hold for the least likely.
            Until :meth:`settled`, ``targets`` is None and the margin is about the least likely class of each answer.
    """

    labels: Tensor
    targets: Tensor | None = None
    kappa: float = 0.0
    least_likely: bool = False

    def settled(self, answers: Tensor) -> "Goal":
        """Read the targets off the first answers, log-probabilities (B, K), if they are still to be read.

        The target of an image that was not asked, whose answer is NaN, is its label: it is never in play.
        """
        if not self.least_likely:
            return self
        targets, asked = self.labels.clone(), ~answers.isnan().any(1)
        targets[asked] = least_likely(answers[asked], self.labels[asked])
        return replace(self, targets=targets, least_likely=False)

    @property
    def key(self) -> Tensor:
        """(B,) the class each attack is about: the target, or the label of an untargeted one."""
        return self.labels if self.targets is None else self.targets

    def margin(self, answers: Tensor, rows: Tensor) -> Tensor:
        """Margin of log-probabilities (n, ..., K) of rows (n,): (n, ...)."""
        shape = (-1, *[1] * (answers.ndim - 2))
        labels = self.labels[rows].reshape(shape)
        if self.least_likely:
            return margin(answers, labels, least_likely(answers, labels))
        return margin(answers, labels, None if self.targets is None else self.targets[rows].reshape(shape))

    def met(self, answers: Tensor, rows: Tensor) -> Tensor:
        """(N,) bool: which answers, log-probabilities (N, K) or labels (N,), are adversarial for rows (N,)."""
        if answers.ndim == 1:
            return answers != self.labels[rows] if self.targets is None else answers == self.targets[rows]
        margins = self.margin(answers, rows)
        # A tie is no success: the victim's argmax may still be the true label.
        return (margins < 0) & (margins <= -self.kappa)

    def out_of_play(self, predicted: Tensor) -> tuple[Tensor, str]:
        """(B,) bool: the images whose first answer leaves nothing to attack, and the reason to report."""
        if self.targets is None:
            return predicted != self.labels, "misclassified"
        return predicted == self.targets, "already_target"


@dataclass(frozen=True)
class Ball:
    """The set of allowed perturbations: norm at most epsilon, in [0, 1] pixels."""

    norm: Norm
    epsilon: float

    def contains(self, delta: Tensor) -> Tensor:
        """(N, ...) perturbations -> (N,) bool; float32 rounding of a projected point is forgiven."""
        return distance(delta, self.norm) <= self.epsilon + ROUNDING * max(1.0, self.epsilon)
