"""The smoothed classifier: certify and predict by asking a black box for the labels of noisy images.

Shapes: B images of C x H x W pixels in [0, 1], K classes.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from zeroth.oracles import ImageStreams, Journal, Oracle, Output
from zeroth.smoothing.bounds import certify_counts, check_alpha, check_sigma, predict_counts
from zeroth.smoothing.votes import VoteOracle, count_votes


@dataclass
class Certificate:
    """What was certified of B images; tensors on the CPU.

    Args:
        prediction: (B,) int64 class of the smoothed classifier, -1 where it abstained.
        radius: (B,) float64 l_2 radius in [0, 1] pixels in which the prediction does not change, 0 where it abstained.
        samples: (B,) int64 noisy images asked.
        seconds: (B,) float64; images are asked in shared batches, each is given its equal share.
    """

    prediction: Tensor
    radius: Tensor
    samples: Tensor
    seconds: Tensor


class SmoothedClassifier:
    r"""The class a model says most often when Gaussian noise is added to its image (Cohen et al., ICML 2019, eq. 1).

    .. math:: g(x) = \arg\max_c P(f(x + \varepsilon) = c), \qquad \varepsilon \sim N(0, \sigma^2 I)

    As in the papers, noise is added to pixels in [0, 1] and the sum is **not** clipped: the model sees values outside
    [0, 1]. An oracle that is handed in and clamps certifies the model behind the clipping, which is sound but another
    classifier; a warning says so.

    What an image draws depends on (seed, its index) and the number of samples alone, so neither ``max_batch`` nor how
    images are split over calls, shards or ranks changes a draw (on one kind of device: CPU and CUDA generators differ).

    Args:
        model: any callable images (N, C, H, W) -> scores (N, K) or labels (N,), or an oracle.
        num_classes: K.
        sigma: standard deviation of the noise, in [0, 1] pixels.
        max_batch: largest batch the model is asked at once; it bounds the memory. Default 128 on CPU, 4,096 on a GPU.
        output: what the model's scores are; only their arg max is used. An oracle has its own, and this is ignored.

    Raises:
        ValueError: num_classes < 2, sigma not positive, or max_batch beside an oracle.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any] | Oracle,
        num_classes: int,
        sigma: float,
        *,
        max_batch: int | None = None,
        output: Output = "logits",
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        check_sigma(sigma)
        if isinstance(model, Oracle):
            if max_batch is not None:
                raise ValueError(f"max_batch={max_batch} was given beside an oracle: build the oracle with it")
            if model.clamp:
                warnings.warn(
                    "the oracle clamps, so the noise is clipped to [0, 1] before the model sees it, unlike the papers: "
                    "build it with clamp=False for their setting",
                    stacklevel=2,
                )
            self.oracle = model
        else:
            self.oracle = VoteOracle(model, output=output, max_batch=max_batch, clamp=False)
        self.num_classes, self.sigma = num_classes, sigma

    def __repr__(self) -> str:
        name, batch = type(self).__name__, self.oracle.max_batch
        return f"{name}(num_classes={self.num_classes}, sigma={self.sigma}, max_batch={batch})"

    def certify(
        self,
        images: Tensor,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        *,
        seed: int,
        indices: Tensor | Sequence[int] | None = None,
        journal: Journal | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Certificate:
        """CERTIFY (Cohen et al., sect. 3.2.2): with probability at least 1 - alpha an image's radius holds.

        Args:
            images: (B, C, H, W) float in [0, 1].
            n0: samples an image that choose its class.
            n: fresh samples an image that bound the probability of that class.
            alpha: probability, for each image, that the radius is too large.
            seed: seed of all draws, >= 0.
            indices: (B,) dataset indices, which key the draws; default 0..B-1.
            journal: answers of an earlier run of the same call, and where new ones are kept.
            progress: called after each batch with (samples asked, samples in all).

        Returns:
            Certificate, n0 + n samples an image.

        Raises:
            ValueError: a bad argument.
            VictimError: the model answered NaN, a wrong shape or a class outside 0..K-1.
        """
        check_alpha(alpha)
        begin = time.perf_counter()
        votes = self._votes(images, {"n0": n0, "n": n}, seed, indices, journal, progress).numpy()  # (B, 2, K)
        prediction, radius = certify_counts(votes[:, 0], votes[:, 1], self.sigma, alpha)
        size = len(images)
        return Certificate(
            prediction=torch.from_numpy(prediction),
            radius=torch.from_numpy(radius),
            samples=torch.full((size,), n0 + n),
            seconds=torch.full((size,), (time.perf_counter() - begin) / max(size, 1), dtype=torch.float64),
        )

    def predict(
        self,
        images: Tensor,
        n: int,
        alpha: float,
        *,
        seed: int,
        indices: Tensor | Sequence[int] | None = None,
        journal: Journal | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """PREDICT (Cohen et al., sect. 3.2.1): with probability at least 1 - alpha an answer that is a class is right.

        Args:
            images: (B, C, H, W) float in [0, 1].
            n: samples an image.
            alpha: probability, for each image, of a class that is not the smoothed classifier's.
            seed: seed of all draws, >= 0.
            indices: (B,) dataset indices, which key the draws; default 0..B-1.
            journal: answers of an earlier run of the same call, and where new ones are kept.
            progress: called after each batch with (samples asked, samples in all).

        Returns:
            (B,) int64 classes, -1 where the first two could not be told apart.

        Raises:
            ValueError: a bad argument.
            VictimError: the model answered NaN, a wrong shape or a class outside 0..K-1.
        """
        check_alpha(alpha)
        votes = self._votes(images, {"n": n}, seed, indices, journal, progress)  # (B, 1, K)
        return torch.from_numpy(predict_counts(votes[:, 0].numpy(), alpha))

    def _votes(
        self,
        images: Tensor,
        samples: dict[str, int],
        seed: int,
        indices: Tensor | Sequence[int] | None,
        journal: Journal | None,
        progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        """Check the input and count: (B, len(samples), K)."""
        for field, value in samples.items():
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{field} must be an integer of at least 1, got {value!r}")
        if images.ndim != 4 or not images.is_floating_point():
            got = f"{images.dtype} of shape {tuple(images.shape)}"
            raise ValueError(f"images must be float of shape (B, C, H, W), pixels in [0, 1], got {got}")
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError(
                f"images must lie in [0, 1], got values in [{float(images.min()):.4g}, {float(images.max()):.4g}]: "
                "scale the pixels, and normalise inside the model"
            )
        keys = torch.arange(len(images)) if indices is None else torch.as_tensor(indices, device="cpu")
        if keys.shape != (len(images),) or (len(keys) and keys.is_floating_point()):
            got = f"{keys.dtype} of shape {tuple(keys.shape)}"
            raise ValueError(
                f"indices must be one dataset index an image, integers of shape ({len(images)},), got {got}"
            )
        streams = ImageStreams(seed, keys, self.oracle.device)
        return count_votes(
            self.oracle,
            images,
            sigma=self.sigma,
            phases=list(samples.values()),
            num_classes=self.num_classes,
            streams=streams,
            journal=journal,
            progress=progress,
        )
