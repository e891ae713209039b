"""RayS: sign directions refined block by block, one label a block (Chen and Gu, KDD 2020).

Shapes: B images, n rows, C x H x W pixels, D of them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.label.label_attack import LabelAttack
from zeroth.attacks.label.ray_search import FLOAT32_STEP, ask
from zeroth.oracles import Trial

# Bits of a coordinate along the Z-order curve; images are not wider than 2^16 pixels.
BITS = 16


@dataclass
class State:
    """Where each image stands.

    ``signs`` (B, D), in the order of the blocks, are adversarial at radius ``high`` (B,), which is inf before a start.
    ``searching`` (B,) tells who looks for the radius of these signs: ``low`` (B,) is not adversarial, or 0, and while
    it is 0 ``step`` (B,) is the next relative step down. The others flip block ``block`` (B,) of level ``level`` (B,);
    ``lowered`` (B,) tells whether ``high`` fell since level 0.
    """

    signs: Tensor
    low: Tensor
    high: Tensor
    step: Tensor
    searching: Tensor
    level: Tensor
    block: Tensor
    lowered: Tensor


class RayS(LabelAttack):
    r"""Find the signs along which the boundary is nearest by flipping ever smaller blocks of them.

    .. math:: \min_{s \in \{-1, 1\}^D} g(s), \quad g(s) = \min \{r: f(x_0 + r s) \ne y_0\}

    Level k = 0, 1, ... cuts the pixels into 2^k blocks and flips one after another. A flip is asked at the present
    radius first: where that is not adversarial, one query has rejected it; where it is, the flip is taken and a search
    goes down to its radius. Before anything adversarial is found, flips are asked at radius 1, where every pixel is
    black or white. After single pixels the blocks begin anew at level 0; an image whose radius fell at no level is done
    (the published program flips single pixels for ever).

    One query an image and request, whatever its phase, so that a request holds every image in play.

    The defaults are ours, set by hand on MNIST training images; ``configs/attack/rays_paper.yaml`` has the paper's.

    Args:
        blocks: runs of pixels in the order of "rows", as they lie in memory (paper), or of "squares", along the Z-order
            curve with the channels of a pixel together: halves, quarters, ... of the image.
        step: a search goes down from the present radius by this share of it, doubled each time up to .5, and then
            bisects; .5 is the paper's bisection from 0.
        tolerance: relative width at which a search ends; the published program ends at an absolute .001 of the l_2
            length.
        tries: targeted attacks with a pool: images of the target class whose black and white versions are tried as
            starts; without a pool it starts only where a black and white pattern of blocks is of the target class. The
            paper is untargeted; its program starts targeted attacks as all others, from white.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    norm: Literal["linf"] = "linf"

    def __init__(
        self,
        *,
        blocks: Literal["rows", "squares"] = "squares",
        step: float = 0.01,
        tolerance: float = 0.002,
        tries: int = 10,
    ) -> None:
        if blocks not in ("rows", "squares"):
            raise ValueError(f"blocks must be 'rows' or 'squares', got {blocks!r}")
        if not 0 < step <= 0.5:
            raise ValueError(f"step must lie in (0, .5], a share of the radius, got {step}")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), a share of the radius, got {tolerance}")
        if tries < 1:
            raise ValueError(f"tries must be at least 1, got {tries}")
        self.blocks, self.step, self.tolerance, self.tries = blocks, step, tolerance, tries
        self.request = tries

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        images = trial.images
        order = pixel_order(self.blocks, *images.shape[1:]).to(images.device)
        back = order.argsort()
        zero = images.new_zeros(len(images))
        state = State(
            signs=torch.ones_like(images).flatten(1),
            low=zero,
            high=zero + torch.inf,
            step=zero + self.step,
            searching=zero.bool(),
            level=zero.long(),
            block=zero.long(),
            lowered=zero.bool(),
        )
        rows = trial.active
        if self.pool is not None and trial.goal.targets is not None:
            points, ready = self.pool.of(trial.goal.targets[rows], 0, self.tries)
            self._start(trial, rows, state, torch.where(points > 0.5, 1.0, -1.0), ready, order)
        while len(rows := trial.active):
            low, high, searching = state.low[rows], state.high[rows], state.searching[rows]
            down = torch.where(low > 0, (low + high) / 2, high * (1 - state.step[rows]))
            radius = torch.where(searching, down, high.clamp_max(1))
            signs = torch.where(self._block(rows, state) & ~searching.unsqueeze(1), -1.0, 1.0) * state.signs[rows]
            corner = signs[:, back].reshape(-1, *images.shape[1:])
            met = ask(trial, rows, images[rows] + radius.reshape(-1, 1, 1, 1) * corner)
            rows, signs, searching, radius, met = trial.keep(rows, signs, searching, radius, met)
            state.signs[rows] = torch.where(met.unsqueeze(1), signs, state.signs[rows])
            state.high[rows] = torch.where(met, radius, state.high[rows])
            state.low[rows] = torch.where(met, state.low[rows], radius).where(searching, 0)
            state.step[rows] = (2 * state.step[rows]).clamp_max(0.5).where(searching, self.step)
            state.lowered[rows] |= met & searching
            self._advance(trial, rows[~searching], state)
            width = (state.high[rows] - state.low[rows]) / state.high[rows]
            # A thousandth more: where the tolerance is the step, rounding should not decide. float32 tells no less.
            state.searching[rows] = (searching | met) & (width > max(1.001 * self.tolerance, FLOAT32_STEP))

    def _start(self, trial: Trial, rows: Tensor, state: State, signs: Tensor, ready: Tensor, order: Tensor) -> None:
        """Begin at the first adversarial one of corners (n, Q, C, H, W), of which ``ready`` (n,) are there."""
        clean = trial.images[rows].unsqueeze(1)
        met = trial.adversarial(clean + signs, rows, torch.minimum(ready, trial.remaining(rows)))
        which = met.any(1).nonzero().flatten()
        theirs, first = rows[which], signs[which, met[which].int().argmax(1)]
        state.signs[theirs], state.high[theirs], state.searching[theirs] = first.flatten(1)[:, order], 1.0, True

    def _block(self, rows: Tensor, state: State) -> Tensor:
        """Return which signs the block of each row holds, (n, D) bool."""
        dimension = state.signs.shape[1]
        size = self._size(rows, state)
        first = (state.block[rows] * size).unsqueeze(1)
        place = torch.arange(dimension, device=rows.device)
        return (place >= first) & (place < first + size.unsqueeze(1))

    def _size(self, rows: Tensor, state: State) -> Tensor:
        """Return the pixels of a block, (n,): D / 2^level rounded up."""
        return -(-state.signs.shape[1] // 2 ** state.level[rows])

    def _advance(self, trial: Trial, rows: Tensor, state: State) -> None:
        """Go to the next block, from the last of a level to the next level, from single pixels to level 0."""
        size = self._size(rows, state)
        state.block[rows] += 1
        over = state.block[rows] * size >= state.signs.shape[1]
        state.block[rows[over]] = 0
        state.level[rows[over]] += 1
        last = rows[over & (size == 1)]
        trial.retire(last[state.high[last].isinf()], "no start")
        trial.retire(last[~state.lowered[last]], "converged")
        state.level[last] = 0
        state.lowered[last] = False


def pixel_order(blocks: Literal["rows", "squares"], channels: int, height: int, width: int) -> Tensor:
    """Return the pixels in an order of which blocks are runs, (D,) int64 places in a flattened C x H x W image.

    On the Z-order curve the bits of row and column alternate, so that runs of 2^k pixels are squares and pairs of
    squares; coordinates are shares of the image, because its sides need not be powers of two.
    """
    pixels = torch.arange(channels * height * width)
    if blocks == "rows":
        return pixels
    down = (pixels // width % height) * 2**BITS // height
    across = (pixels % width) * 2**BITS // width
    code = torch.zeros_like(pixels)
    for bit in range(BITS):
        code |= (down >> bit & 1) << (2 * bit + 1) | (across >> bit & 1) << (2 * bit)
    return code.argsort(stable=True)
