"""Random draws that belong to an image, not to the batch it happens to be in.

Shapes: B images, n of them drawn for at a time.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def unit(directions: Tensor) -> Tensor:
    """Scale directions (B, Q, ...) to unit l_2 norm, each over all but the first two dimensions."""
    norms = torch.linalg.vector_norm(directions.flatten(2), dim=2).clamp_min(1e-12)
    return directions / norms.reshape(*norms.shape, *[1] * (directions.ndim - 2))


def derived_seed(seed: int, *purpose: int) -> int:
    """Return a seed for one purpose, told by numbers >= 0, out of a seed."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0])


class ImageStreams:
    """One random stream an image, keyed by the seed and the image's index in its dataset.

    What image i draws depends on (seed, index of i, what i drew before) alone: not on batch size, on its neighbours or
    on the number of devices. It is the same on every run on the same kind of device; CPU and CUDA generators differ.

    Args:
        seed: >= 0, below 2^32. torch seeds its CPU generator by 32 bits: a few of 100,000 images share a stream.
        indices: (B,) dataset indices, >= 0.
        device: where the draws are made.
    """

    def __init__(self, seed: int, indices: Tensor | Sequence[int], device: torch.device | str = "cpu") -> None:
        keys = torch.as_tensor(indices).tolist()
        # Larger numbers would span two words of the SeedSequence, and [2^32 + 1, 0] would equal [1, 1].
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be >= 0 and below 2^32, got {seed}")
        if keys and min(keys) < 0:
            raise ValueError(f"indices must be dataset indices >= 0, got {min(keys)}")
        self.seed, self.device = seed, torch.device(device)
        self.keys: list[int] = keys
        self._generators: list[torch.Generator | None] = [None] * len(keys)

    def generator(self, row: int) -> torch.Generator:
        """Return the stream of one image; made at its first use, since most images of a batch may never draw."""
        generator = self._generators[row]
        if generator is None:
            state = np.random.SeedSequence([self.seed, self.keys[row]]).generate_state(1, np.uint64)
            generator = torch.Generator(self.device).manual_seed(int(state[0]))
            self._generators[row] = generator
        return generator

    def randn(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normal numbers, (n, *shape)."""
        return self._draw(Tensor.normal_, rows, shape)

    def rand(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw numbers uniform on [0, 1), (n, *shape)."""
        return self._draw(Tensor.uniform_, rows, shape)

    def sphere(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw Q directions uniform on the unit l_2 sphere, (n, *shape); shape is (Q, *shape of a direction)."""
        return unit(self.randn(rows, shape))

    def _draw(self, fill: Callable[..., Tensor], rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        out = torch.empty(len(rows), *shape, device=self.device)
        for block, row in zip(out, rows.tolist(), strict=True):
            fill(block, generator=self.generator(row))
        return out
