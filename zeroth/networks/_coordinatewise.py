"""One small LSTM that every coordinate of a problem runs for itself, with a hidden state of its own.

Shapes: B problems, d coordinates.
"""

from typing import Any

import torch
from torch import Tensor, nn

Memory = tuple[Tensor, Tensor]  # hidden and cell state, (B, hidden, d) each


class CoordinatewiseLSTM(nn.Module):
    """A one-layer LSTM and a linear map to one number a coordinate, both without biases (ZO-L2L, sect. 4).

    Args:
        inputs: numbers that a coordinate shows at each iteration.
        hidden: hidden units.

    Raises:
        ValueError: hidden is below 1, or loaded weights have another hidden size.
    """

    answers = "steps"  # no victim of attacks

    def __init__(self, *, inputs: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1 unit, got {hidden}")
        self.hidden = hidden
        self.cell = nn.LSTMCell(inputs, hidden, bias=False)
        self.output = nn.Linear(hidden, 1, bias=False)
        with torch.no_grad():
            self.output.weight.mul_(0.1)  # an untrained network then moves, or bends its sampling, by little
        self.register_load_state_dict_pre_hook(self._check_hidden)

    def begin(self, batch: int, dimension: int, device: torch.device | str = "cpu") -> Memory:
        """Return the memory of B trajectories at their start: zeros, in the dtype of the weights."""
        zeros = self.output.weight.new_zeros(batch, self.hidden, dimension, device=device)
        return zeros, zeros.clone()

    def advance(self, seen: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Show (B, inputs, d), return the outputs (B, d) and the new memory.

        What ``self.cell`` computes on B x d rows, with coordinates last: twice as fast on a CPU, where four gates side
        by side keep the sigmoids from being vectorised, and the same bits whatever B, where the rows of one large
        product are rounded by their place in it.
        """
        batch, size, dtype = len(seen), self.hidden, seen.dtype
        seen = seen.to(self.output.weight.dtype)  # a float64 problem may be solved by a float32 network
        gates = torch.baddbmm(
            torch.bmm(self.cell.weight_ih.expand(batch, -1, -1), seen),
            self.cell.weight_hh.expand(batch, -1, -1),
            memory[0],
        )  # (B, 4 hidden, d): in, forget, candidate, out
        let_in, keep = gates[:, : 2 * size].sigmoid().chunk(2, 1)
        cell = keep * memory[1] + let_in * gates[:, 2 * size : 3 * size].tanh()
        hidden = gates[:, 3 * size :].sigmoid() * cell.tanh()
        return (self.output.weight.view(1, size, 1) * hidden).sum(1).to(dtype), (hidden, cell)

    @staticmethod
    def _check_hidden(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Refuse weights of another hidden size before torch lists the shapes of all of them."""
        weights = state.get(f"{prefix}output.weight")
        if weights is not None and weights.shape[1] != module.hidden:
            name = type(module).__name__
            raise ValueError(
                f"hidden is {module.hidden} in this {name}, and {weights.shape[1]} in the checkpoint: "
                f"build {name}(hidden={weights.shape[1]}) for these weights"
            )
