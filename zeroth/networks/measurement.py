"""Gaussian measurements of images, what a reconstructor recovers them from (ZO-AE-DS, Zhang et al. 2022, section 5.3).

Shapes: B images, D = C x H x W pixels, M measurements.
"""

import torch
from torch import Tensor, nn


class GaussianMeasurement(nn.Module):
    r"""Measures images by M random sums of their pixels and projects the measurements back.

    .. math:: y = A^\top x, \quad \hat x = A y, \quad A \in R^{D \times M}, \quad A_{ij} \sim N(0, 1 / M)

    :math:`E[A A^\top] = I`, so the back-projection is the image plus noise of the sampling. (The paper's A is the
    transpose: it writes y = A x and gives A^T y to the reconstructor.)

    A belongs to the seed and is drawn on the CPU, so that it is the same on every device; no file of weights holds it.

    Args:
        image_shape: (C, H, W) of the images.
        measurements: M; the paper takes 576 of MNIST's 784 pixels.
        seed: of A.

    Raises:
        ValueError: measurements is less than 1, or images of another shape are measured.
    """

    matrix: Tensor  # (D, M)

    answers = "images"  # no victim of attacks

    def __init__(
        self, *, image_shape: tuple[int, int, int] = (1, 28, 28), measurements: int = 576, seed: int = 0
    ) -> None:
        super().__init__()
        if measurements < 1:
            raise ValueError(f"measurements must be at least 1, got {measurements}")
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.measurements = measurements
        self.seed = seed
        pixels = channels * height * width
        matrix = torch.randn(pixels, measurements, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("matrix", matrix / measurements**0.5, persistent=False)

    def measure(self, images: Tensor) -> Tensor:
        """Measure images (B, C, H, W): y (B, M)."""
        if images.shape[1:] != self.image_shape:
            sides = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images must have shape (B, {sides}), got {tuple(images.shape)}")
        return images.flatten(1) @ self.matrix

    def back_project(self, y: Tensor) -> Tensor:
        """Project measurements (B, M) back: (B, C, H, W), of any range."""
        return (y @ self.matrix.T).unflatten(1, self.image_shape)

    def forward(self, images: Tensor) -> Tensor:
        """Measure images and project back, rescaled to what a reconstructor takes: each image's least pixel is 0, its
        greatest 1, and an image whose back-projection is constant is all 0."""
        flat = self.back_project(self.measure(images)).flatten(1)  # (B, D)
        low, high = flat.aminmax(dim=1, keepdim=True)
        span = torch.where(high > low, high - low, 1.0)  # a black image has none
        return ((flat - low) / span).unflatten(1, self.image_shape)
