"""What gradient attacks share: the first gradient, the steepest step of a norm, and the way back into its ball.

Shapes: B images, N perturbations, n rows, K classes, C x H x W pixels.
"""

import torch
from torch import Tensor

from zeroth.attacks.losses import Loss, objective
from zeroth.oracles import Trial, distance
from zeroth.oracles.goal import Norm


def margin_gradient(trial: Trial) -> Tensor:
    """Return the margin's gradient at the clean images (B, C, H, W), which came with their check.

    Raises:
        ValueError: the trial's oracle gives none.
    """
    if trial.start_gradient is None:
        raise ValueError(f"gradients need a GradientOracle, got {type(trial.oracle).__name__}")
    return trial.start_gradient


def first_gradient(trial: Trial, loss: Loss) -> Tensor:
    """Return the gradient of the loss at the clean images, (B, C, H, W), NaN in rows out of play.

    The margin's is there already; the cross entropy's costs each image one more query.
    """
    if loss == "margin":
        return margin_gradient(trial)
    rows = trial.active
    gradients = torch.full_like(trial.images, torch.nan)
    gradients[rows] = trial.gradient(trial.images[rows], rows, objective(trial, loss), iterate=False)[1]
    return gradients


def elastic_net(delta: Tensor, beta: float) -> Tensor:
    """Return l_2^2 + beta l_1 of perturbations: (N, C, H, W) -> (N,) (thesis eq. 16)."""
    return distance(delta, "l2").square() + beta * distance(delta, "l1")


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    r"""Return the step of the fast gradient methods, of length 1 in the norm (thesis eqs. 7 and 8).

    .. math:: \text{sign}(g) \quad (l_\infty), \qquad g / \|g\|_q \quad (q = 1, 2)

    For l_1 this is the step of the thesis and not the steepest one, which would move a single pixel. A zero gradient
    gives a zero step.

    Args:
        gradient: (N, C, H, W).
        norm: "linf", "l2" or "l1".
    """
    if norm == "linf":
        return gradient.sign()
    size = distance(gradient, norm).reshape(-1, 1, 1, 1)
    return torch.where(size > 0, gradient / size.clamp_min(torch.finfo(gradient.dtype).tiny), 0)


def clip(delta: Tensor, norm: Norm, epsilon: float | Tensor) -> Tensor:
    """Bring perturbations (N, C, H, W) into the ball of radius epsilon (a number or (N, 1, 1, 1)).

    l_inf clips each pixel; l_2 and l_1 scale the whole perturbation, which for l_2 is the projection.
    """
    radius = torch.as_tensor(epsilon, dtype=delta.dtype, device=delta.device)
    if norm == "linf":
        return delta.clamp(-radius, radius)
    size = distance(delta, norm).reshape(-1, 1, 1, 1)
    return torch.where(size > radius, delta * (radius / size.clamp_min(torch.finfo(delta.dtype).tiny)), delta)


def project(points: Tensor, clean: Tensor, norm: Norm, epsilon: float | Tensor) -> Tensor:
    """Bring points (N, C, H, W) into the ball around clean images, then into the box [0, 1].

    The box holds the clean image, so clamping takes no pixel away from it: the point stays in the ball.
    """
    return (clean + clip(points - clean, norm, epsilon)).clamp(0, 1)
