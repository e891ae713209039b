"""A step of Adam whose entries have each taken a number of steps of their own (Kingma and Ba, ICLR 2015).

torch.optim counts steps of a whole tensor; images of a batch begin their searches at different times, and coordinate
descent moves a few coordinates at a time.
"""

from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def adam_step(
    gradient: Tensor, first: Tensor, second: Tensor, steps: Tensor, learning_rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what to subtract, and the new moments, all of the gradient's shape.

    Args:
        gradient: any shape.
        first: moments of the gradient.
        second: moments of its square.
        steps: how many steps were taken, this one included, at least 1; broadcast against the gradient.
        learning_rate: Adam's.
    """
    first = BETA1 * first + (1 - BETA1) * gradient
    second = BETA2 * second + (1 - BETA2) * gradient.square()
    taken = steps.double()
    mean = first / (1 - BETA1**taken).float()
    scale = (second / (1 - BETA2**taken).float()).sqrt()
    return learning_rate * mean / (scale + EPSILON), first, second
