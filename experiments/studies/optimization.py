"""Figs. 2 to 11 of ZO-L2L: how fast, and how far, an optimizer brings the loss of black-box attacks down.

Shapes: B images, n of them that the victim gets right, T iterations.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from callbacks.tasks import Victim
from cli import plain_messages
from datamodules import AttackOptimizees
from experiments.studies.image_rows import Row
from experiments.studies.optimizer_study import OptimizerCLI, OptimizerTask
from experiments.studies.problem_rows import problem_rows
from experiments.studies.tuning import check_tuning
from zeroth.optimizers.zeroth_order import ZerothOrder
from zeroth.oracles import GradientOracle, Output, ScoreOracle
from zeroth.oracles.scores import classes_of
from zeroth.problems import AttackProblems

EXAMPLES = """\
Measure an optimizer on attacks of a victim (Ruan et al. 2020): the loss after each iteration, a mean over trials from
different starting points. Its arguments may be tuned on training problems first. study.json and a row an image go to
runs/study/<name>; a killed study goes on with the images left.

examples:
  python -m experiments.studies.optimization --checkpoint best.ckpt --rule ZOSGD --rule.delta 4 --rule.estimator RGE \\
    --rule.estimator.q 20 --rule.estimator.mu 1e-5 --rule.estimator.distribution gaussian \\
    --tuning.values '{delta: [0.01, 0.1, 1, 10, 100, 1000]}' --tuning.line '[0.2, 0.4, 0.6, 0.8, 2, 4, 6, 8]'
"""


class OptimizationTask(OptimizerTask):
    """Runs an optimizer on the attacks of batches of images, those that the victim gets right.

    An image costs its check, and in each trial what the optimizer asks and the loss at the last point; at all points,
    where the optimizer does not ask there. An image of which a trial diverges is left out.

    Args:
        victim: images (N, C, H, W) in [0, 1] -> scores (N, K).
        rule: the optimizer; put into eval mode.
        iterations: T; paper 200.
        trials: of an image, each from a starting point of its own, the same for all optimizers; paper 10.
        c: weight of the distortion; paper .1 for MNIST.
        distortion: its norm; paper l1.
        form: "clamp" or "tanh", see :class:`~zeroth.problems.AttackProblems`.
        size: (h, w) of the perturbation, scaled up bilinearly; None for the image's own.
        start_scale: standard deviation of the starting points.
        seed: with the dataset index it fixes all random draws of an image.
        output: what the victim's scores are.
        max_batch: most images the victim is asked at once.

    Attributes:
        gradients: whether the victim's gradient is asked for in each iteration, to compare estimates with.
    """

    gradients: ClassVar[bool] = False

    def __init__(
        self,
        victim: Victim,
        rule: ZerothOrder,
        *,
        iterations: int = 200,
        trials: int = 10,
        c: float = 0.1,
        distortion: Literal["l1", "l2", "linf"] = "l1",
        form: Literal["clamp", "tanh"] = "clamp",
        size: tuple[int, int] | None = None,
        start_scale: float = 1e-4,
        seed: int = 0,
        output: Output = "logits",
        max_batch: int | None = None,
    ) -> None:
        super().__init__(rule, iterations=iterations, trials=trials, seed=seed)
        self.victim, self.output, self.max_batch = victim, output, max_batch
        attack = {"c": c, "norm": distortion, "form": form, "size": size, "start_scale": start_scale}
        self.settings: dict[str, Any] = attack

    def dimension_of(self, batch: dict[str, Tensor]) -> int:
        """Return d: the pixels of an image, or of the size."""
        return self.dimension(batch["image"].shape[1:])

    def dimension(self, shape: Sequence[int]) -> int:
        """Return d for images (C, H, W)."""
        channels, height, width = shape
        height, width = self.settings["size"] or (height, width)
        return channels * height * width

    def measure(self, batch: dict[str, Tensor]) -> list[Row]:
        """Measure a batch with keys image (B, C, H, W), label (B,) and index (B,): the images that are got right."""
        images, labels, indices = batch["image"], batch["label"], batch["index"]
        kind = GradientOracle if self.gradients else ScoreOracle
        options: dict[str, Any] = {"output": self.output, "max_batch": self.max_batch, "device": images.device}
        oracle = kind(self.victim, unreadable="nan", **options)  # one image does not end the others
        right = (classes_of(oracle(images)) == labels).nonzero()[:, 0].cpu()
        rows: list[Row] = [
            {"index": index, "label": label, "queries": 1}
            for index, label in zip(indices.tolist(), labels.tolist(), strict=True)
        ]
        if len(right) == 0:
            return rows

        def problems(seed: int) -> AttackProblems:
            return AttackProblems(
                oracle, images[right], labels[right], indices=indices[right], seed=seed, **self.settings
            )

        rule = self.rule.to(images.device)
        told = problem_rows(
            rule,
            problems,
            torch.arange(len(right)),
            iterations=self.iterations,
            trials=self.trials,
            seed=self.seed,
            gradients=self.gradients,
        )
        for place, found in zip(right.tolist(), told, strict=True):
            rows[place] |= found | {"queries": 1 + found["queries"]}
        return rows


class OptimizationCLI(OptimizerCLI):
    """Parses, builds and runs the study of an optimizer on attacks."""

    study: ClassVar[str] = "optimization"
    examples = EXAMPLES
    nothing = (
        "the victim gets none of the images right, or a trial of each of them diverged: nothing is left to measure"
    )
    batch_size = 50
    steps = 200
    ends = "A trial that finds no adversarial image counts with all its iterations and queries."
    kind: ClassVar[type[OptimizationTask]] = OptimizationTask
    task: OptimizationTask
    outcome_keys = ("rule", "tuning", "iterations", "trials", "c", "distortion", "form", "size", "start_scale")

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the optimizer and the attack."""
        super().add_job_arguments(parser)
        add = parser.add_argument
        add("--c", type=float, default=0.1, help="weight of the distortion")
        add("--distortion", type=Literal["l1", "l2", "linf"], default="l1", help="norm of the distortion")
        add("--form", type=Literal["clamp", "tanh"], default="clamp", help="how a perturbation is kept in [0, 1]")
        add("--size", type=tuple[int, int] | None, default=None, help="(h, w) of the perturbation, scaled up")
        add("--start_scale", type=float, default=1e-4, help="standard deviation of the starting points")

    def build_task(self, victim: Victim, num_classes: int) -> OptimizationTask:
        """The optimizer on a batch."""
        config = self.config_init
        check_tuning(config.tuning, self.resolved["rule"])
        names = (*self.outcome_keys[2:], "seed", "max_batch")
        return self.kind(
            victim, config.rule, output=self.victim_options.output, **{name: config[name] for name in names}
        )

    def training_problems(self, device: torch.device) -> AttackProblems:
        """Attacks on images of the validation split."""
        config = self.config_init
        attack = {name: config[name] for name in ("c", "form", "size", "start_scale", "max_batch")}
        data = AttackOptimizees(
            config.data,
            self.task.victim,
            norm=config.distortion,
            output=self.victim_options.output,
            train=config.tuning.problems,
            val=1,
            **attack,
        )
        data.prepare_data()
        return data.problems("train", device)

    def dimension(self) -> int:
        """See :class:`OptimizerCLI`."""
        return self.task.dimension(self.config_init.data.image_shape)


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        OptimizationCLI().run()


if __name__ == "__main__":
    main()
