"""What is done with one batch of images: the one code path of attack.py, certify.py and the evaluations inside fit.

Shapes: B images, C x H x W pixels, K classes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from zeroth.attacks import Attack, AttackResult
from zeroth.attacks.attack import check_least_likely
from zeroth.attacks.label.label_attack import LabelAttack
from zeroth.attacks.label.starts import Pool
from zeroth.oracles import GradientOracle, Journal, Output, ProgressUpdate
from zeroth.oracles.scores import name_of
from zeroth.records import random_target
from zeroth.smoothing import Certificate, SmoothedClassifier, VoteOracle
from zeroth.smoothing.bounds import check_alpha, check_sigma

Victim = Callable[[Tensor], Tensor]
Targets = Literal["none", "next", "random", "least_likely", "all"]


def choose_targets(
    rule: Literal["none", "next", "random", "least_likely"],
    labels: Tensor,
    indices: Tensor,
    num_classes: int,
    seed: int,
) -> Tensor | Literal["least_likely"] | None:
    """Wanted labels (B,): none, the class after the true one, another one drawn by (seed, dataset index); or a word.

    The least likely class is known once the victim has answered: the attack itself reads it off.
    """
    if rule == "none":
        return None
    if rule == "least_likely":
        return rule
    if rule == "next":
        return (labels + 1) % num_classes
    pairs = zip(labels.tolist(), indices.tolist(), strict=True)
    drawn = [random_target(label, index, num_classes=num_classes, seed=seed) for label, index in pairs]
    return torch.tensor(drawn, device=labels.device)


def wrong_classes(labels: Tensor, num_classes: int) -> Tensor:
    """All classes but the true one, ascending: (B,) -> (B, K - 1)."""
    steps = torch.arange(1, num_classes, device=labels.device)
    return ((labels.unsqueeze(1) + steps) % num_classes).sort(1).values


class EvaluationTask(LightningModule):
    """What an evaluation does with a batch, as ``predict_step``.

    Attributes:
        rows_an_image: how many rows an image gives.
        journal, progress: set around each batch by whoever drives the task; None keeps and tells nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows_an_image = 1
        self.journal: Journal | None = None
        self.progress: Callable[[ProgressUpdate], None] | None = None

    @property
    def keeps_journal(self) -> bool:
        """Whether the victim's answers can be kept on disk."""
        return True


class AttackTask(EvaluationTask):
    """Attacks batches of images with one attack.

    Args:
        victim: callable images (N, C, H, W) in [0, 1] -> scores (N, K).
        attack: the attack.
        num_classes: K, to choose targets.
        budget: queries an image may spend; with ``targeted: all``, a pair of an image and a target.
        seed: with the dataset index it fixes all random draws of an image.
        output: what the victim's scores are.
        targeted: none, next (the class after the true one), random (by seed and dataset index), least_likely (by
            the answer of the first check) or all (K - 1 rows an image, one a wrong class, ascending).
        total_queries: cap on the queries of all images together, in order.
        max_batch: most images the victim is asked at once.
        starts: gives images of all classes, asked once where a targeted attack has a ``pool`` to start from.

    Raises:
        ValueError: a setting out of its range, or targets that an attack on labels alone cannot know.

    Attributes:
        spent: queries of the batches before this one; counts against total_queries.
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
        starts: Callable[[], Pool] | None = None,
    ) -> None:
        super().__init__()
        if budget < 1:
            raise ValueError(f"budget must be at least 1 query an image, got {budget}")
        if total_queries is not None and total_queries < 1:
            raise ValueError(f"total_queries must be at least 1 or null for no cap, got {total_queries}")
        if targeted == "least_likely":
            check_least_likely(targeted, attack.oracle_type)
        self.victim, self.attack, self.num_classes = victim, attack, num_classes
        self.budget, self.seed, self.output, self.targeted = budget, seed, output, targeted
        self.total_queries, self.max_batch, self.starts = total_queries, max_batch, starts
        self.rows_an_image = num_classes - 1 if targeted == "all" else 1
        self.spent = 0

    @property
    def keeps_journal(self) -> bool:
        """See :class:`EvaluationTask`: gradients are not kept."""
        return not issubclass(self.attack.oracle_type, GradientOracle)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> AttackResult:
        """Attack a batch with keys image (B, C, H, W), label (B,) and index (B,).

        Returns:
            B rows; with ``targeted: all`` B x (K - 1), image by image.
        """
        images, labels, indices = batch["image"], batch["label"], batch["index"]
        keys: Tensor = indices
        targets: Tensor | Literal["least_likely"] | None
        if self.targeted == "all":
            targets = wrong_classes(labels, self.num_classes).flatten()
            images, labels, indices = (t.repeat_interleave(self.rows_an_image, 0) for t in (images, labels, indices))
            # Pairs of one image draw apart from each other, and as they do whatever else is in the batch.
            keys = indices * self.num_classes + targets
        else:
            targets = choose_targets(self.targeted, labels, indices, self.num_classes, self.seed)
        if isinstance(self.attack, LabelAttack) and targets is not None and self.attack.pool is None and self.starts:
            self.attack.pool = self.starts()
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
            targets,
            budget=self.budget,
            seed=self.seed,
            indices=keys,
            journal=self.journal,
            progress=self.progress,
        )
        self.spent += int(result.queries.sum())
        return replace(result, indices=indices.cpu())


class CertificationTask(EvaluationTask):
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

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Certificate:
        """Certify a batch with keys image (B, C, H, W) and index (B,).

        Raises:
            ValueError: the victim's first answers tell another number of classes.
        """
        images = batch["image"]
        oracle = VoteOracle(
            self.victim, output=self.output, max_batch=self.max_batch, device=images.device, clamp=False
        )

        def told(done: int, total: int) -> None:
            if oracle.num_classes not in (None, self.num_classes):
                raise ValueError(
                    f"victim {name_of(self.victim)} has {oracle.num_classes} classes, the data has {self.num_classes}: "
                    "choose other data, or a victim with as many classes"
                )
            if self.progress is not None:
                self.progress(ProgressUpdate(queries=done, finished=0, successes=0, total=len(images)))

        return SmoothedClassifier(oracle, self.num_classes, self.sigma).certify(
            images,
            n0=self.n0,
            n=self.n,
            alpha=self.alpha,
            seed=self.seed,
            indices=batch["index"],
            journal=self.journal,
            progress=told,
        )


def check_certification(sigma: float, n0: int, n: int, alpha: float) -> None:
    """Raise ValueError for settings that certify nothing, before anything is built or asked."""
    check_sigma(sigma)
    check_alpha(alpha)
    for field, samples in (("n0", n0), ("n", n)):
        if samples < 1:
            raise ValueError(f"{field} must be at least 1 sample an image, got {samples}")
