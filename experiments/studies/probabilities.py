"""Fig. A2(b) of ZO-NGD: how the victim's probabilities fall off, and how far eq. 12 is from eq. 9.

Shapes: B images, n of them measured, R directions, D pixels, K classes, X = min(10, K) labels.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from callbacks.tasks import Victim
from cli import plain_messages
from experiments.studies.study import StudyCLI, StudyTask, curve
from zeroth.estimators import probes, random_directions, slopes
from zeroth.oracles import ImageStreams, ScoreOracle

EXAMPLES = """\
Measure a victim's mean probabilities of its likeliest labels, and how much of the Fisher matrix is the label's own
(Zhao et al. 2020, Fig. A2(b)). study.json goes to runs/study/<name>; with it there, the same command only says so.

examples:
  python -m experiments.studies.probabilities --checkpoint best.ckpt
  python -m experiments.studies.probabilities --checkpoint best.ckpt --correct 200 --samples 20
"""
TOP = 10
PROBABILITY = "mean probability"
NORMS = "norms"
FIGURES = ("distance of eq. 12 from eq. 9 over the norm of eq. 9", "norm of eq. 12 over the norm of eq. 9")
REPORTED = (
    "the correct label usually dominates, on CIFAR-10 and ImageNet, which is to make eq. 12 a reasonable approximation "
    "of eq. 9 (the figure has no numbers)"
)


def fisher_norms(base: Tensor, answers: Tensor, directions: Tensor, labels: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    r"""Compare the Fisher matrix of the label alone with the whole one, both from the same queries.

    The score vectors are :math:`\hat s_k = \frac{D}{R} \sum_j a_{jk} u_j` with slopes :math:`a_{jk}` of
    :math:`\log p_k` (eq. 17), so eq. 12, :math:`\hat s_t \hat s_t^T`, and eq. 9,
    :math:`\sum_k p_k \hat s_k \hat s_k^T`, are both :math:`U^T M U` with an R x R matrix M, and
    :math:`\|U^T M U\|_F^2 = \mathrm{tr}(M G M G)` with :math:`G = U U^T`. D / R cancels.

    Args:
        base: (n, K) log-probabilities of the images.
        answers: (n, R, K) log-probabilities at the probes.
        directions: (n, R, D).
        labels: (n,).
        mu: length of a probe's step, [0, 1] pixels.

    Returns:
        The distance of eq. 12 from eq. 9, and the norm of eq. 12, both (n,), in units of the norm of eq. 9.
    """
    along = slopes(answers, base, mu).double()  # (n, R, K)
    gram = directions.double() @ directions.double().transpose(1, 2)
    own = along.gather(2, labels.reshape(-1, 1, 1).expand(-1, along.shape[1], 1))
    one = own @ own.transpose(1, 2)
    whole = (along * base.double().exp().unsqueeze(1)) @ along.transpose(1, 2)

    def norm(matrix: Tensor) -> Tensor:
        half = matrix @ gram
        return (half * half.transpose(1, 2)).sum((1, 2)).clamp_min(0).sqrt()

    unit = norm(whole).clamp_min(torch.finfo(torch.float64).tiny)  # a victim without any slope: 0 of 0 is 0
    return norm(one - whole) / unit, norm(one) / unit


class ProbabilitiesTask(StudyTask):
    """Measures the first images that the victim gets right.

    Args:
        victim: callable images (N, C, H, W) in [0, 1] -> scores (N, K).
        correct: how many of them; then nothing more is asked.
        samples: R, random directions an image.
        mu: length of a probe's step along its unit direction, [0, 1] pixels.
        options: of :class:`StudyTask`.
    """

    def __init__(self, victim: Victim, *, correct: int, samples: int, mu: float, **options: Any) -> None:
        super().__init__(victim, **options)
        for field, number in (("correct", correct), ("samples", samples)):
            if number < 1:
                raise ValueError(f"{field} must be at least 1, got {number}")
        if not mu > 0:
            raise ValueError(f"mu must be > 0 in [0, 1] pixels, got {mu}")
        self.missing, self.samples, self.mu = correct, samples, mu

    def measure(self, oracle: ScoreOracle, images: Tensor, labels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """Sorted probabilities (n, X), and the two figures of :func:`fisher_norms`, (n, 2); nothing if none is right.

        Asks B images and R for each of the n that are measured.
        """
        if self.missing == 0:
            return {}
        base = oracle(images)
        right = (base.argmax(1) == labels).nonzero().flatten()[: self.missing]
        self.missing -= len(right)
        if len(right) == 0:
            return {}
        images, labels, base = images[right], labels[right], base[right]
        streams = ImageStreams(self.seed, indices[right], oracle.device)
        norms = []
        # Rows are probed together as far as they fill one batch of the victim.
        for rows in torch.arange(len(right), device=oracle.device).split(
            max(1, oracle.batch_size(images) // self.samples)
        ):
            directions = random_directions(partial(streams.randn, rows), self.samples, (images[0].numel(),))
            points = probes(images[rows].flatten(1).unsqueeze(1), directions, self.mu).flatten(0, 1)
            answers = oracle(points.unflatten(1, images.shape[1:])).unflatten(0, (len(rows), self.samples))
            norms.append(torch.stack(fisher_norms(base[rows], answers, directions, labels[rows], self.mu), 1))
        likeliest = base.exp().sort(1, descending=True).values[:, :TOP]
        return {PROBABILITY: likeliest, NORMS: torch.cat(norms)}


class ProbabilitiesCLI(StudyCLI):
    """Parses, builds and runs the study of the probabilities."""

    study = "probabilities"
    examples = EXAMPLES
    batch_size = 100
    outcome_keys = ("correct", "samples", "mu")

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add how many images, and how the Fisher matrix is estimated."""
        parser.add_argument(
            "--correct",
            type=int,
            default=1000,
            help="images: the first of the selected ones that the victim gets right",
        )
        parser.add_argument("--samples", type=int, default=40, help="R, random directions an image")
        parser.add_argument("--mu", type=float, default=1.0, help="length of a probe's step, [0, 1] pixels")

    def build_task(self, victim: Victim, num_classes: int) -> ProbabilitiesTask:
        """Images, then probes around them."""
        config = self.config_init
        return ProbabilitiesTask(
            victim, correct=config.correct, samples=config.samples, mu=config.mu, **self.task_options()
        )

    def measured(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Mean probabilities and norms with intervals over the images.

        Raises:
            ValueError: the victim gets fewer images right than were asked for.
        """
        if (found := len(values[PROBABILITY])) < self.config.correct:
            raise ValueError(
                f"correct is {self.config.correct}, but the victim gets {found} of the {self.data.total} selected "
                "images right: lower --correct or raise --images.count"
            )
        bars, norms = (curve(name, values[name], self.config.seed) for name in (PROBABILITY, NORMS))
        distance, share = (
            {"name": name, "value": norms["values"][place], "low": norms["low"][place], "high": norms["high"][place]}
            for place, name in enumerate(FIGURES)
        )
        return {
            "kind": "bars",
            "x": {"name": "rank of the label", "values": list(range(1, len(bars["values"]) + 1)), "log": False},
            "y": {"name": PROBABILITY},
            "lines": [bars],
            "figures": [distance, share],
            "reported": REPORTED,
            "notes": [
                "The images are classified right, so the first bar is the mean probability of the label.",
                *(
                    f"{told['name']}: {told['value']:.4g} ({told['low']:.4g} to {told['high']:.4g})"
                    for told in (distance, share)
                ),
            ],
        }


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        ProbabilitiesCLI().run()


if __name__ == "__main__":
    main()
