"""How images are sent through a module that is not in use yet, to see whether its parts fit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def trying(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode without gradients, then each of its parts back into the mode that it had.

    What is sent through it meanwhile enters no running statistics.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training
