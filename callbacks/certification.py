"""Certified accuracy inside fit: the same certification of the same images as certify.py runs."""

from collections.abc import Mapping, Sequence

from pytorch_lightning import LightningModule
from torch import Tensor

from callbacks.fit_evaluation import FitEvaluation
from callbacks.selection import Selection
from callbacks.tasks import CertificationTask, check_certification
from zeroth.smoothing import Certificate


class Certification(FitEvaluation):
    """Certifies a few images every n epochs.

    Logs val_certified_accuracy_r<radius> for each radius ("_" for the point), val_average_certified_radius and
    val_abstained.

    Args:
        sigma: standard deviation of the noise, [0, 1] pixels.
        every_n_epochs: certify after every n-th epoch.
        images: which images; default 50 of the validation split.
        n0: samples that choose the class.
        n: samples that bound its probability.
        alpha: probability that a certificate is wrong.
        radii: l_2 radii at which the certified accuracy is logged.
        seed: fixes all noise; the same in each epoch.
        batch_size: images certified together.
    """

    def __init__(
        self,
        *,
        sigma: float = 0.25,
        every_n_epochs: int = 1,
        images: Selection = Selection(split="val", count=50),  # noqa: B008  frozen
        n0: int = 100,
        n: int = 1000,
        alpha: float = 0.001,
        radii: Sequence[float] = (0.0, 0.25, 0.5),
        seed: int = 0,
        batch_size: int = 50,
    ) -> None:
        super().__init__(every_n_epochs, images, batch_size)
        check_certification(sigma, n0, n, alpha)
        if not radii or min(radii) < 0:
            raise ValueError(f"radii must be one or more numbers >= 0, got {list(radii)}")
        self.sigma, self.n0, self.n, self.alpha, self.radii, self.seed = sigma, n0, n, alpha, tuple(radii), seed

    @property
    def sum_names(self) -> list[str]:
        """See :class:`FitEvaluation`."""
        return [
            *(f"val_certified_accuracy_r{radius_name(radius)}" for radius in self.radii),
            "val_average_certified_radius",
            "val_abstained",
        ]

    def start(self, module: LightningModule, num_classes: int) -> CertificationTask:
        """See :class:`FitEvaluation`."""
        return CertificationTask(
            module, num_classes, sigma=self.sigma, n0=self.n0, n=self.n, alpha=self.alpha, seed=self.seed
        )

    def count(self, prediction: Certificate, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """See :class:`FitEvaluation`."""
        right = prediction.prediction == batch["label"].cpu()
        held = [float((right & (prediction.radius >= radius)).sum()) for radius in self.radii]
        return dict(
            zip(
                self.sum_names,
                [*held, float(prediction.radius[right].sum()), float((prediction.prediction == -1).sum())],
                strict=True,
            )
        )

    def scalars(self, sums: Mapping[str, float], images: int) -> dict[str, float]:
        """See :class:`FitEvaluation`."""
        return {name: value / images for name, value in sums.items()}


def radius_name(radius: float) -> str:
    """Spell a radius without a point: W&B and checkpoint names split at points."""
    return f"{radius:g}".replace(".", "_")
