"""Adam at first, stochastic gradient descent from some step on (ZO-AE-DS, Zhang et al., ICLR 2022, sect. 5.1)."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class AdamThenSGD(torch.optim.Optimizer):
    """torch's Adam for a number of steps, then torch's SGD; one optimizer, so that one training and one schedule do.

    Both have the same parameter groups: a schedule sets one learning rate.

    Args:
        params: parameters, or groups of them.
        lr: learning rate; paper 1e-3 for both.
        adam_steps: steps by Adam, paper 200 epochs. Counted as a training on one device takes them: on N devices an
            epoch has 1/N as many, so give 1/N of them.
        momentum: of SGD.
        weight_decay: added to the gradient, of both; the paper's program 1e-4.

    Raises:
        ValueError: adam_steps is negative, or torch refuses another argument.
    """

    def __init__(
        self, params: ParamsT, *, lr: float, adam_steps: int, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        if adam_steps < 0:
            raise ValueError(f"adam_steps must be 0 or more, got {adam_steps}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.adam_steps, self.steps = adam_steps, 0
        # Given the groups themselves, both keep them: what a schedule writes into one, the other reads.
        self.adam = torch.optim.Adam(self.param_groups, lr=lr, weight_decay=weight_decay)
        self.sgd = torch.optim.SGD(self.param_groups, lr=lr, momentum=momentum, weight_decay=weight_decay)

    @property
    def current(self) -> torch.optim.Optimizer:
        """Whose turn the next step is."""
        return self.adam if self.steps < self.adam_steps else self.sgd

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step by Adam or by SGD; counts it."""
        loss = self.current.step(closure)
        self.steps += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' states, and how many steps were taken."""
        told = super().state_dict()
        return {**told, "steps": self.steps, "adam": self.adam.state_dict(), "sgd": self.sgd.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for own, name in ((self.adam, "adam"), (self.sgd, "sgd")):
            own.load_state_dict(state_dict[name])
            own.param_groups = self.param_groups  # each has loaded groups of its own
        self.steps = state_dict["steps"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters while it is built; later ones would be unknown to one of the two."""
        if hasattr(self, "sgd"):
            raise NotImplementedError("AdamThenSGD takes no parameters after it is built: give all of them at once")
        super().add_param_group(param_group)
