"""Robust accuracy inside fit: the same attack on the same images as attack.py runs."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor

from callbacks.fit_evaluation import FitEvaluation
from callbacks.selection import Selection
from callbacks.tasks import AttackTask, Targets
from zeroth.attacks import Attack, AttackResult


class AttackEvaluation(FitEvaluation):
    """Attacks a few images every n epochs.

    Logs val_attack_success_rate (of the images in play), val_attack_queries (mean queries spent an image in play) and,
    for an untargeted attack, val_robust_accuracy (images that are right and stay so).

    Args:
        attack: the attack.
        every_n_epochs: attack after every n-th epoch.
        images: which images; default 100 of the validation split.
        budget: queries an image may spend.
        seed: fixes all draws; the same in each epoch, so that curves compare.
        targeted: none, next or random.
        batch_size: images attacked together.
    """

    def __init__(
        self,
        attack: Attack,
        *,
        every_n_epochs: int = 1,
        images: Selection = Selection(split="val", count=100),  # noqa: B008  frozen
        budget: int = 1000,
        seed: int = 0,
        targeted: Targets = "none",
        batch_size: int = 100,
    ) -> None:
        super().__init__(every_n_epochs, images, batch_size)
        if budget < 1:
            raise ValueError(f"budget must be at least 1 query an image, got {budget}")
        self.attack, self.budget, self.seed, self.targeted = attack, budget, seed, targeted

    @property
    def sum_names(self) -> list[str]:
        """See :class:`FitEvaluation`."""
        return ["images", "played", "successes", "queries"]

    def start(self, module: LightningModule, num_classes: int) -> AttackTask:
        """See :class:`FitEvaluation`."""
        return AttackTask(
            module, self.attack, num_classes=num_classes, budget=self.budget, seed=self.seed, targeted=self.targeted
        )

    def count(self, prediction: AttackResult, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """See :class:`FitEvaluation`."""
        played = [reason not in ("misclassified", "already_target") for reason in prediction.reason]
        queries = sum(q for q, p in zip(prediction.queries.tolist(), played, strict=True) if p)
        return {
            "images": len(prediction),
            "played": sum(played),
            "successes": int(prediction.success.sum()),
            "queries": queries,
        }

    def scalars(self, sums: Mapping[str, float], images: int) -> dict[str, Any]:
        """See :class:`FitEvaluation`."""
        played = max(sums["played"], 1.0)
        rates = {"val_attack_success_rate": sums["successes"] / played, "val_attack_queries": sums["queries"] / played}
        if self.targeted == "none":  # a targeted attack starts from misclassified images too
            rates["val_robust_accuracy"] = (sums["played"] - sums["successes"]) / images
        return rates
