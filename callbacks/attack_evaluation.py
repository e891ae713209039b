"""Robust accuracy inside fit: the same attack on the same images as attack.py runs."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from callbacks.fit_evaluation import FitEvaluation
from callbacks.selection import Selection
from callbacks.tasks import AttackTask, Targets
from zeroth.attacks import Attack, AttackResult
from zeroth.records.summary import OUT_OF_PLAY


class AttackEvaluation(FitEvaluation):
    """Attacks a few images every n epochs.

    Logs val_attack_success_rate (of the images in play), val_attack_queries (mean queries spent an image in play) and,
    for an untargeted attack, val_robust_accuracy (images that are right and stay so). With ``targeted: all`` these are
    over pairs of an image and a wrong class, and val_attack_success_rate_best and _worst are the shares of the images
    in play of which any, and of which every, pair in play was won.

    Args:
        attack: the attack.
        every_n_epochs: attack after every n-th epoch.
        images: which images; default 100 of the validation split.
        budget: queries an image, or a pair, may spend.
        seed: fixes all draws; the same in each epoch, so that curves compare.
        targeted: none, next, random, least_likely or all, as in attack.py.
        batch_size: images, or pairs, attacked together.
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
        return ["images", "played", "successes", "queries", "images_played", "won_any", "won_all"]

    def start(self, module: LightningModule, num_classes: int) -> AttackTask:
        """See :class:`FitEvaluation`."""
        return AttackTask(
            module, self.attack, num_classes=num_classes, budget=self.budget, seed=self.seed, targeted=self.targeted
        )

    def count(self, prediction: AttackResult, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """See :class:`FitEvaluation`."""
        played = torch.tensor([reason not in OUT_OF_PLAY for reason in prediction.reason])
        # Rows of one image stand together, as many for each.
        pairs, won = (mask.reshape(len(batch["index"]), -1) for mask in (played, prediction.success))
        return {
            "images": len(prediction),
            "played": int(played.sum()),
            "successes": int(prediction.success.sum()),
            "queries": int(prediction.queries[played].sum()),
            "images_played": int(pairs.any(1).sum()),
            "won_any": int(won.any(1).sum()),
            "won_all": int((pairs.any(1) & (won | ~pairs).all(1)).sum()),
        }

    def scalars(self, sums: Mapping[str, float], images: int) -> dict[str, Any]:
        """See :class:`FitEvaluation`."""
        played = max(sums["played"], 1.0)
        rates = {"val_attack_success_rate": sums["successes"] / played, "val_attack_queries": sums["queries"] / played}
        if self.targeted == "none":  # a targeted attack starts from misclassified images too
            rates["val_robust_accuracy"] = (sums["played"] - sums["successes"]) / images
        if self.targeted == "all":
            for case, won in (("best", "won_any"), ("worst", "won_all")):
                rates[f"val_attack_success_rate_{case}"] = sums[won] / max(sums["images_played"], 1.0)
        return rates
