"""What is done with one batch of images: the one code path of attack.py, certify.py and the evaluations inside fit.

Shapes: B images, C x H x W pixels, K classes.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from zeroth.attacks import Attack, AttackResult
from zeroth.oracles import GradientOracle, Journal, Output, ProgressUpdate
from zeroth.smoothing import Certificate, SmoothedClassifier

Victim = Callable[[Tensor], Tensor]
Targets = Literal["none", "next", "random"]


def choose_targets(rule: Targets, labels: Tensor, indices: Tensor, num_classes: int, seed: int) -> Tensor | None:
    """Wanted labels (B,): none, the class after the true one, or another one drawn by (seed, dataset index)."""
    if rule == "none":
        return None
    steps = [
        1 if rule == "next" else int(np.random.default_rng([seed, index]).integers(1, num_classes))
        for index in indices.tolist()
    ]
    return (labels + torch.tensor(steps, device=labels.device)) % num_classes


class AttackTask(LightningModule):
    """Attacks batches of images with one attack.

    Args:
        victim: callable images (N, C, H, W) in [0, 1] -> scores (N, K).
        attack: the attack.
        num_classes: K, to choose targets.
        budget: queries an image may spend.
        seed: with the dataset index it fixes all random draws of an image.
        output: what the victim's scores are.
        targeted: none, next (the class after the true one) or random.
        total_queries: cap on the queries of all images together, in order.
        max_batch: most images the victim is asked at once.

    Attributes:
        spent: queries of the batches before this one; counts against total_queries.
        journal, progress: handed to the attack; set around each batch by whoever drives the task.
    """

    def __init__(
        self,
        victim: Victim,
        attack: Attack,
        *,
        num_classes: int,
        budget: int,
        seed: int = 0,
        output: Output = "logits",
        targeted: Targets = "none",
        total_queries: int | None = None,
        max_batch: int | None = None,
    ) -> None:
        super().__init__()
        if budget < 1:
            raise ValueError(f"budget must be at least 1 query an image, got {budget}")
        if total_queries is not None and total_queries < 1:
            raise ValueError(f"total_queries must be at least 1 or null for no cap, got {total_queries}")
        self.victim, self.attack, self.num_classes = victim, attack, num_classes
        self.budget, self.seed, self.output, self.targeted = budget, seed, output, targeted
        self.total_queries, self.max_batch = total_queries, max_batch
        self.spent = 0
        self.journal: Journal | None = None
        self.progress: Callable[[ProgressUpdate], None] | None = None

    @property
    def keeps_journal(self) -> bool:
        """Whether answers can be kept on disk: gradients are not."""
        return not issubclass(self.attack.oracle_type, GradientOracle)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> AttackResult:
        """Attack a batch with keys image (B, C, H, W), label (B,) and index (B,)."""
        images, labels, indices = batch["image"], batch["label"], batch["index"]
        oracle = self.attack.oracle_type(
            self.victim,
            output=self.output,
            max_batch=self.max_batch,
            max_queries=self.total_queries,
            device=images.device,
        )
        oracle.count(self.spent)
        result = self.attack(
            oracle,
            images,
            labels,
            choose_targets(self.targeted, labels, indices, self.num_classes, self.seed),
            budget=self.budget,
            seed=self.seed,
            indices=indices,
            journal=self.journal,
            progress=self.progress,
        )
        self.spent += int(result.queries.sum())
        return result


class CertificationTask(LightningModule):
    """Certifies batches of images by randomized smoothing (Cohen et al. 2019).

    Args:
        victim: callable images (N, C, H, W) -> scores (N, K).
        num_classes: K.
        sigma: standard deviation of the noise, [0, 1] pixels.
        n0: samples that choose the class.
        n: samples that bound its probability.
        alpha: probability that a certificate is wrong.
        seed: with the dataset index it fixes the noise of an image.
        output: what the victim's scores are.
        max_batch: most noisy images the victim is asked at once.
    """

    def __init__(
        self,
        victim: Victim,
        num_classes: int,
        *,
        sigma: float,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        seed: int = 0,
        output: Output = "logits",
        max_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_certification(sigma, n0, n, alpha)
        self.victim, self.num_classes, self.sigma = victim, num_classes, sigma
        self.n0, self.n, self.alpha, self.seed = n0, n, alpha, seed
        self.output, self.max_batch = output, max_batch
        self.progress: Callable[[int, int], None] | None = None

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Certificate:
        """Certify a batch with keys image (B, C, H, W) and index (B,)."""
        smoothed = SmoothedClassifier(
            self.victim, self.num_classes, self.sigma, max_batch=self.max_batch, output=self.output
        )
        return smoothed.certify(
            batch["image"],
            n0=self.n0,
            n=self.n,
            alpha=self.alpha,
            seed=self.seed,
            indices=batch["index"],
            progress=self.progress,
        )


def check_certification(sigma: float, n0: int, n: int, alpha: float) -> None:
    """Raise ValueError for settings that certify nothing; names the option and what it may be."""
    if not sigma > 0:
        raise ValueError(f"certify.sigma must be positive ([0, 1] pixels, e.g. 0.25), got {sigma}")
    if n0 < 1 or n < 1:
        raise ValueError(f"certify.n0 and certify.n must be at least 1, got {n0} and {n}")
    if not 0 < alpha < 1:
        raise ValueError(f"certify.alpha must lie in (0, 1), e.g. 0.001, got {alpha}")
