"""Any zeroth-order rule as an optimizer of torch, for what can only be asked for its loss.

Shapes: d parameters altogether, Q points.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from zeroth.optimizers.zeroth_order import State, ZerothOrder
from zeroth.oracles.oracle import exact_float32


class BlackBoxOptimizer(torch.optim.Optimizer):
    """Minimises a loss that a closure returns and nobody differentiates: one problem, of all parameters flattened.

    .. code-block:: python

        rule = ZOAdam(delta=8, estimator=RGE(q=20, mu=1e-3, distribution="gaussian"))
        optimizer = BlackBoxOptimizer(model.parameters(), rule=rule, seed=0)
        optimizer.step(lambda: loss(model(images), labels))   # 21 losses, no backward()

    Schedulers of torch work: they set the learning rate of each group, which replaces the rule's own, delta / d or
    alpha. ``state_dict`` holds the generator, the rule's state, and the counts of steps and queries, so that a loaded
    optimizer goes on bit by bit; a rule's networks are saved apart, by its own ``state_dict``.

    Args:
        params: floating-point parameters on one device, or groups of them, which may have an ``lr`` of their own.
        rule: what moves them; put into eval mode and on the parameters' device.
        lr: learning rate; default the rule's.
        seed: of the directions, at least 0 and below 2^64.

    Raises:
        ValueError: parameters are on several devices, or of no floating-point type; lr or seed is out of its range.
    """

    def __init__(self, params: ParamsT, *, rule: ZerothOrder, lr: float | None = None, seed: int = 0) -> None:
        if lr is not None and not lr >= 0:
            raise ValueError(f"lr must be >= 0 or None, got {lr}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be >= 0 and below 2^64, got {seed}")
        super().__init__(params, {"lr": lr})
        held = self._parameters
        if len(devices := {str(parameter.device) for parameter in held}) > 1:
            raise ValueError(f"parameters must be on one device, got {sorted(devices)}")
        if bad := [parameter.dtype for parameter in held if not parameter.is_floating_point()]:
            raise ValueError(f"parameters must be floating-point numbers, got {bad[0]}")
        self.steps, self.queries = 0, 0
        theta = self._theta()
        self.rule = rule.eval().to(theta.device)
        for group in self.param_groups:
            group["lr"] = rule.learning_rate(theta.shape[1]) if group["lr"] is None else group["lr"]
        self._rule_state: State = rule.begin(1, theta.shape[1], theta.device, theta.dtype)
        self._generator = torch.Generator(theta.device).manual_seed(seed)

    @property
    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _theta(self) -> Tensor:
        """Return all parameters as one row (1, d), float32, or float64 where one of them is."""
        held = self._parameters
        dtype = torch.float64 if any(parameter.dtype == torch.float64 for parameter in held) else torch.float32
        return torch.cat([parameter.detach().flatten().to(dtype) for parameter in held]).unsqueeze(0)

    def _write(self, point: Tensor) -> None:
        """Set the parameters to a point (d,)."""
        held = self._parameters
        for parameter, part in zip(held, point.split([parameter.numel() for parameter in held]), strict=True):
            parameter.copy_(part.view_as(parameter))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """Take a step.

        Args:
            closure: returns the loss of the parameters as they are, a number or a tensor of one; called with gradients
                off, once a query. It must be the same function throughout a step: the same minibatch and dropout mask.

        Returns:
            the loss before the step; the mean of the losses asked where the rule's estimator does not ask it.

        Raises:
            ValueError: there is no closure.
            FloatingPointError: a loss is NaN or infinite. The parameters are as before the step then, as they are
                whatever the closure raises.
        """
        if closure is None:
            raise ValueError("step needs a closure that returns the loss: a zeroth-order optimizer asks it many times")
        theta = self._theta()

        def losses(points: Tensor) -> Tensor:  # (1, Q, d) -> (1, Q)
            values = [[self._ask(closure, point) for point in points[0]]]
            return torch.tensor(values, dtype=points.dtype, device=points.device)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(1, *shape, generator=self._generator, device=theta.device, dtype=theta.dtype)

        after = theta
        try:
            with exact_float32(theta.device.type):
                taken = self.rule.step(
                    losses, theta, self._rule_state, iteration=self.steps, draw=draw, lr=self._learning_rates(theta)
                )
            after, self._rule_state = taken.theta, taken.state
        finally:
            self._write(after[0])
        self.steps += 1
        return float(taken.value)

    def _ask(self, closure: Callable[[], Any], point: Tensor) -> float:
        """Return the loss at a point (d,)."""
        self._write(point)
        loss = float(closure())
        self.queries += 1
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at query {self.queries}, step {self.steps}: lower the learning rate, or look at "
                "what the closure makes of these parameters"
            )
        return loss

    def _learning_rates(self, theta: Tensor) -> Tensor:
        """Return (d,), each parameter's rate that of its group."""
        sizes = [sum(parameter.numel() for parameter in group["params"]) for group in self.param_groups]
        rates = [theta.new_full((size,), group["lr"]) for size, group in zip(sizes, self.param_groups, strict=True)]
        return torch.cat(rates)

    def state_dict(self) -> dict[str, Any]:
        """Return what torch's optimizers save, and the generator, the rule's state and the counts."""
        return super().state_dict() | {
            "generator": self._generator.get_state(),
            "kind": type(self.rule).__name__,
            "sizes": [parameter.numel() for parameter in self._parameters],
            "rule": dict(self._rule_state),
            "steps": self.steps,
            "queries": self.queries,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: it is that of another rule, of other parameters, or of another optimizer.
        """
        own = self.state_dict()
        if missing := sorted(set(own) - set(state_dict)):
            raise ValueError(f"the state is of no BlackBoxOptimizer: it has no {missing[0]!r}")
        given: State = state_dict["rule"]
        sizes, theirs = ({key: tuple(held.shape) for key, held in told.items()} for told in (own["rule"], given))
        for what, ours, other in (
            ("rule", own["kind"], state_dict["kind"]),
            ("sizes of parameters", own["sizes"], state_dict["sizes"]),
            ("state of the rule", sizes, theirs),
        ):
            if ours != other:
                raise ValueError(f"the state is of another optimizer: {what} {ours} here, got {other}")
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._rule_state = {key: given[key].to(held, copy=True) for key, held in self._rule_state.items()}
        self._generator.set_state(state_dict["generator"].cpu())
        self.steps, self.queries = state_dict["steps"], state_dict["queries"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters while it is built; later ones would change the dimension under the rule's state."""
        if hasattr(self, "rule"):
            raise NotImplementedError(
                "BlackBoxOptimizer takes no parameters after it is built: give all of them at once"
            )
        super().add_param_group(param_group)
